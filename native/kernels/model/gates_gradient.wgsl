// From the gradient g of gates that kernel `gates` has made to those of its logits and of its spread.
struct Parameters { experts: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> gates: array<f32>;
@group(0) @binding(2) var<storage, read> spread: array<f32>;
@group(0) @binding(3) var<storage, read> noise: array<f32>;
@group(0) @binding(4) var<storage, read> g: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read_write> z: array<f32>;

@compute @workgroup_size(1)
fn main() {
  var mean = 0.0;
  for (var e = 0u; e < p.experts; e++) {
    if (gates[p.experts + e] == 1.0) { mean += gates[e] * g[e]; }
  }
  for (var e = 0u; e < p.experts; e++) {
    let of_noisy = select(0.0, gates[e] * (g[e] - mean), gates[p.experts + e] == 1.0);
    y[e] = of_noisy;
    z[e] = of_noisy * noise[e] / (1.0 + exp(-spread[e]));
  }
}
