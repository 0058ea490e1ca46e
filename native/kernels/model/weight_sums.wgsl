// Sums of a linear, a workgroup an input i: y[i] += (sum |W[o, i]|, sum W[o, i]^2) over the rows o of a
// block; or, where `by_output` is not 0, a workgroup a row of it, over all inputs. The first sums go to y from line
// `first` on.
struct Parameters { rows: u32, width: u32, by_output: u32, first: u32 } // rows: lines that are summed, width: of one
#include "weights.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read_write> y: array<WeightSums>;

fn each(line: u32, lane: u32) {
  let outputs = p.by_output != 0u;
  var size = 0.0;
  var squares = 0.0;
  for (var i = lane; i < p.width; i += LANES) {
    let w = element_at(select(i, line, outputs), select(line, i, outputs), select(p.rows, p.width, outputs));
    size += abs(w);
    squares += w * w;
  }
  let sums = vec2f(sum_all(size, lane), sum_all(squares, lane));
  if (lane != 0u) { return; }
  y[p.first + line].absolute += sums.x;
  y[p.first + line].squares += sums.y;
}
