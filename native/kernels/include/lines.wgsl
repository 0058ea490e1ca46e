// Lines: the rows of a tensor (ACROSS 0: consecutive elements, `size` of them) or its columns (ACROSS 1: elements
// `size` apart), where each has coefficients of its own. A part of a tensor carries words for its lines behind the
// records:
// the offset of its first element in its row (or its column), the size, then the coefficients, line by line.
// Coefficient 0 of the record is where they start, counted from itself.

override ACROSS: u32 = 0u;

fn part(p: Place) -> u32 {
  let here = coefs_at(p.rec);
  return here + table[here];
}

fn line_size(p: Place) -> u32 { return table[part(p) + 1u]; }

struct Lines { a: vec4u, b: vec4u }

// The lines of the vec8's elements: rows count from that of the part's first element, columns from the tensor's first.
fn lines_of(p: Place) -> Lines {
  let size = line_size(p);
  let at = table[part(p)] + 8u * p.vec8;
  let a = vec4u(at) + vec4u(0u, 1u, 2u, 3u);
  let b = vec4u(at) + vec4u(4u, 5u, 6u, 7u);
  if (size < 8u) {
    if (ACROSS == 1u) { return Lines(a % vec4u(size), b % vec4u(size)); }
    return Lines(a / vec4u(size), b / vec4u(size));
  }
  // One division a vec8: at most one line ends in it.
  let row = at / size;
  let end = vec4u((row + 1u) * size);
  if (ACROSS == 1u) {
    let first = vec4u(row * size);
    return Lines(a - select(first, end, a >= end), b - select(first, end, b >= end));
  }
  return Lines(vec4u(row) + select(vec4u(0u), vec4u(1u), a >= end),
               vec4u(row) + select(vec4u(0u), vec4u(1u), b >= end));
}

// Coefficient `k` of `count` of each element of the vec8. A row of eight elements or more takes up all of the vec8 or
// ends in it: two words are read.
fn line_coefs(p: Place, count: u32, k: u32) -> Vec8 {
  let lines = lines_of(p);
  if (ACROSS == 1u || line_size(p) < 8u) {
    return Vec8(line_coef4(p, lines.a, count, k), line_coef4(p, lines.b, count, k));
  }
  let first = part(p) + 2u + k;
  let here = vec4f(bitcast<f32>(table[first + lines.a.x * count]));
  let last = vec4f(bitcast<f32>(table[first + lines.b.w * count]));
  return Vec8(select(last, here, lines.a == vec4u(lines.a.x)), select(last, here, lines.b == vec4u(lines.a.x)));
}

// Coefficient `k` of `count` of each of four lines.
fn line_coef4(p: Place, lines: vec4u, count: u32, k: u32) -> vec4f {
  let first = part(p) + 2u + k;
  return bitcast<vec4f>(vec4u(table[first + lines.x * count], table[first + lines.y * count],
                              table[first + lines.z * count], table[first + lines.w * count]));
}
