// y[first + n] = the norm of row n of W + scale B A, for DoRA: a row an invocation, which makes the elements of the
// product 8 columns at a time. A is held as its transpose, and may be in blocks of columns `begin` to `begin + count`
// of W, one a dispatch: sums of squares are added up (`add`), and the last one takes the root (`last`).
// skip, other: rows of the blocks of W and of B that go with row 0
struct Parameters {
  rows: u32, inner: u32, rank: u32, skip: u32, other: u32, first: u32, begin: u32, count: u32, add: u32, last: u32,
  scale: f32,
}
#include "weights.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> a: array<vec4f>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let n = (wid.x + wid.y * nwg.x) * 64u + lane;
  if (n >= p.rows) { return; }
  let row = p.other + n;
  let own = row / PANEL_COLUMNS * p.rank * PANEL_COLUMNS + row % PANEL_COLUMNS;
  var total = 0.0;
  for (var k = 0u; k < p.count; k += 8u) {
    let panel = k / PANEL_COLUMNS * p.rank;
    var low = vec4f();
    var high = vec4f();
    for (var r = 0u; r < p.rank; r++) {
      let at = ((panel + r) * PANEL_COLUMNS + k % PANEL_COLUMNS) / 4u;
      let factor = b[own + r * PANEL_COLUMNS];
      low += factor * a[at];
      high += factor * a[at + 1u];
    }
    var sum = 0.0;
    for (var j = 0u; j < 8u && k + j < p.count; j++) {
      let product = select(low[j % 4u], high[j % 4u], j >= 4u);
      let value = element_at(p.skip + n, p.begin + k + j, p.inner) + p.scale * product;
      sum += value * value;
    }
    total += sum;
  }
  let all = select(total, y[p.first + n] + total, p.add != 0u);
  y[p.first + n] = select(all, sqrt(all), p.last != 0u);
}
