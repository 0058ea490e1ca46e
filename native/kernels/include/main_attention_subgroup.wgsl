// Attention, as kernel attention, for devices with subgroups and heads whose size is a multiple of 4: one subgroup
// makes a tile of queries, some heads of one group for some tokens, with an online softmax, key by key. Its invocations
// share the elements of a head, four at a time, so that no barrier is needed. Tokens of one sequence read a key and a
// value once for all of the tile; those of others come after them, and the numbers of a query are added in the same
// order either way.
// `finish` says what becomes of the largest score of a query and of the sum of exp(score - largest).
enable subgroups;
diagnostic(off, subgroup_uniformity);
#include "layout.wgsl"
// groups: KV heads
struct Parameters { tokens: u32, heads: u32, groups: u32, size: u32, scale: f32, window: u32, both: u32 }
override SUBGROUP: u32; // invocations of a workgroup
override PARTS: u32; // vec4s of a head an invocation has
override TILE: u32; // queries of a tile, at most 8; times PARTS at most 16
override ACROSS: u32; // heads of one token among them
override SETS: u32 = (TILE + SUBGROUP - 1u) / SUBGROUP; // of queries, one an invocation; at most 2
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> q: array<vec4f>;
@group(0) @binding(3) var<storage, read> keys: array<vec4f>;
@group(0) @binding(4) var<storage, read> values: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

const LOWEST = -3.0e38;

// The rows of the cache that a token sees: from x up to y.
fn seen(t: u32) -> vec2u {
  let token = tokens[t];
  let end = select(token[TOKEN_ROW] + 1u, token[TOKEN_START] + p.both, p.both > 0u);
  return vec2u(select(token[TOKEN_START], end - p.window, p.window > 0u && end - token[TOKEN_START] > p.window), end);
}

// Whether a token is the next one of the sequence of the token before it.
fn follows(t: u32) -> bool {
  let token = tokens[t];
  let before = tokens[t - 1u];
  return token[TOKEN_START] == before[TOKEN_START] && token[TOKEN_ROW] == before[TOKEN_ROW] + 1u;
}

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let first = (wid.x + wid.y * nwg.x) * (TILE / ACROSS);
  let last = min(first + TILE / ACROSS, p.tokens);
  let heads = wid.z * ACROSS;
  let vec4s = p.size / 4u;
  let group = heads / (p.heads / p.groups) * vec4s;
  var query: array<vec4f, 16>;
  var sums: array<vec4f, 16>;
  for (var r = 0u; r < TILE; r++) {
    let own = (min(first + r / ACROSS, p.tokens - 1u) * p.heads + heads + r % ACROSS) * vec4s;
    for (var part = 0u; part < PARTS; part++) {
      let i = part * SUBGROUP + lane;
      if (i < vec4s) { query[r * PARTS + part] = q[own + i] * p.scale; }
    }
  }
  // What a query has one of is kept by an invocation of its own, so that all of a set take their exponentials together.
  var most: array<f32, 2>;
  var total: array<f32, 2>;
  var rows: array<vec2u, 2>;
  for (var s = 0u; s < SETS; s++) {
    most[s] = LOWEST;
    rows[s] = seen(min(first + (s * SUBGROUP + lane) / ACROSS, p.tokens - 1u));
  }
  // Tokens `begin` to `next` are neighbours in one sequence: the first of them sees the first key, and the last one the
  // last.
  var begin = first;
  while (begin < last) {
    var next = begin + 1u;
    while (next < last && follows(next)) { next++; }
    let end = seen(next - 1u).y;
    for (var row = seen(begin).x; row < end; row++) {
      let at = row * p.groups * vec4s + group;
      var key: array<vec4f, 8>;
      var value: array<vec4f, 8>;
      for (var part = 0u; part < PARTS; part++) {
        let i = part * SUBGROUP + lane;
        if (i < vec4s) {
          key[part] = keys[at + i];
          value[part] = values[at + i];
        }
      }
      var score: array<f32, 2>;
      for (var r = 0u; r < TILE; r++) {
        var mine = 0.0;
        for (var part = 0u; part < PARTS; part++) { mine += dot(query[r * PARTS + part], key[part]); }
        let all = subgroupAdd(mine);
        score[r / SUBGROUP] = select(score[r / SUBGROUP], all, lane == r % SUBGROUP);
      }
      var kept: array<f32, 2>;
      var weight: array<f32, 2>;
      for (var s = 0u; s < SETS; s++) {
        let token = first + (s * SUBGROUP + lane) / ACROSS;
        let sees = token >= begin && token < next && row >= rows[s].x && row < rows[s].y;
        let before = most[s];
        most[s] = max(before, select(LOWEST, score[s], sees));
        kept[s] = exp(before - most[s]);
        weight[s] = select(0.0, exp(score[s] - most[s]), sees);
        total[s] = total[s] * kept[s] + weight[s];
      }
      for (var r = 0u; r < TILE; r++) {
        let k = subgroupShuffle(kept[r / SUBGROUP], r % SUBGROUP);
        let w = subgroupShuffle(weight[r / SUBGROUP], r % SUBGROUP);
        for (var part = 0u; part < PARTS; part++) {
          sums[r * PARTS + part] = sums[r * PARTS + part] * k + w * value[part];
        }
      }
    }
    begin = next;
  }
  for (var s = 0u; s < SETS; s++) {
    let r = s * SUBGROUP + lane;
    let token = first + r / ACROSS;
    if (r < TILE && token < last) { finish(token * p.heads + heads + r % ACROSS, most[s], total[s]); }
  }
  for (var r = 0u; r < TILE; r++) {
    let all = subgroupShuffle(total[r / SUBGROUP], r % SUBGROUP);
    let token = first + r / ACROSS;
    for (var part = 0u; part < PARTS; part++) {
      let i = part * SUBGROUP + lane;
      if (token < last && i < vec4s) {
        y[(token * p.heads + heads + r % ACROSS) * vec4s + i] = sums[r * PARTS + part] / all;
      }
    }
  }
}
