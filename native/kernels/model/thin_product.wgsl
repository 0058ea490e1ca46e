// Y = D X, of rows of D [rows, inner] and a thin X [inner, width]: y[r, c] = sum_j d[r, j] x[j, c]. An invocation has
// four columns of two rows. Sums are taken over runs of 64 terms, and those added in order.
struct Parameters { rows: u32, inner: u32, width: u32, first: u32 } // width in vectors; first row of Y that is written
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> d: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

const RUN = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let index = 64u * (group.x + group.y * groups.x) + lane;
  let row = 2u * (index / p.width);
  let column = index % p.width;
  if (row >= p.rows) { return; }
  let second = min(row + 1u, p.rows - 1u);
  var total = array<vec4f, 2>();
  for (var begin = 0u; begin < p.inner; begin += RUN) {
    var one = vec4f();
    var two = vec4f();
    let end = min(p.inner, begin + RUN);
    for (var j = begin; j < end; j++) {
      let v = x[j * p.width + column];
      one += d[row * p.inner + j] * v;
      two += d[second * p.inner + j] * v;
    }
    total[0] += one;
    total[1] += two;
  }
  y[(p.first + row) * p.width + column] = total[0];
  if (second != row) { y[(p.first + second) * p.width + column] = total[1]; }
}
