// A matrix in blocks of 4 x 4 numbers, a vector for each row of one, so that rows and columns are read alike: eight
// blocks below each other follow, then those beside them. `i`, `j`: block above and to the left; `across`: blocks
// beside each other. In vectors.
fn block_at(i: u32, j: u32, across: u32) -> u32 { return (((i >> 3u) * across + j) * 8u + (i & 7u)) * 4u; }
