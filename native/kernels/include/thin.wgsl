// Y = D X of a thin X [inner, width], with D in blocks (include/blocks.wgsl); TRANSPOSED: Y = D^T X. An invocation
// makes COLUMNS vectors of four rows of Y in registers. Sums are taken over runs of 64 terms, and those added in order,
// so that tiles of whole runs give what one tile would.
struct Parameters {
  lines: u32,  // rows of Y
  inner: u32,  // terms of a sum
  width: u32,  // of X and Y, in vectors
  across: u32, // of D, in blocks
  start: u32,   // row of X of the first term
  to: u32,     // row of Y of the first line
  onto: u32,   // 1: is added to Y
}
override TRANSPOSED: u32 = 0u;
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> d: array<vec4f>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
#include "blocks.wgsl"
#include "sums.wgsl"

const RUN = 16u; // blocks

// The bound of a loop that compilers cannot unroll: unrolled, the kernel takes them ten times as long.
fn rolled(bound: u32) -> u32 { return select(bound, 0u, p.lines == 0u); }

fn multiply(wid: vec3u, lane: u32, neighbour: u32) {
  let own = wid.x * SUBGROUP + lane;
  let first = wid.y * COLUMNS;
  // Lines past the end read the last ones, and store nothing.
  let line = min(own, (p.lines - 1u) / 4u);
  var totals = Sums();
  var sums = Sums();
  if (p.onto == 1u) {
    for (var n = 0u; n < rolled(4u * COLUMNS); n++) {
      let r = min(4u * line + n / COLUMNS, p.lines - 1u);
      totals[n] = y[(p.to + r) * p.width + min(first + n % COLUMNS, p.width - 1u)];
    }
  }
  let blocks = (p.inner + 3u) / 4u;
  for (var begin = 0u; begin < blocks; begin += RUN) {
    let end = min(blocks, begin + RUN);
    for (var k = begin; k < end; k++) {
      let at = block_at(select(line, k, TRANSPOSED == 1u), select(k, line, TRANSPOSED == 1u), p.across);
      var block = mat4x4f(d[at], d[at + 1u], d[at + 2u], d[at + 3u]);
      if (TRANSPOSED == 0u) { block = transpose(block); }
      for (var i = 0u; i < rolled(4u); i++) {
        let row = read_row(p.start + 4u * k + i, p.start + p.inner, first, p.width, neighbour);
        add_products(&sums, block[i], row);
      }
    }
    for (var c = 0u; c < 4u * COLUMNS; c++) {
      totals[c] += sums[c];
      sums[c] = vec4f();
    }
  }
  for (var n = 0u; n < rolled(4u * COLUMNS); n++) {
    let r = 4u * own + n / COLUMNS;
    let c = first + n % COLUMNS;
    if (r < p.lines && c < p.width) { y[(p.to + r) * p.width + c] = totals[n]; }
  }
}
