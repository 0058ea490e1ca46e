// Statistics of the columns of x over groups of its rows, four columns of a group an invocation. Each group leaves
// COLUMN_WORDS rows of `width` words (see layout.wgsl), which the CPU adds up in float64. v is x held within ±limit.
// Squared distances are taken from one of the values, so that a mean far from zero cancels nothing.
// `groups` has from word `list` on the starts of the groups in what follows (groups + 1 of them), then rows. Groups
// `first` to `first + count` are measured; their words go to y from word `start` on.
#include "layout.wgsl"
struct Parameters { width: u32, list: u32, groups: u32, first: u32, count: u32, start: u32, tau: f32, limit: f32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> groups: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

// Columns `at` to `at + 3` of a row; past the last one, the last one again.
fn four(row: u32, at: vec4u) -> vec4f {
  let base = row * p.width;
  let v = vec4f(x[base + at.x], x[base + at.y], x[base + at.z], x[base + at.w]);
  return clamp(v, vec4f(-p.limit), vec4f(p.limit));
}

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(workgroup_id) wid: vec3u) {
  let column = 4u * id.x;
  let group = wid.y;
  if (column >= p.width || group >= p.count) { return; }
  let at = min(vec4u(column) + vec4u(0u, 1u, 2u, 3u), vec4u(p.width - 1u));
  let list = p.list + p.groups + 1u;
  let begin = groups[p.list + p.first + group];
  let end = groups[p.list + p.first + group + 1u];
  var shift = vec4f(0.0);
  if (begin < end) { shift = four(groups[list + begin], at); }
  var sum = vec4f(0.0);
  var spread = vec4f(0.0);
  var size = vec4f(0.0);
  var squares = vec4f(0.0);
  var above = vec4f(0.0);
  for (var i = begin; i < end; i++) {
    let v = four(groups[list + i], at);
    let d = v - shift;
    sum += d;
    spread += d * d;
    size += abs(v);
    squares += v * v;
    above += select(vec4f(0.0), vec4f(1.0), abs(v) > vec4f(p.tau));
  }
  var words: array<vec4f, COLUMN_WORDS>;
  words[COLUMN_SHIFT] = shift;
  words[COLUMN_SUM] = sum;
  words[COLUMN_SPREAD] = spread;
  words[COLUMN_ABSOLUTE] = size;
  words[COLUMN_SQUARES] = squares;
  words[COLUMN_ABOVE] = above;
  let first = p.start + group * COLUMN_WORDS * p.width;
  for (var i = 0u; i < min(4u, p.width - column); i++) {
    for (var w = 0u; w < COLUMN_WORDS; w++) { y[first + w * p.width + column + i] = words[w][i]; }
  }
}
