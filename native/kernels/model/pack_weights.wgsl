// Transposes a matrix [out, in], packed as in a checkpoint, into what include/weights.wgsl reads: [in, out] in panels.
// An invocation writes one word of some neighbouring columns (inputs): an F32 element, or two rows of a 16-bit type.
// Where rows are whole vectors it takes a vector of a row: 4 columns of F32, 8 of others. Neighbours in x read on in
// the same rows.
struct Parameters { rows: u32, columns: u32, words: u32 } // of the source; words of a row of all panels
#include "layout.wgsl"
override DTYPE: u32;
override VECTORS: u32; // whether rows are whole vectors
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> source: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> packed: array<u32>;

fn half(row: u32, column: u32) -> u32 {
  if (row >= p.rows) { return 0u; }
  let i = row * p.columns + column;
  return (source[i / 8u][i / 2u % 4u] >> (16u * (i % 2u))) & 0xffffu;
}

fn vector(row: u32, place: u32, each: u32) -> vec4u {
  if (row >= p.rows) { return vec4u(); }
  return source[row * (p.columns / each) + place];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let place = group.x;
  let word = 64u * group.y + lane;
  if (word >= p.words) { return; }
  let panel = select(PANEL_COLUMNS / 2u, PANEL_COLUMNS, DTYPE == DTYPE_F32);
  let first = word / panel * p.columns * panel + word % panel;
  if (VECTORS == 0u) {
    var bits = 0u;
    if (DTYPE != DTYPE_F32) {
      bits = half(2u * word, place) | (half(2u * word + 1u, place) << 16u);
    } else if (word < p.rows) {
      let i = word * p.columns + place;
      bits = source[i / 4u][i % 4u];
    }
    packed[first + place * panel] = bits;
  } else if (DTYPE == DTYPE_F32) {
    let row = vector(word, place, 4u);
    for (var k = 0u; k < 4u; k++) { packed[first + (4u * place + k) * panel] = row[k]; }
  } else {
    let low = vector(2u * word, place, 8u);
    let high = vector(2u * word + 1u, place, 8u);
    let even = (low & vec4u(0xffffu)) | (high << vec4u(16u));
    let odd = (low >> vec4u(16u)) | (high & vec4u(0xffff0000u));
    for (var k = 0u; k < 4u; k++) {
      packed[first + (8u * place + 2u * k) * panel] = even[k];
      packed[first + (8u * place + 2u * k + 1u) * panel] = odd[k];
    }
  }
}
