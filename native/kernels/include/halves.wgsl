// The same numbers as in include/weights.wgsl by the device's own f16: on a CPU one instruction in the place of
// several.
fn halves(word: u32) -> vec2f { return vec2f(bitcast<vec2h>(word)); }
