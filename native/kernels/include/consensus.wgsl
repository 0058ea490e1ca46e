// TIES sign election (arXiv 2306.01708, mergekit's rule): per element, the sign of the sum of the weighted deltas wins
// (0 counts as +) and only deltas of that sign are added. Both outcomes are carried along, so nothing is read twice.
// Dividing by the agreeing weights is a look-up: division is not the same on every GPU. Bit i of `agree` is model i.

struct Votes { sum: vec4f, plus: vec4f, minus: vec4f, plus_set: vec4u, minus_set: vec4u }

fn vote(votes: ptr<function, Votes>, weighted: vec4f, bit: u32) {
  let v = bitcast<vec4f>(flush(bitcast<vec4u>(weighted)));
  let up = v > vec4f(0.0);
  let down = v < vec4f(0.0);
  (*votes).sum += v;
  (*votes).plus += select(vec4f(0.0), v, up);
  (*votes).minus += select(vec4f(0.0), v, down);
  (*votes).plus_set |= select(vec4u(0u), vec4u(bit), up);
  (*votes).minus_set |= select(vec4u(0u), vec4u(bit), down);
}

// The agreeing sum times lambda / (agreeing weights), from the table of 2^models words at coefficient `first`.
fn elect(p: Place, votes: Votes, first: u32) -> vec4f {
  let sum = bitcast<vec4f>(flush(bitcast<vec4u>(votes.sum)));
  let negative = sum < vec4f(0.0);
  let value = select(votes.plus, votes.minus, negative);
  let agree = select(votes.plus_set, votes.minus_set, negative);
  let scale = vec4f(coef(p, first + agree.x), coef(p, first + agree.y), coef(p, first + agree.z), coef(p, first + agree.w));
  return bitcast<vec4f>(bitcast<vec4u>(value * scale) ^ vec4u(table[0]));
}
