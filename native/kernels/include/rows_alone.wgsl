// Rows of X [.., width], COLUMNS vectors of each: every invocation reads its own. What includes it has `x`.
override SUBGROUP: u32 = 64u; // invocations of a workgroup
const COLUMNS = 8u;
struct Row { at: u32, first: u32, last: u32, live: bool }

fn read_row(k: u32, inner: u32, first: u32, width: u32, neighbour: u32) -> Row {
  return Row(min(k, inner - 1u) * width, first, width - 1u, k < inner);
}

// Its vector `c`; zero past the end.
fn of_row(row: Row, c: u32) -> vec4f { return select(vec4f(), x[row.at + min(row.first + c, row.last)], row.live); }
