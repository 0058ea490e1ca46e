// Trimming a delta to what an exact selection kept: an element stays if its key is above the threshold, or equal to it
// with a flat index below the cut. With OUTLIERS 1 the largest ones, past a second such cut, go too (breadcrumbs).
// Words a cut: threshold key, cut lo, cut hi.

override OUTLIERS: u32 = 0u;

struct Cut { threshold: u32, before: u32 }
struct Band { low: Cut, high: Cut }

fn band_words() -> u32 { return select(3u, 6u, OUTLIERS == 1u); }

// The cut at coefficient `j`; `before`: how many elements of the vec8 lie before it, 0..8.
fn cut(p: Place, j: u32) -> Cut {
  let lo = coef_bits(p, j + 1u);
  let hi = coef_bits(p, j + 2u);
  let first = flat.x + p.vec8 * 8u;
  let first_hi = flat.y + select(0u, 1u, first < flat.x);
  let threshold = coef_bits(p, j);
  if (hi < first_hi || (hi == first_hi && lo <= first)) { return Cut(threshold, 0u); }
  let far = hi - first_hi - select(0u, 1u, lo < first);
  return Cut(threshold, select(8u, min(8u, lo - first), far == 0u));
}

fn band(p: Place, j: u32) -> Band {
  let low = cut(p, j);
  if (OUTLIERS == 0u) { return Band(low, low); }
  return Band(low, cut(p, j + 3u));
}

fn reaches(key: vec4u, c: Cut, first: u32) -> vec4<bool> {
  return (key > vec4u(c.threshold)) | ((key == vec4u(c.threshold)) & live4(c.before, first));
}

// `first` is the place of `key.x` in the vec8, 0 or 4.
fn inside(key: vec4u, b: Band, first: u32) -> vec4<bool> {
  let kept = reaches(key, b.low, first);
  if (OUTLIERS == 0u) { return kept; }
  return kept & !reaches(key, b.high, first);
}

fn trim(d: vec4f, b: Band, first: u32) -> vec4f { return select(vec4f(0.0), d, inside(magnitude(d), b, first)); }
