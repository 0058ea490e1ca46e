// How far the softmax of every row of a model (input 1) lies from that of the base (input 0).
// STAGE 0: what the softmaxes are divided by. Words a slot: t = the largest entry and sum exp(entry - t), of the base,
// then of the model; then by how much the model's sum is larger, sum exp(b - t) (exp(x - b) - 1) with t of the base:
// small differences keep their digits there. The first word is Inf where an entry is not finite, the last one where an
// entry differs by more than 1.
// STAGE 1: the Kullback-Leibler divergence, sum p log(p / q) with p = softmax(x) + eps, q = softmax(b) + eps. As p and
// q have one sum, it is that of p (z - log(1 + z)) with z = q / p - 1, whose terms do not cancel. Words a slot: the
// sum. Coefficients: see include/lines.wgsl; in STAGE 1 a row has log sum exp(x), and how much more that is than log
// sum exp(b). Slot s of a block is its s-th row.
#include "tile.wgsl"
#include "partials.wgsl"
#include "lines.wgsl"
#include "exponential.wgsl"

override STAGE: u32 = 0u;
const CHUNK = 32u;       // elements of long rows taken at once: they lie in two rows at most
const CHUNKS = 64u;      // a block
const LOWEST = -3.0e38;
const EPS = 1e-8;

// Of some elements of a row: the words of STAGE 0 and which of them are Inf, or in STAGE 1 the sum. (base, model)
struct Share { top: vec2f, sum: vec2f, more: f32, flags: u32 }
const ODD = 1u;
const WIDE = 2u;
struct Mask { a: vec4<bool>, b: vec4<bool> }
var<workgroup> shares: array<Share, 128>;

fn top4(v: vec4f) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }

fn odd4(v: vec4f) -> u32 {
  let special = (bitcast<vec4u>(v) & vec4u(0x7f800000u)) == vec4u(0x7f800000u);
  return select(0u, ODD, any(special));
}

fn nothing() -> Share { return Share(vec2f(LOWEST), vec2f(0.0), 0.0, 0u); }

fn together(x: Share, y: Share) -> Share {
  if (STAGE == 1u) { return Share(vec2f(LOWEST), x.sum + y.sum, 0.0, 0u); }
  let top = max(x.top, y.top);
  let scale = exponential(vec4f(x.top - top, y.top - top)).value;
  let sums = mul4(vec4f(x.sum, y.sum), scale);
  let more = mul4(vec4f(x.more, y.more, 0.0, 0.0), scale.xzyw);
  return Share(top, sums.xy + sums.zw, more.x + more.y, x.flags | y.flags);
}

fn powers(v: Vec8, top: f32) -> Vec8 {
  return Vec8(exponential(v.a - vec4f(top)).value, exponential(v.b - vec4f(top)).value);
}

// Terms of the divergence of four elements.
fn terms(x: vec4f, b: vec4f, log_sum: f32, shift: f32) -> vec4f {
  let log_p = x - vec4f(log_sum);
  let log_ratio = vec4f(shift) - (x - b);
  let p = exponential(log_p).value;
  let q = exponential(log_p + log_ratio).value;
  let unit = inverse(p + vec4f(EPS));
  let more = select(q - p, mul4(p, exponential(log_ratio).minus_one), abs(log_ratio) < vec4f(1.0));
  return mul4(p + vec4f(EPS), log_excess(mul4(more, unit), mul4(q + vec4f(EPS), unit)));
}

// Of elements first to last of the block, which lie in one row: the `row`-th of the part.
fn gather(start: Place, first: u32, last: u32, row: u32) -> Share {
  var share = nothing();
  if (first >= last) { return share; }
  if (STAGE == 0u) {
    for (var o = first / 8u; o * 8u < last; o++) {
      let inside = lanes(o, first, last);
      let b = masked(vec8(start, o, 0u), inside, LOWEST);
      let x = masked(vec8(start, o, 1u), inside, LOWEST);
      share.top = max(share.top, vec2f(max(top4(b.a), top4(b.b)), max(top4(x.a), top4(x.b))));
      let wide = any(abs(x.a - b.a) > vec4f(1.0)) || any(abs(x.b - b.b) > vec4f(1.0));
      share.flags |= (odd4(x.a) | odd4(x.b)) | (odd4(b.a) | odd4(b.b)) | select(0u, WIDE, wide);
    }
  }
  let words = part(start) + 2u + 2u * row;
  for (var o = first / 8u; o * 8u < last; o++) {
    let inside = lanes(o, first, last);
    let x = vec8(start, o, 1u);
    let b = vec8(start, o, 0u);
    if (STAGE == 0u) {
      let e = masked(powers(b, share.top.x), inside, 0.0);
      let f = masked(powers(x, share.top.y), inside, 0.0);
      share.sum += vec2f(sum4(e.a) + sum4(e.b), sum4(f.a) + sum4(f.b));
      share.more += sum4(mul4(e.a, exponential(x.a - b.a).minus_one)) +
                    sum4(mul4(e.b, exponential(x.b - b.b).minus_one));
    } else {
      let log_sum = bitcast<f32>(table[words]);
      let shift = bitcast<f32>(table[words + 1u]);
      let term = masked(Vec8(terms(x.a, b.a, log_sum, shift), terms(x.b, b.b, log_sum, shift)), inside, 0.0);
      share.sum.x += sum4(term.a) + sum4(term.b);
    }
  }
  return share;
}

// Which elements of the vec8 are among first to last.
fn lanes(vec8: u32, first: u32, last: u32) -> Mask {
  let a = vec4u(8u * vec8) + vec4u(0u, 1u, 2u, 3u);
  let b = a + vec4u(4u);
  return Mask((a >= vec4u(first)) & (a < vec4u(last)), (b >= vec4u(first)) & (b < vec4u(last)));
}

fn vec8(start: Place, o: u32, input: u32) -> Vec8 {
  return load(Place(start.block, start.rec, start.vec8 + o, 8u, start.elements), input);
}

fn masked(v: Vec8, inside: Mask, other: f32) -> Vec8 {
  return Vec8(select(vec4f(other), v.a, inside.a), select(vec4f(other), v.b, inside.b));
}

fn write(block: u32, slots: u32, slot: u32, share: Share) {
  let at = block * slots + slot;
  if (STAGE == 1u) {
    output[at] = flush(vec4u(bitcast<u32>(share.sum.x))).x;
    return;
  }
  output[5u * at] = select(bitcast<u32>(share.top.x), 0x7f800000u, (share.flags & ODD) != 0u);
  output[5u * at + 1u] = bitcast<u32>(share.sum.x);
  output[5u * at + 2u] = bitcast<u32>(share.top.y);
  output[5u * at + 3u] = bitcast<u32>(share.sum.y);
  output[5u * at + 4u] = select(bitcast<u32>(share.more), 0x7f800000u, (share.flags & WIDE) != 0u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, 0u);
  var elements = 0u;  // of this block
  var offset = 0u;    // of its first element in its row
  var size = 1u;
  var row = 0u;       // of that row in the part
  if (start.live != 0u) {
    elements = min(BLOCK, table[start.rec + RECORD_ELEMENTS] - 8u * start.vec8);
    size = line_size(start);
    let at = table[part(start)] + 8u * start.vec8;
    row = at / size;
    offset = at % size;
  }
  let slots = (BLOCK - 2u + size) / size + 1u;
  let long = size >= CHUNK;
  // Of long rows the parts that CHUNK elements cut off, of short ones whole slots.
  let parts = select(slots, 2u * CHUNKS, long);
  for (var j = lid; elements != 0u && j < parts; j += 64u) {
    var slot = j;
    var first = max(slot * size, offset) - offset;
    var last = min(elements, max((slot + 1u) * size, offset) - offset);
    if (long) {
      let chunk = CHUNK * (j % CHUNKS);
      let until = max(chunk, min(elements, chunk + CHUNK));
      slot = (offset + chunk) / size;
      let end = clamp((slot + 1u) * size - offset, chunk, until); // where the next row begins
      first = select(end, chunk, j < CHUNKS);
      last = select(until, end, j < CHUNKS);
      slot += j / CHUNKS;
    }
    let share = gather(start, first, last, row + slot);
    if (long) { shares[j] = share; } else { write(start.block, slots, slot, share); }
  }
  workgroupBarrier();
  for (var s = lid; long && elements != 0u && s < slots; s += 64u) {
    var share = nothing();
    // In the order of the elements: what is left of the chunk in which the row begins, then whole chunks.
    let first = max(s * size, offset) - offset;
    let last = min(elements, max((s + 1u) * size, offset) - offset);
    for (var chunk = first / CHUNK; chunk * CHUNK < last; chunk++) {
      share = together(share, shares[chunk + select(0u, CHUNKS, chunk * CHUNK < first)]);
    }
    write(start.block, slots, s, share);
  }
}
