// Squares of what a product of low rank leaves of D, which lies in blocks (include/blocks.wgsl):
// s[i, j] = the sum of (d - b a)^2 over four rows and COLUMNS vectors of columns.
struct Parameters {
  rows: u32,
  rank: u32,   // a multiple of 4; what is added to a rank is zero
  across: u32, // of D, in blocks; so many vectors has a row of A
  start: u32,   // the row of B that goes with row 0; a multiple of 4
}
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> d: array<vec4f>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>; // A [rank, across]
@group(0) @binding(3) var<storage, read> b: array<vec4f>; // [.., rank / 4]
@group(0) @binding(4) var<storage, read_write> s: array<f32>;
#include "blocks.wgsl"
#include "sums.wgsl"

// The bound of a loop that compilers cannot unroll: unrolled, the kernel takes them several times as long.
fn rolled(bound: u32) -> u32 { return select(bound, 0u, p.rows == 0u); }

fn rest(wid: vec3u, groups: u32, lane: u32, neighbour: u32) {
  let own = wid.x * SUBGROUP + lane;
  let first = wid.y * COLUMNS;
  // Rows past the end read the last ones, and store nothing.
  let line = min(own, (p.rows - 1u) / 4u);
  var sums = Sums();
  var at: array<u32, 4>;
  for (var r = 0u; r < 4u; r++) { at[r] = (p.start + min(4u * line + r, p.rows - 1u)) * (p.rank / 4u); }
  for (var k = 0u; k < p.rank / 4u; k++) {
    let four = transpose(mat4x4f(b[at[0] + k], b[at[1] + k], b[at[2] + k], b[at[3] + k]));
    for (var i = 0u; i < rolled(4u); i++) {
      let row = read_row(4u * k + i, p.rank, first, p.across, neighbour);
      add_products(&sums, four[i], row);
    }
  }
  var sum = 0.0;
  for (var n = 0u; n < rolled(4u * COLUMNS); n++) {
    let c = min(first + n % COLUMNS, p.across - 1u);
    let r = n / COLUMNS;
    let left = d[block_at(line, c, p.across) + r] - sums[n];
    sum += select(0.0, dot(left, left), 4u * line + r < p.rows && first + n % COLUMNS < p.across);
  }
  if (own == line) { s[(p.start / 4u + own) * groups + wid.y] = sum; }
}
