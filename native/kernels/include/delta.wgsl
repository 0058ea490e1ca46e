// The difference of a model from the base, and its magnitude as an integer key. Selection compares keys, not floats:
// integer order is the same on every device. Keys count from 1, so that 0 can stand for "no element".

fn delta(x: vec4f, base: vec4f) -> vec4f { return bitcast<vec4f>(flush(bitcast<vec4u>(x - base))); }

// NaN is made equal to Inf: its payload bits differ between devices.
fn magnitude(d: vec4f) -> vec4u {
  return min(bitcast<vec4u>(d) & vec4u(0x7fffffffu), vec4u(0x7f800000u)) + vec4u(1u);
}

fn live4(live: u32, first: u32) -> vec4<bool> {
  return (vec4u(first) + vec4u(0u, 1u, 2u, 3u)) < vec4u(live);
}
