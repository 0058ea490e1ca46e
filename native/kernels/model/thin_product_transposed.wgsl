// Z += D^T X, of rows of D [rows, outer] and those of a thin X [.., width]: z[j, c] += sum_r d[r, j] x[first + r, c]. An
// invocation has four columns of two rows of Z. Sums are taken over runs of 64 terms, and those added in order, so that
// tiles of whole runs give what one tile would.
struct Parameters { rows: u32, outer: u32, width: u32, first: u32 } // width in vectors; row of X that goes with row 0
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> d: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> z: array<vec4f>;

const RUN = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let index = 64u * (group.x + group.y * groups.x) + lane;
  let row = 2u * (index / p.width);
  let column = index % p.width;
  if (row >= p.outer) { return; }
  let second = min(row + 1u, p.outer - 1u);
  let here = row * p.width + column;
  let next = second * p.width + column;
  var total = array<vec4f, 2>(z[here], z[next]);
  for (var begin = 0u; begin < p.rows; begin += RUN) {
    var one = vec4f();
    var two = vec4f();
    let end = min(p.rows, begin + RUN);
    for (var r = begin; r < end; r++) {
      let v = x[(p.first + r) * p.width + column];
      one += d[r * p.outer + row] * v;
      two += d[r * p.outer + second] * v;
    }
    total[0] += one;
    total[1] += two;
  }
  z[here] = total[0];
  if (second != row) { z[next] = total[1]; }
}
