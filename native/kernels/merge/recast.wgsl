// Rounding alone: out = x, of input 0. Counts against input 1, what the weight was before: see include/against.wgsl.
#include "main_vec8.wgsl"
#include "against.wgsl"

fn merge(p: Place) { 
  store_against(p, load_as(source(p, 0u), p.vec8, GIVEN), load_as(source(p, 1u), p.vec8, WEIGHT));
 }
