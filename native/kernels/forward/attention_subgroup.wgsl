// Attention, as kernel attention, for adapters with subgroups and heads whose size is a multiple of 4: one subgroup makes a
// tile of up to 8 queries, some heads of one group for some tokens, with an online softmax, key by key. Its invocations share
// the elements of a head, four at a time, so that no barrier is needed. Tokens of one sequence read a key and a value once
// for all of the tile; other queries go one by one. Either way a query's numbers are added in the same order.
enable subgroups;
diagnostic(off, subgroup_uniformity);
struct Parameters { tokens: u32, heads: u32, groups: u32, size: u32, scale: f32, window: u32, both: u32 } // groups: KV heads
override SUBGROUP: u32; // invocations of a workgroup
override PARTS: u32; // quads of a head an invocation has, at most 8
override TILE: u32; // queries of a tile
override ACROSS: u32; // heads of one token among them
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> q: array<vec4f>;
@group(0) @binding(3) var<storage, read> keys: array<vec4f>;
@group(0) @binding(4) var<storage, read> values: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

const MOST = 8u; // queries of a tile
const SHARED = 4u; // parts of a head that a tile keeps in registers; larger heads go query by query
const LOWEST = -3.0e38;

// The rows of the cache that a token sees: from x up to y.
fn seen(t: u32) -> vec2u {
  let token = tokens[t];
  let end = select(token.z + 1u, token.y + p.both, p.both > 0u);
  return vec2u(select(token.y, end - p.window, p.window > 0u && end - token.y > p.window), end);
}

fn one(t: u32, head: u32, lane: u32) {
  let quads = p.size / 4u;
  let own = (t * p.heads + head) * quads;
  let group = head / (p.heads / p.groups) * quads;
  let rows = seen(t);
  var query: array<vec4f, 8>;
  var sums: array<vec4f, 8>;
  for (var part = 0u; part < PARTS; part++) {
    let i = part * SUBGROUP + lane;
    if (i < quads) { query[part] = q[own + i] * p.scale; }
  }
  var most = LOWEST;
  var total = 0.0;
  for (var row = rows.x; row < rows.y; row++) {
    let at = row * p.groups * quads + group;
    var mine = 0.0;
    for (var part = 0u; part < PARTS; part++) {
      let i = part * SUBGROUP + lane;
      if (i < quads) { mine += dot(query[part], keys[at + i]); }
    }
    let score = subgroupAdd(mine);
    let before = most;
    most = max(most, score);
    let kept = exp(before - most);
    let weight = exp(score - most);
    total = total * kept + weight;
    for (var part = 0u; part < PARTS; part++) {
      let i = part * SUBGROUP + lane;
      if (i < quads) { sums[part] = sums[part] * kept + weight * values[at + i]; }
    }
  }
  for (var part = 0u; part < PARTS; part++) {
    let i = part * SUBGROUP + lane;
    if (i < quads) { y[own + i] = sums[part] / total; }
  }
}

fn many(first: u32, heads: u32, lane: u32) {
  let quads = p.size / 4u;
  let group = heads / (p.heads / p.groups) * quads;
  var query: array<vec4f, MOST * SHARED>;
  var sums: array<vec4f, MOST * SHARED>;
  var most: array<f32, MOST>;
  var total: array<f32, MOST>;
  var rows: array<vec2u, MOST>;
  for (var r = 0u; r < TILE; r++) {
    most[r] = LOWEST;
    rows[r] = seen(first + r / ACROSS);
    let own = ((first + r / ACROSS) * p.heads + heads + r % ACROSS) * quads;
    for (var part = 0u; part < PARTS; part++) {
      let i = part * SUBGROUP + lane;
      if (i < quads) { query[r * SHARED + part] = q[own + i] * p.scale; }
    }
  }
  // The rows of one sequence come in order, so the first token sees the first key, and the last one the last.
  for (var row = rows[0].x; row < rows[TILE - 1u].y; row++) {
    let at = row * p.groups * quads + group;
    var key: array<vec4f, SHARED>;
    var value: array<vec4f, SHARED>;
    for (var part = 0u; part < PARTS; part++) {
      let i = part * SUBGROUP + lane;
      if (i < quads) {
        key[part] = keys[at + i];
        value[part] = values[at + i];
      }
    }
    for (var r = 0u; r < TILE; r++) {
      let sees = row >= rows[r].x && row < rows[r].y;
      var mine = 0.0;
      for (var part = 0u; part < PARTS; part++) { mine += dot(query[r * SHARED + part], key[part]); }
      let score = select(LOWEST, subgroupAdd(mine), sees);
      let before = most[r];
      most[r] = max(before, score);
      let kept = exp(before - most[r]);
      let weight = select(0.0, exp(score - most[r]), sees);
      total[r] = total[r] * kept + weight;
      for (var part = 0u; part < PARTS; part++) {
        sums[r * SHARED + part] = sums[r * SHARED + part] * kept + weight * value[part];
      }
    }
  }
  for (var r = 0u; r < TILE; r++) {
    let own = ((first + r / ACROSS) * p.heads + heads + r % ACROSS) * quads;
    for (var part = 0u; part < PARTS; part++) {
      let i = part * SUBGROUP + lane;
      if (i < quads) { y[own + i] = sums[r * SHARED + part] / total[r]; }
    }
  }
}

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let count = TILE / ACROSS;
  let first = (wid.x + wid.y * nwg.x) * count;
  let heads = wid.z * ACROSS;
  var together = PARTS <= SHARED && first + count <= p.tokens;
  for (var r = 1u; r < count && together; r++) {
    let step = tokens[first + r].yz - tokens[first].yz;
    together = step.x == 0u && step.y == r;
  }
  if (together) {
    many(first, heads, lane);
    return;
  }
  for (var t = first; t < min(first + count, p.tokens); t++) {
    for (var h = 0u; h < ACROSS; h++) { one(t, heads + h, lane); }
  }
}
