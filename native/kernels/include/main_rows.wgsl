// Kernels that make a row a workgroup: `each` says what an invocation does for a row, of `p.rows`; and sums and maxima
// over the invocations, each in a fixed tree. On a CPU, where a barrier is a switch between parts of a workgroup, it
// has only as many as the CPU has lanes.
override LANES: u32 = 64u;
var<workgroup> shared_: array<f32, LANES>;

// A dimension ends at 65,535 workgroups, so rows fill a grid of two.
@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let row = wid.x + wid.y * nwg.x;
  if (row < p.rows) { each(row, lane); }
}

fn sum_all(value: f32, lane: u32) -> f32 {
  shared_[lane] = value;
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { shared_[lane] += shared_[lane + step]; }
  }
  let total = workgroupUniformLoad(&shared_[0]);
  return total;
}

fn max_all(value: f32, lane: u32) -> f32 {
  shared_[lane] = value;
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { shared_[lane] = max(shared_[lane], shared_[lane + step]); }
  }
  let most = workgroupUniformLoad(&shared_[0]);
  return most;
}
