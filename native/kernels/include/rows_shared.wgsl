// Rows of X [.., width], COLUMNS vectors of each, for devices with subgroups of at least 4: neighbours read one or two
// each, because on a CPU a read costs many times what a product does. What includes it has `x`.
override SUBGROUP: u32; // invocations of a workgroup
override SHARE: u32 = min(8u, SUBGROUP);
const COLUMNS = 8u;
struct Row { low: vec4f, high: vec4f }

fn read_row(k: u32, inner: u32, first: u32, width: u32, neighbour: u32) -> Row {
  let at = min(k, inner - 1u) * width;
  let own = first + neighbour % SHARE;
  let low = select(vec4f(), x[at + min(own, width - 1u)], k < inner);
  if (SHARE == COLUMNS) { return Row(low, low); }
  return Row(low, select(vec4f(), x[at + min(own + SHARE, width - 1u)], k < inner));
}

// Its vector `c`; zero past the end.
fn of_row(row: Row, c: u32) -> vec4f {
  if (SHARE == COLUMNS || c < SHARE) { return subgroupShuffle(row.low, c); }
  return subgroupShuffle(row.high, c - SHARE);
}
