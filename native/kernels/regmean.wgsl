// RegMean: out = W_1 + (W_2 - W_1) M_2 + (W_3 - W_1) M_3 + ..., f32, one rounding. Inputs: W_1 .. W_k [rows, n], whose rows
// have to be whole; M_2 .. M_k [n, n], f32, all of them whole. Coefficient: n. Sums run over n in order, matrix by matrix.
// A matrix has fewer than 2^32 elements. Where the type of all W is known when the pipeline is made, it is many times faster.
#include "tile.wgsl"
#include "store.wgsl"

override MODELS: u32 = 15u;  // code of the type of the W; 15: found in the call

// An octet of M.
fn factor(source: u32, octet: u32) -> Octet {
  let at = (source & 0x0fffffffu) + 2u * octet;
  return Octet(bitcast<vec4f>(inputs[at]), bitcast<vec4f>(inputs[at + 1u]));
}

// Element `index` of an octet.
fn pick(v: Octet, index: u32) -> f32 {
  let quad = select(v.a, v.b, (index & 4u) != 0u);
  return quad[index & 3u];
}

// W_i - W_1, eight elements. They may lie before the tile or behind it, in the same row: octets count below zero there.
fn difference(p: Place, i: u32, octet: u32) -> Octet {
  let x = model(p, i, octet);
  let base = model(p, 0u, octet);
  return Octet(x.a - base.a, x.b - base.b);
}

fn model(p: Place, i: u32, octet: u32) -> Octet {
  if (MODELS == MIXED) { return load_from(source(p, i), octet); }
  let bits = load_bits(source(p, i) & 0x0fffffffu, MODELS, octet);
  return Octet(bitcast<vec4f>(bits.a), bitcast<vec4f>(bits.b));
}

// Four rows of M, `step` octets apart, times a number each.
fn add4(sum: Octet, m: u32, at: u32, step: u32, d: vec4f) -> Octet {
  let x = factor(m, at);
  let y = factor(m, at + step);
  let z = factor(m, at + 2u * step);
  let w = factor(m, at + 3u * step);
  return Octet((((sum.a + prod4(x.a, d.x)) + prod4(y.a, d.y)) + prod4(z.a, d.z)) + prod4(w.a, d.w),
               (((sum.b + prod4(x.b, d.x)) + prod4(y.b, d.y)) + prod4(z.b, d.z)) + prod4(w.b, d.w));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.live == 0u) { return; }
  let n = u32(coef(p, 0u));
  let models = (INPUTS + 1u) / 2u;
  let start = table[p.rec + 2u];  // of the part of the tensor at hand
  let first = start + 8u * p.octet;
  var out = model(p, 0u, p.octet);
  for (var i = 1u; i < models; i++) {
    let m = source(p, models + i - 1u);
    if ((n & 7u) == 0u) {
      // The octet lies in one row, and so do the eight columns of M it takes.
      let column = first % n;
      let row = u32(i32(first - column - start) >> 3u);
      let step = n >> 3u;
      for (var j = 0u; j < n; j += 8u) {
        let d = difference(p, i, row + (j >> 3u));
        let at = j * step + (column >> 3u);
        out = add4(out, m, at, step, d.a);
        out = add4(out, m, at + 4u * step, step, d.b);
      }
    } else {
      for (var e = 0u; e < p.live; e++) {
        let column = (first + e) % n;
        let row = first + e - column - start;
        var sum = pick(out, e);
        for (var j = 0u; j < n; j++) {
          let d = difference(p, i, u32(i32(row + j) >> 3u));
          let at = j * n + column;
          sum += prod(pick(factor(m, at >> 3u), at & 7u), pick(d, (row + j) & 7u));
        }
        if (e < 4u) { out.a[e] = sum; } else { out.b[e - 4u] = sum; }
      }
    }
  }
  store(p, out);
}
