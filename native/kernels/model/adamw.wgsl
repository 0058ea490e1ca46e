// A step of AdamW (Loshchilov and Hutter 2019, as torch.optim.AdamW): with c = clip * gradient, m = beta1 m + fresh1 c,
// v = beta2 v + fresh2 c^2, x = kept x - rate (m / correction1) / (sqrt(v / correction2) + eps). The caller gives
// fresh = 1 - beta, kept = 1 - rate * decay and correction = 1 - beta^step, taken in float64.
struct Parameters {
  vec4s: u32, clip: f32, rate: f32, kept: f32, beta1: f32, fresh1: f32, correction1: f32,
  beta2: f32, fresh2: f32, correction2: f32, eps: f32,
}
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> v: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (wid.x + wid.y * nwg.x) * 64u + lane;
  if (i >= p.vec4s) { return; }
  let c = p.clip * gradient[i];
  let first = p.beta1 * m[i] + p.fresh1 * c;
  let second = p.beta2 * v[i] + p.fresh2 * c * c;
  m[i] = first;
  v[i] = second;
  x[i] = p.kept * x[i] - p.rate * (first / p.correction1) / (sqrt(second / p.correction2) + p.eps);
}
