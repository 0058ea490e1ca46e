// How weighted deltas become one, by CONSENSUS. 0: they are added up. Otherwise TIES (arXiv 2306.01708): an election of
// signs, in which only deltas of the winning sign are added. What is counted differs between the published readings.
// 1: weighted deltas (mergekit); 2: deltas (PEFT); 3: signs (PEFT, "frequency"); 4: deltas, and a zero sum goes to the
// sign that won most elections (the authors' code). A zero sum counts as + in 1 to 3.
// Both outcomes are carried along, so nothing is read twice. Dividing by what agrees is a look-up: division is not the
// same on every GPU. More models than ELECTION_TABLE have too many sets for that: the weights of those that agree are
// added up and inverted step by step. Bit i of a set is model i.
#include "reciprocal.wgsl"

struct Votes { sum: vec4f, plus: vec4f, minus: vec4f, plus_set: vec4u, minus_set: vec4u }

fn flushed(v: vec4f) -> vec4f { return bitcast<vec4f>(flush(bitcast<vec4u>(v))); }

// What a delta counts in the election.
fn ballot(d: vec4f, weighted: vec4f) -> vec4f {
  if (CONSENSUS == CONSENSUS_MERGEKIT) { return weighted; }
  if (CONSENSUS != CONSENSUS_FREQUENCY) { return d; }
  return select(vec4f(0.0), vec4f(1.0), d > vec4f(0.0)) - select(vec4f(0.0), vec4f(1.0), d < vec4f(0.0));
}

fn vote(votes: ptr<function, Votes>, d: vec4f, weight: f32, bit: u32) {
  if (CONSENSUS == CONSENSUS_SUM) {
    (*votes).sum += prod4(d, weight);
    return;
  }
  let v = flushed(prod4(d, weight));
  let count = ballot(d, v);
  let up = count > vec4f(0.0);
  let down = count < vec4f(0.0);
  (*votes).sum += count;
  (*votes).plus += select(vec4f(0.0), v, up);
  (*votes).minus += select(vec4f(0.0), v, down);
  (*votes).plus_set |= select(vec4u(0u), vec4u(bit), up);
  (*votes).minus_set |= select(vec4u(0u), vec4u(bit), down);
}

fn tabled() -> bool { return INPUTS <= ELECTION_TABLE + 1u; }

// Coefficients from `first` on: for CONSENSUS 0 the factor of the sum; otherwise 2^models factors, one a set that
// agrees, or of more models than ELECTION_TABLE the words of `divided`; and for 4 one word: 1 where a zero sum counts
// as -.
fn elect(p: Place, votes: Votes, first: u32) -> vec4f {
  if (CONSENSUS == CONSENSUS_SUM) { return prod4(votes.sum, coef(p, first)); }
  let sum = flushed(votes.sum);
  var negative = sum < vec4f(0.0);
  if (CONSENSUS == CONSENSUS_REFERENCE && coef_bits(p, first + factor_words()) == 1u) {
    negative = !(sum > vec4f(0.0));
  }
  let value = select(votes.plus, votes.minus, negative);
  let agree = select(votes.plus_set, votes.minus_set, negative);
  return bitcast<vec4f>(bitcast<vec4u>(value * factors(p, agree, first)) ^ vec4u(zero));
}

fn factor_words() -> u32 { return select(INPUTS + 2u, 1u << min(INPUTS - 1u, ELECTION_TABLE), tabled()); }

// The factor of each set of models that agrees: a scale over the sum of their weights. Words: a weight a model, the
// scale, the least magnitude of a sum that is divided by, and the factor of all smaller ones.
fn divided(p: Place, agree: vec4u, first: u32) -> vec4f {
  var sum = vec4f(0.0);
  for (var i = 0u; i + 1u < INPUTS; i++) {
    sum += select(vec4f(0.0), vec4f(coef(p, first + i)), (agree & vec4u(1u << i)) != vec4u(0u));
  }
  let rest = first + INPUTS - 1u;
  let small = abs(sum) < vec4f(coef(p, rest + 1u));
  let by = prod4(inverse(select(abs(sum), vec4f(1.0), small)), coef(p, rest));
  return select(select(by, -by, sum < vec4f(0.0)), vec4f(coef(p, rest + 2u)), small);
}

// The factor of each set of models that agrees. For one or two models choosing costs less than looking up.
fn factors(p: Place, agree: vec4u, first: u32) -> vec4f {
  if (!tabled()) { return divided(p, agree, first); }
  if (INPUTS > 3u) {
    return vec4f(coef(p, first + agree.x), coef(p, first + agree.y),
                 coef(p, first + agree.z), coef(p, first + agree.w));
  }
  let odd = (agree & vec4u(1u)) == vec4u(1u);
  let low = select(vec4f(coef(p, first)), vec4f(coef(p, first + 1u)), odd);
  if (INPUTS < 3u) { return low; }
  return select(low, select(vec4f(coef(p, first + 2u)), vec4f(coef(p, first + 3u)), odd), agree > vec4u(1u));
}
