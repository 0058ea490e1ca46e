// y[t, first + n] = scale * sum over k of x[start + t, k] * W[n, k] (+ y), as gemm, for f16 weights on GPUs that
// multiply matrices of SIDE x SIDE f16 numbers with sums in f32: a subgroup makes some rows of one panel. An element of
// x becomes two f16 numbers, head + tail / 2^10, so that 22 of its bits take part; it may be as large as 2^17. `inner`
// is a multiple of 32.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
#include "layout.wgsl"
// stride: of y
struct Parameters {
  rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32, add: u32, scale: f32,
}
override SUBGROUP: u32; // invocations of a workgroup
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> weights: array<f16>; // as include/weights.wgsl has them
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const DEPTH = 32u; // elements of a row that are staged at once
const TALL = 2u; // matrices above each other
const WIDE = PANEL_COLUMNS / SIDE; // and beside each other
const SHRUNK = 1.0 / 4.0;
const TAIL = 1.0 / 1024.0;
alias Left = subgroup_matrix_left<f16, SIDE, SIDE>;
alias Right = subgroup_matrix_right<f16, SIDE, SIDE>;
alias Sums = subgroup_matrix_result<f32, SIDE, SIDE>;

var<workgroup> heads: array<f16, TALL * SIDE * DEPTH>;
var<workgroup> tails: array<f16, TALL * SIDE * DEPTH>;
var<workgroup> whole: array<f32, SIDE * SIDE>;
var<workgroup> rest: array<f32, SIDE * SIDE>;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = wid.y * TALL * SIDE;
  let panel = wid.x * p.inner * PANEL_COLUMNS;
  var a: array<Sums, TALL * WIDE>;
  var b: array<Sums, TALL * WIDE>;
  for (var k = 0u; k < p.inner; k += DEPTH) {
    workgroupBarrier();
    for (var i = lane; i < TALL * SIDE * DEPTH; i += SUBGROUP) {
      // Rows past the end read the last one, and store nothing.
      let value = SHRUNK * x[(p.start + min(row + i / DEPTH, p.rows - 1u)) * p.inner + k + i % DEPTH];
      // Cut on bits: compilers take f32(f16(value)) for the value. What f16 has no normal number for is all tail.
      let head = select(0.0, bitcast<f32>(bitcast<u32>(value) & 0xffffe000u), abs(value) >= 0x1p-14);
      heads[i] = f16(head);
      tails[i] = f16((value - head) / TAIL);
    }
    workgroupBarrier();
    for (var s = 0u; s < DEPTH; s += SIDE) {
      var head: array<Left, TALL>;
      var tail: array<Left, TALL>;
      for (var r = 0u; r < TALL; r++) {
        head[r] = subgroupMatrixLoad<Left, row_major>(&heads, r * SIDE * DEPTH + s, DEPTH);
        tail[r] = subgroupMatrixLoad<Left, row_major>(&tails, r * SIDE * DEPTH + s, DEPTH);
      }
      for (var c = 0u; c < WIDE; c++) {
        let at = panel + (k + s) * PANEL_COLUMNS + c * SIDE;
        let w = subgroupMatrixLoad<Right, row_major>(&weights, at, PANEL_COLUMNS);
        for (var r = 0u; r < TALL; r++) {
          let m = r * WIDE + c;
          a[m] = subgroupMatrixMultiplyAccumulate(head[r], w, a[m]);
          b[m] = subgroupMatrixMultiplyAccumulate(tail[r], w, b[m]);
        }
      }
    }
  }
  for (var m = 0u; m < TALL * WIDE; m++) {
    workgroupBarrier();
    subgroupMatrixStore<row_major>(&whole, 0u, a[m], SIDE);
    subgroupMatrixStore<row_major>(&rest, 0u, b[m], SIDE);
    workgroupBarrier();
    for (var i = lane; i < SIDE * SIDE; i += SUBGROUP) {
      let r = row + m / WIDE * SIDE + i / SIDE;
      let c = wid.x * PANEL_COLUMNS + m % WIDE * SIDE + i % SIDE;
      if (r >= p.rows || c >= p.columns) { continue; }
      let out = r * p.stride + p.first + c;
      let value = p.scale * ((whole[i] + rest[i] * TAIL) / SHRUNK);
      y[out] = select(value, y[out] + value, p.add != 0u);
    }
  }
}
