// Weights on any device.
#include "packed.wgsl"

fn halves(word: u32) -> vec2f { return unpack2x16float(word); }
