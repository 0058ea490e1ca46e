// Rows of the cache that sequences with the same beginning share are copied: row copies[i].y = row copies[i].x, a row a workgroup.
struct Parameters { count: u32, width: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> copies: array<vec2u>;
@group(0) @binding(2) var<storage, read_write> cache: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = wid.x + wid.y * nwg.x;
  if (i >= p.count) { return; }
  let rows = copies[i] * p.width;
  for (var d = lane; d < p.width; d += 64u) { cache[rows.y + d] = cache[rows.x + d]; }
}
