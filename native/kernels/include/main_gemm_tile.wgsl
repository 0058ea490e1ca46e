// gemm for many rows on a CPU with subgroups of at least 8, such as lavapipe: an invocation makes 32 rows of one vec8
// of columns, 8 of them a variable. Neighbours read x for each other, as in main_gemm_rows.wgsl, but two elements a
// turn: what a turn does has to fit the cache of instructions, and loads cost more than products. `inner` is even.
enable subgroups;
diagnostic(off, subgroup_uniformity);
// stride: of y
struct Parameters {
  rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32, add: u32, scale: f32,
}
#include "packed.wgsl"
override SUBGROUP: u32; // invocations of a workgroup
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> x: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const SHARE = 8u; // neighbours that share what they read of x
struct Sums { a: array<vec4f, SHARE>, b: array<vec4f, SHARE> }

// Rows past the end read the last one, and store nothing.
fn begin(row: u32) -> u32 { return (p.start + min(row, p.rows - 1u)) * (p.inner / 2u); }

fn add(sums: ptr<function, Sums>, mine: vec2f, v: Vec8, w: Vec8) {
  for (var r = 0u; r < SHARE; r++) {
    let u = subgroupShuffle(mine, r);
    (*sums).a[r] += u.x * v.a + u.y * w.a;
    (*sums).b[r] += u.x * v.b + u.y * w.b;
  }
}

fn put(sums: ptr<function, Sums>, row: u32, column: u32) {
  for (var r = 0u; r < SHARE; r++) {
    if (row + r < p.rows) {
      let out = (row + r) * p.stride + p.first + column;
      for (var i = 0u; i < 8u && column + i < p.columns; i++) {
        let value = p.scale * select((*sums).a[r][i % 4u], (*sums).b[r][i % 4u], i >= 4u);
        y[out + i] = select(value, y[out + i] + value, p.add != 0u);
      }
    }
  }
}

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_invocation_id) neighbour: u32) {
  let vec8s = (p.columns + 7u) / 8u;
  let column = wid.x * SUBGROUP + lane;
  let row = wid.y * 4u * SHARE;
  // Columns past the end read the last ones, and store nothing.
  let own = min(column, vec8s - 1u);
  let at0 = begin(row + neighbour % SHARE);
  let at1 = begin(row + SHARE + neighbour % SHARE);
  let at2 = begin(row + 2u * SHARE + neighbour % SHARE);
  let at3 = begin(row + 3u * SHARE + neighbour % SHARE);
  var sums0 = Sums();
  var sums1 = Sums();
  var sums2 = Sums();
  var sums3 = Sums();
  for (var k = 0u; k < p.inner / 2u; k++) {
    let v = vec8(vec8_at(own, 2u * k, p.inner));
    let w = vec8(vec8_at(own, 2u * k + 1u, p.inner));
    add(&sums0, x[at0 + k], v, w);
    add(&sums1, x[at1 + k], v, w);
    add(&sums2, x[at2 + k], v, w);
    add(&sums3, x[at3 + k], v, w);
  }
  if (column >= vec8s) { return; }
  put(&sums0, row, 8u * column);
  put(&sums1, row + SHARE, 8u * column);
  put(&sums2, row + 2u * SHARE, 8u * column);
  put(&sums3, row + 3u * SHARE, 8u * column);
}
