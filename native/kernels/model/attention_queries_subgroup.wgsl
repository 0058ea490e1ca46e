// attention_queries for devices with subgroups and heads whose size is a multiple of 4. A subgroup makes one head of as
// many neighbouring tokens as it has invocations, one each, key by key. Its invocations read different elements of a
// key and get the others' from them, so that no sum goes across them.
enable subgroups;
diagnostic(off, subgroup_uniformity);
#include "attention_gradient.wgsl"
override SUBGROUP: u32; // invocations of a workgroup
override VEC4S: u32; // of a head, at most 64
override PARTS: u32 = (VEC4S + SUBGROUP - 1u) / SUBGROUP;
@group(0) @binding(2) var<storage, read> q: array<vec4f>;
@group(0) @binding(3) var<storage, read> keys: array<vec4f>;
@group(0) @binding(4) var<storage, read> values: array<vec4f>;
@group(0) @binding(5) var<storage, read> g: array<vec4f>;
@group(0) @binding(6) var<storage, read> statistics: array<vec2f>;
@group(0) @binding(7) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let tile = (wid.x + wid.y * nwg.x) * SUBGROUP;
  if (tile >= p.tokens) { return; }
  let end = min(tile + SUBGROUP, p.tokens);
  let t = min(tile + lane, p.tokens - 1u);
  let head = wid.z;
  let group = head / (p.heads / p.groups) * VEC4S;
  let own = (t * p.heads + head) * VEC4S;
  var query: array<vec4f, 64>;
  var slope: array<vec4f, 64>;
  var sums: array<vec4f, 64>;
  for (var i = 0u; i < VEC4S; i++) {
    query[i] = q[own + i] * p.scale;
    slope[i] = g[own + i];
  }
  let known = statistics[t * p.heads + head];
  let mine = first_seen(t);
  // The first token of the tile sees the first row of all: rows of sequences follow each other.
  for (var row = first_seen(tile); row < end; row++) {
    let at = row * p.groups * VEC4S + group;
    var key: array<vec4f, 16>;
    var value: array<vec4f, 16>;
    for (var part = 0u; part < PARTS; part++) {
      let i = min(part * SUBGROUP + lane, VEC4S - 1u);
      key[part] = keys[at + i];
      value[part] = values[at + i];
    }
    // In two loops of few steps, which compilers write out; an array that a loop goes through lies in memory.
    var score = 0.0;
    var along = 0.0;
    for (var part = 0u; part < PARTS; part++) {
      for (var e = 0u; e < SUBGROUP; e++) {
        score += dot(query[part * SUBGROUP + e], subgroupShuffle(key[part], e));
        along += dot(slope[part * SUBGROUP + e], subgroupShuffle(value[part], e));
      }
    }
    let sees = row >= mine && row <= t;
    let weight = select(0.0, exp(min(score - known.x, 0.0)) * (along - known.y), sees);
    for (var part = 0u; part < PARTS; part++) {
      for (var e = 0u; e < SUBGROUP; e++) { sums[part * SUBGROUP + e] += weight * subgroupShuffle(key[part], e); }
    }
  }
  if (tile + lane >= p.tokens) { return; }
  for (var i = 0u; i < VEC4S; i++) { y[own + i] = p.scale * sums[i]; }
}
