// y[n, id + offset] += scale * the sum of rows of g whose token has the id, or the position: the gradient of a table
// that kernel get_rows read, f32 and as gemm reads matrices. Tokens of one id are a bucket, so that no two workgroups
// write to one place: `list` has (id, first, end) of `rows` buckets, then rows of g, which first and end count. For
// rows from `first` of the table on, `held` of them.
struct Parameters { rows: u32, width: u32, first: u32, held: u32, offset: u32, scale: f32 }
#include "layout.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> list: array<u32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn each(bucket: u32, lane: u32) {
  let id = list[3u * bucket] + p.offset;
  if (id < p.first || id - p.first >= p.held) { return; }
  let n = id - p.first;
  for (var d = lane; d < p.width; d += LANES) {
    var sum = 0.0;
    for (var i = list[3u * bucket + 1u]; i < list[3u * bucket + 2u]; i++) {
      sum += g[list[3u * p.rows + i] * p.width + d];
    }
    y[(n / PANEL_COLUMNS * p.width + d) * PANEL_COLUMNS + n % PANEL_COLUMNS] += p.scale * sum;
  }
}
