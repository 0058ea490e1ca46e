// Sums of a block that are the same however many invocations make them. A block has 64 rows of 32 consecutive elements;
// eight rows make a share, eight shares the block, each added in order. An invocation takes as many rows as it takes
// for WORKGROUP of them to make a block: at a barrier every invocation costs a software driver, a GPU idles where there
// are few.

override LANES: u32 = 64u; // what suits the device: 8 or 64
override WORKGROUP: u32 = max(LANES, FEWEST);
override OWN_ROWS: u32 = ROWS / WORKGROUP;
const SHARES = 8u;

// Word `w` of invocation `lid` is gathered[w * WORKGROUP + lid]. A kernel has at most MOST_WORDS.
var<workgroup> gathered: array<u32, MOST_WORDS * WORKGROUP>;

// The sum of word `w` (f32) over the block.
fn block_sum(w: u32) -> f32 {
  var total = 0.0;
  for (var share = 0u; share < SHARES; share++) {
    var sum = 0.0;
    for (var i = 0u; i < WORKGROUP / SHARES; i++) {
      sum += bitcast<f32>(gathered[w * WORKGROUP + share * (WORKGROUP / SHARES) + i]);
    }
    total += sum;
  }
  return total;
}

// The sum of word `w` (u32), and the largest one.
fn block_count(w: u32) -> vec2u {
  var count = vec2u(0u);
  for (var i = 0u; i < WORKGROUP; i++) {
    let word = gathered[w * WORKGROUP + i];
    count = vec2u(count.x + word, max(count.y, word));
  }
  return count;
}
