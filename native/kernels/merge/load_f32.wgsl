// Loads f32 elements that a CPU step gives, and stores them; the inputs are not looked at.
// Coefficients: see include/lines.wgsl, with rows of one element: one a line.
#include "main_vec8.wgsl"
#include "lines.wgsl"

fn merge(p: Place) {
  let last = 8u * p.vec8 + p.live - 1u;
  let first = vec4u(8u * p.vec8);
  let a = min(first + vec4u(0u, 1u, 2u, 3u), vec4u(last));
  let b = min(first + vec4u(4u, 5u, 6u, 7u), vec4u(last));
  store(p, Vec8(line_coef4(p, a, 1u, 0u), line_coef4(p, b, 1u, 0u)));
}
