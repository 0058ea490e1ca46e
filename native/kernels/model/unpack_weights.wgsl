// The way back from what kernel pack_weights makes: a tensor [rows, columns] as a checkpoint stores it. An invocation
// writes one word, an F32 element or two of a 16-bit type.
struct Parameters { rows: u32, columns: u32, words: u32 } // words of the result
#include "weights.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

// The bits of element i of the result.
fn bits(i: u32) -> u32 {
  let at = 8u * vec8_at(i / p.columns / 8u, i % p.columns, p.columns) + i / p.columns % 8u;
  if (DTYPE == DTYPE_F32) { return weights[at / 4u][at % 4u]; }
  return (weights[at / 8u][at % 8u / 2u] >> (16u * (at % 2u))) & 0xffffu;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let word = (wid.x + wid.y * nwg.x) * 64u + lane;
  if (word >= p.words) { return; }
  if (DTYPE == DTYPE_F32) {
    y[word] = bits(word);
    return;
  }
  var both = bits(2u * word);
  if (2u * word + 1u < p.rows * p.columns) { both |= bits(2u * word + 1u) << 16u; }
  y[word] = both;
}
