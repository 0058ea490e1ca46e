// D = T - B of stored tensors, element by element, as f32 in blocks (include/blocks.wgsl), and for each run of 64
// elements s: the bits of its sum of squares, and how many elements are NaN or infinite.
#include "layout.wgsl"
struct Parameters {
  elements: u32, // in `inputs`
  second: u32,   // where those of B start, in vectors
  columns: u32,  // of D
  first: u32,    // the element of D with which `inputs` start
}
override TUNED: u32; // code of the type
override BASE: u32;
override KEEP: u32 = 1u; // 0: the sums alone
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> inputs: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> d: array<f32>;
@group(0) @binding(3) var<storage, read_write> s: array<vec2u>;
#include "stored.wgsl"
#include "blocks.wgsl"

// Where element (row, column) is, in numbers.
fn element_at(row: u32, column: u32, across: u32) -> u32 {
  return 4u * (block_at(row / 4u, column / 4u, across) + row % 4u) + column % 4u;
}

fn minus(t: vec4u, b: vec4u, live: vec4<bool>) -> vec4u {
  return select(vec4u(), flush(bitcast<vec4u>(bitcast<vec4f>(t) - bitcast<vec4f>(b))), live);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let run = 64u * (wid.x + wid.y * groups.x) + lane;
  if (64u * run >= p.elements) { return; }
  let across = (p.columns + 3u) / 4u;
  var row = (p.first + 64u * run) / p.columns;
  var column = (p.first + 64u * run) % p.columns;
  var sum = 0.0;
  var odd = 0u;
  for (var v = 0u; v < 8u; v++) {
    let vec8 = 8u * run + v;
    let t = load_bits(0u, TUNED, vec8);
    let b = load_bits(p.second, BASE, vec8);
    for (var half = 0u; half < 2u; half++) {
      let begin = 8u * vec8 + 4u * half;
      let live = vec4u(begin) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.elements);
      let four = minus(select(t.a, t.b, half == 1u), select(b.a, b.b, half == 1u), live);
      let wrong = (four & vec4u(0x7f800000u)) == vec4u(0x7f800000u);
      odd += dot(select(vec4u(), vec4u(1u), wrong), vec4u(1u));
      let numbers = bitcast<vec4f>(four);
      sum += dot(numbers, numbers);
      if (KEEP == 1u && begin < p.elements) {
        if ((p.columns & 3u) == 0u) {
          let at = element_at(row, column, across);
          for (var e = 0u; e < 4u; e++) { d[at + e] = numbers[e]; }
          column += 4u;
        } else {
          for (var e = 0u; e < 4u && begin + e < p.elements; e++) {
            d[element_at(row, column, across)] = numbers[e];
            column += 1u;
            if (column == p.columns) {
              column = 0u;
              row += 1u;
            }
          }
        }
        if (column == p.columns) {
          column = 0u;
          row += 1u;
        }
      }
    }
  }
  s[run] = vec2u(bitcast<u32>(sum), odd);
}
