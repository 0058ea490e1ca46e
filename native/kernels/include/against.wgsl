// Stores as `store` does, and counts against what a weight was before: elements that are stored as something else than
// that, and those that are not though they were to be.

// Codes of the types of what it becomes and of what it was; mixed: the inputs'.
override GIVEN: u32 = DTYPE_MIXED;
override WEIGHT: u32 = DTYPE_MIXED;

fn store_against(p: Place, v: Vec8, before: Vec8) {
  let same_a = rounded(v.a) == rounded(before.a);
  let same_b = rounded(v.b) == rounded(before.b);
  let changed = count4(!same_a, 0u, p.live) + count4(!same_b, 4u, p.live);
  let swallowed = count4(same_a & (v.a != before.a), 0u, p.live) + count4(same_b & (v.b != before.b), 4u, p.live);
  if (changed != 0u) { atomicAdd(&counts[count_index(p, COUNT_CHANGED)], changed); }
  if (swallowed != 0u) { atomicAdd(&counts[count_index(p, COUNT_SWALLOWED)], swallowed); }
  store(p, v);
}
