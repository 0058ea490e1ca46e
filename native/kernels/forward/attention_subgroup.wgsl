// Attention, as kernel attention, for adapters with subgroups and heads whose size is a multiple of 4: one
// subgroup makes one head of one token with an online softmax, key by key. Its invocations share the elements of a head,
// four at a time, so that a key and a value are read once, and no barrier is needed.
enable subgroups;
diagnostic(off, subgroup_uniformity);
struct Parameters { tokens: u32, heads: u32, groups: u32, size: u32, scale: f32, window: u32, both: u32 } // groups: KV heads
override SUBGROUP: u32; // invocations of a workgroup
override PARTS: u32; // quads of a head an invocation has, at most 8
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> q: array<vec4f>;
@group(0) @binding(3) var<storage, read> keys: array<vec4f>;
@group(0) @binding(4) var<storage, read> values: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

const LOWEST = -3.0e38;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let t = min(wid.x + wid.y * nwg.x, p.tokens - 1u);
  let quads = p.size / 4u;
  let own = (t * p.heads + wid.z) * quads;
  let group = wid.z / (p.heads / p.groups) * quads;
  let stride = p.groups * quads;
  var first = tokens[t].y;
  let end = select(tokens[t].z + 1u, first + p.both, p.both > 0u);
  if (p.window > 0u && end - first > p.window) { first = end - p.window; }
  var query: array<vec4f, 8>;
  var sums: array<vec4f, 8>;
  for (var part = 0u; part < PARTS; part++) {
    let i = part * SUBGROUP + lane;
    if (i < quads) { query[part] = q[own + i] * p.scale; }
  }
  var most = LOWEST;
  var total = 0.0;
  for (var row = first; row < end; row++) {
    let at = row * stride + group;
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
