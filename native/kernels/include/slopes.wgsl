// Derivatives of the functions of include/activations.wgsl.
#include "activations.wgsl"

fn slope(x: f32) -> f32 {
  switch KIND {
    case ACTIVATION_SILU: {
      let s = sigmoid(x);
      return s * (1.0 + x * (1.0 - s));
    }
    // The normal distribution and x times its density, which is 0 in f32 long before exp could underflow.
    case ACTIVATION_GELU: {
      let near = clamp(x, -12.0, 12.0);
      return 0.5 * (1.0 + erf(x * 0.70710678118654752)) + near * 0.39894228040143268 * exp(-0.5 * near * near);
    }
    case ACTIVATION_GELU_TANH: {
      let near = clamp(x, -16.0, 16.0);
      let s = sigmoid(1.5957691216057308 * (near + 0.044715 * near * near * near));
      return s + near * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * near * near);
    }
    case ACTIVATION_QUICK_GELU: {
      let s = sigmoid(1.702 * x);
      return s + 1.702 * x * s * (1.0 - s);
    }
    default: { return select(0.0, 1.0, x > 0.0); }
  }
}

fn slopes(v: vec4f) -> vec4f { return vec4f(slope(v.x), slope(v.y), slope(v.z), slope(v.w)); }
