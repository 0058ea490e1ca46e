// Optimal brain surgeon on a block of columns, a row of the matrix an invocation. From left to right, what a pruned
// weight gave is made up for by the weights to its right: e = w_j / U_jj, w_k -= e U_jk for k > j, and e is left for
// the columns past the block (kernel `sparsegpt_update`). The matrix is transposed: w[in, rows]. `u`: rows first ..
// first + count of U, upper. `mask`: 1 where a weight stays, [count, rows]; with `of` > 0 of each `of` columns the
// `stay` with the largest (w / U_jj)^2 stay instead, of equal ones the last.
struct Parameters { rows: u32, inputs: u32, first: u32, count: u32, stay: u32, of_: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read> mask: array<u32>;
@group(0) @binding(3) var<storage, read_write> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> errors: array<f32>;

fn score(row: u32, j: u32) -> f32 {
  let x = w[(p.first + j) * p.rows + row] / u[j * p.inputs + p.first + j];
  return x * x;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  if (row >= p.rows) { return; }
  var stays = 0u; // a bit a column of the pattern at hand
  for (var j = 0u; j < p.count; j++) {
    if (p.of_ > 0u && j % p.of_ == 0u) {
      stays = 0u;
      for (var a = 0u; a < p.of_; a++) {
        let mine = score(row, j + a);
        var above = 0u;
        for (var b = 0u; b < p.of_; b++) {
          let other = score(row, j + b);
          if (other > mine || (other == mine && b > a)) { above += 1u; }
        }
        if (above < p.stay) { stays |= 1u << a; }
      }
    }
    let at = (p.first + j) * p.rows + row;
    var kept = false;
    if (p.of_ > 0u) { kept = ((stays >> (j % p.of_)) & 1u) == 1u; } else { kept = mask[j * p.rows + row] == 1u; }
    var e = 0.0;
    if (!kept) {
      e = w[at] / u[j * p.inputs + p.first + j];
      w[at] = 0.0;
      for (var k = j + 1u; k < p.count; k++) {
        w[(p.first + k) * p.rows + row] -= e * u[j * p.inputs + p.first + k];
      }
    }
    errors[j * p.rows + row] = e;
  }
}
