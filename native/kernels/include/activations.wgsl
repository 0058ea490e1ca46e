// The functions between the matrices of an MLP, by KIND; quick_gelu is gelu by a sigmoid.
#include "layout.wgsl"
override KIND: u32;

// Below -80 it is zero beside anything in f32, while exp would overflow.
fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(-max(x, -80.0))); }

// Rational approximation on [-4, 4], outside of which erf is 1 in f32.
fn erf(value: f32) -> f32 {
  let x = clamp(value, -4.0, 4.0);
  let s = x * x;
  var p = -2.72614225801306e-10;
  p = p * s + 2.77068142495902e-8;
  p = p * s - 2.10102402082508e-6;
  p = p * s - 5.69250639462346e-5;
  p = p * s - 7.34990630326855e-4;
  p = p * s - 2.95459980854025e-3;
  p = p * s - 1.60960333262415e-2;
  var q = -1.45660718464996e-5;
  q = q * s - 2.13374055278905e-4;
  q = q * s - 1.68282697438203e-3;
  q = q * s - 7.37332916720468e-3;
  q = q * s - 1.42647390514189e-2;
  return x * p / q;
}

fn activate(x: f32) -> f32 {
  switch KIND {
    case ACTIVATION_SILU: { return x * sigmoid(x); }
    case ACTIVATION_GELU: { return 0.5 * x * (1.0 + erf(x * 0.70710678118654752)); }
    // 0.5 (1 + tanh(u)) is the sigmoid of 2u; u = sqrt(2 / pi) (x + 0.044715 x^3).
    case ACTIVATION_GELU_TANH: { return x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x)); }
    case ACTIVATION_QUICK_GELU: { return x * sigmoid(1.702 * x); }
    default: { return max(x, 0.0); }
  }
}

fn activated(v: vec4f) -> vec4f { return vec4f(activate(v.x), activate(v.y), activate(v.z), activate(v.w)); }
