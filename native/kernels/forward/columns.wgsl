// Statistics of the columns of x over groups of its rows, a column of a group an invocation. Each group leaves `WORDS` rows
// of `width` words, from which the host adds up in float64: a shift s (its first value), sum(v - s), sum((v - s)^2),
// sum|v|, sum(v^2), and how many |v| are above tau. v is x held within ±limit. Squared distances are taken from one of the
// values, so that a mean far from zero cancels nothing.
// `groups` has from word `list` on the starts of the groups in what follows (groups + 1 of them), then rows. Groups `first` to
// `first + count` are measured; their words go to y from word `start` on.
struct Parameters { width: u32, list: u32, groups: u32, first: u32, count: u32, start: u32, tau: f32, limit: f32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> groups: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const WORDS = 6u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(workgroup_id) wid: vec3u) {
  let column = id.x;
  let group = wid.y;
  if (column >= p.width || group >= p.count) { return; }
  let list = p.list + p.groups + 1u;
  let begin = groups[p.list + p.first + group];
  let end = groups[p.list + p.first + group + 1u];
  var shift = 0.0;
  if (begin < end) { shift = clamp(x[groups[list + begin] * p.width + column], -p.limit, p.limit); }
  var sum = 0.0;
  var spread = 0.0;
  var size = 0.0;
  var squares = 0.0;
  var above = 0.0;
  for (var i = begin; i < end; i++) {
    let v = clamp(x[groups[list + i] * p.width + column], -p.limit, p.limit);
    let d = v - shift;
    sum += d;
    spread += d * d;
    size += abs(v);
    squares += v * v;
    above += select(0.0, 1.0, abs(v) > p.tau);
  }
  let at = p.start + group * WORDS * p.width + column;
  y[at] = shift;
  y[at + p.width] = sum;
  y[at + 2u * p.width] = spread;
  y[at + 3u * p.width] = size;
  y[at + 4u * p.width] = squares;
  y[at + 5u * p.width] = above;
}
