// attention_keys for devices with subgroups and heads whose size is a multiple of 4. A subgroup makes one KV head of as
// many neighbouring rows as it has invocations, one each, query by query. Its invocations read different elements of a
// query and of its gradient and get the others' from them, so that no sum goes across them.
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
@group(0) @binding(8) var<storage, read_write> z: array<vec4f>;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let tile = (wid.x + wid.y * nwg.x) * SUBGROUP;
  if (tile >= p.tokens) { return; }
  let last = min(tile + SUBGROUP, p.tokens) - 1u;
  let row = min(tile + lane, p.tokens - 1u);
  let across = p.heads / p.groups;
  let own = (row * p.groups + wid.z) * VEC4S;
  var key: array<vec4f, 64>;
  var value: array<vec4f, 64>;
  var keySum: array<vec4f, 64>;
  var valueSum: array<vec4f, 64>;
  for (var i = 0u; i < VEC4S; i++) {
    key[i] = keys[own + i] * p.scale;
    value[i] = values[own + i];
  }
  // The first row of the tile is seen first, and the last one last; what is between sees some of them.
  let end = end_of_seeing(last);
  let mine = end_of_seeing(row);
  for (var t = tile; t < end; t++) {
    for (var head = wid.z * across; head < (wid.z + 1u) * across; head++) {
      let at = (t * p.heads + head) * VEC4S;
      let known = statistics[t * p.heads + head];
      var query: array<vec4f, 16>;
      var slope: array<vec4f, 16>;
      for (var part = 0u; part < PARTS; part++) {
        let i = min(part * SUBGROUP + lane, VEC4S - 1u);
        query[part] = q[at + i];
        slope[part] = g[at + i];
      }
      // In two loops of few steps, which compilers write out; an array that a loop goes through lies in memory.
      var score = 0.0;
      var along = 0.0;
      for (var part = 0u; part < PARTS; part++) {
        for (var e = 0u; e < SUBGROUP; e++) {
          score += dot(key[part * SUBGROUP + e], subgroupShuffle(query[part], e));
          along += dot(value[part * SUBGROUP + e], subgroupShuffle(slope[part], e));
        }
      }
      let seen = t >= row && t < mine;
      let weight = select(0.0, exp(min(score - known.x, 0.0)), seen);
      let slopeOf = weight * (along - known.y);
      for (var part = 0u; part < PARTS; part++) {
        for (var e = 0u; e < SUBGROUP; e++) {
          keySum[part * SUBGROUP + e] += slopeOf * subgroupShuffle(query[part], e);
          valueSum[part * SUBGROUP + e] += weight * subgroupShuffle(slope[part], e);
        }
      }
    }
  }
  if (tile + lane >= p.tokens) { return; }
  for (var i = 0u; i < VEC4S; i++) {
    y[own + i] = p.scale * keySum[i];
    z[own + i] = valueSum[i];
  }
}
