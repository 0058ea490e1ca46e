// Kernels that add up rows, a column an invocation: `term` says what row t adds to column i, `whole` what the sum
// becomes. It is put into y, or added to it where `p.add` is not 0. Sums are taken over runs of 64 rows, and those
// added in order.
const RUN = 64u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  if (i >= p.width) { return; }
  var total = 0.0;
  for (var begin = 0u; begin < p.rows; begin += RUN) {
    var sum = 0.0;
    let end = min(p.rows, begin + RUN);
    for (var t = begin; t < end; t++) { sum += term(t, i); }
    total += sum;
  }
  let value = whole(total, i);
  y[i] = select(value, y[i] + value, p.add != 0u);
}
