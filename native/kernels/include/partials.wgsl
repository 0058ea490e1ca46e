// What kernels share that write partial results: a block has 64 rows of 32 consecutive elements.

@group(0) @binding(1) var<storage, read_write> output: array<u32>;

const ROWS = 64u;
const ROW_VEC8S = 4u;

fn sum4(v: vec4f) -> f32 { return (v.x + v.y) + (v.z + v.w); }

// Elements past the end of the tensor read as zero.
fn load_live_from(p: Place, source: u32) -> Vec8 { return live(p, load_from(source, p.vec8)); }

fn live(p: Place, v: Vec8) -> Vec8 {
  var x = v;
  if (p.live < 8u) {
    x.a = select(vec4f(0.0), x.a, vec4u(0u, 1u, 2u, 3u) < vec4u(p.live));
    x.b = select(vec4f(0.0), x.b, vec4u(4u, 5u, 6u, 7u) < vec4u(p.live));
  }
  return x;
}

fn load_live(p: Place, i: u32) -> Vec8 { return load_live_from(p, source(p, i)); }

// Keeps a product of two vectors apart from the addition that follows it (see `prod`).
fn exact4(v: vec4f) -> vec4f { return bitcast<vec4f>(bitcast<vec4u>(v) ^ vec4u(zero)); }
