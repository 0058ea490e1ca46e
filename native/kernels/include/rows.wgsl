// One workgroup a row: its number, and sums and maxima over its invocations, each in a fixed tree. On a CPU, where a
// barrier is a switch between parts of a workgroup, it has only as many as the CPU has lanes.
override LANES: u32 = 64u;
var<workgroup> shared_: array<f32, LANES>;

// A dimension ends at 65,535 workgroups, so rows fill a grid of two.
fn row_of(wid: vec3u, nwg: vec3u) -> u32 { return wid.x + wid.y * nwg.x; }

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
