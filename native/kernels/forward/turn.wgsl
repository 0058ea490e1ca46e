// Turns a matrix [out, in], packed as in a checkpoint, into what include/weights.wgsl reads: [in, out] in panels.
// One invocation writes one word: an F32 element, or two neighbouring columns of a 16-bit type.
struct Parameters { rows: u32, columns: u32, words: u32 } // of the source; words of a row of all panels
override DTYPE: u32;
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> turned: array<u32>;

fn half(row: u32, column: u32) -> u32 {
  if (row >= p.rows) { return 0u; }
  let i = row * p.columns + column;
  return (source[i / 2u] >> (16u * (i % 2u))) & 0xffffu;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let word = id.x;
  let column = id.y;
  if (word >= p.words) { return; }
  var bits = 0u;
  if (DTYPE != 0u) {
    bits = half(2u * word, column) | (half(2u * word + 1u, column) << 16u);
  } else if (word < p.rows) {
    bits = source[word * p.columns + column];
  }
  let panel = select(32u, 64u, DTYPE == 0u);
  turned[(word / panel * p.columns + column) * panel + word % panel] = bits;
}
