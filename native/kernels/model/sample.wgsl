// best[start + t] = an id drawn from softmax(logits[t] / temperature) over what top-k and then top-p leave: the `top_k`
// largest logits (0: all; equals of the last one stay too), and of these the fewest largest whose probabilities reach
// `top_p`. The number that draws is Philox at counter (step, sample, sequence, 0) keyed by the seed, so that what is
// drawn does not depend on the batch. A temperature of 0 keeps what kernel `cross_entropy` found. A row a workgroup.
struct Parameters { rows: u32, width: u32, start: u32 }
#include "layout.wgsl"
#include "main_rows.wgsl"
#include "philox.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> draws: array<Sampling>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> best: array<u32>;

const LOWEST = -3.0e38;
var<workgroup> parts: array<f32, LANES>;

// Bits whose order is that of the numbers.
fn key_of(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

// How much of a row is not below `key`: how many elements, or what they weigh.
fn above(base: u32, lane: u32, key: u32, weigh: bool, scale: f32, largest: f32) -> f32 {
  var sum = 0.0;
  for (var i = lane; i < p.width; i += LANES) {
    let value = logits[base + i];
    if (key_of(value) >= key) { sum += select(1.0, exp((value - largest) * scale), weigh); }
  }
  return sum_all(sum, lane);
}

// The largest key from `least` on that leaves at least `goal`.
fn cut(base: u32, lane: u32, least: u32, goal: f32, weigh: bool, scale: f32, largest: f32) -> u32 {
  var low = least;
  var high = key_of(largest) + 1u; // leaves nothing
  while (high - low > 1u) {
    let middle = low + (high - low) / 2u;
    if (above(base, lane, middle, weigh, scale, largest) >= goal) { low = middle; } else { high = middle; }
  }
  return low;
}

fn each(row: u32, lane: u32) {
  let base = row * p.width;
  let draw = draws[p.start + row];
  if (draw.temperature == 0.0) { return; }
  let scale = 1.0 / draw.temperature;
  var mine = LOWEST;
  for (var i = lane; i < p.width; i += LANES) { mine = max(mine, logits[base + i]); }
  let largest = max_all(mine, lane);
  var least = 0u;
  if (draw.top_k > 0u && draw.top_k < p.width) { least = cut(base, lane, 0u, f32(draw.top_k), false, scale, largest); }
  if (draw.top_p < 1.0) {
    let all = above(base, lane, least, true, scale, largest);
    least = cut(base, lane, least, draw.top_p * all, true, scale, largest);
  }
  // Every invocation weighs a stretch of neighbours, and the first one finds the stretch and the id where the number
  // falls.
  let stretch = (p.width + LANES - 1u) / LANES;
  var sum = 0.0;
  for (var i = lane * stretch; i < min((lane + 1u) * stretch, p.width); i++) {
    let value = logits[base + i];
    if (key_of(value) >= least) { sum += exp((value - largest) * scale); }
  }
  parts[lane] = sum;
  workgroupBarrier();
  if (lane != 0u) { return; }
  var total = 0.0;
  for (var l = 0u; l < LANES; l++) { total += parts[l]; }
  let counter = vec4u(draw.step, draw.sample, draw.sequence, 0u);
  let number = f32(philox(counter, vec2u(draw.seed_low, draw.seed_high)).x >> 8u) / 16777216.0;
  let goal = number * total;
  var chosen = 0u;
  var before = 0.0;
  var reached = 0.0;
  for (var l = 0u; l < LANES && reached <= goal; l++) {
    if (parts[l] == 0.0) { continue; }
    chosen = l;
    before = reached;
    reached += parts[l];
  }
  // Where rounding leaves nothing past the goal, the last id that is kept is it.
  var found = 0u;
  var left = goal - before;
  for (var i = chosen * stretch; i < min((chosen + 1u) * stretch, p.width) && left >= 0.0; i++) {
    let value = logits[base + i];
    if (key_of(value) < least) { continue; }
    found = i;
    left -= exp((value - largest) * scale);
  }
  best[p.start + row] = found;
}
