// What every tile kernel shares: where its vec8 of elements lies, and how it is loaded.
#include "layout.wgsl"
#include "stored.wgsl"

override INPUTS: u32 = 1u;
override IN_DTYPE: u32 = DTYPE_BF16;
override OUT_DTYPE: u32 = DTYPE_BF16;

@group(0) @binding(0) var<storage, read> inputs: array<vec4u>;
@group(0) @binding(2) var<storage, read> table: array<u32>;

const BLOCK_VEC8S = BLOCK / 8u;

// Eight consecutive elements.
struct Vec8 { a: vec4f, b: vec4f }

// Where an invocation works. `live` of the vec8's elements exist (0: nothing to do); `elements` are in the whole
// segment.
struct Place { block: u32, rec: u32, vec8: u32, live: u32, elements: u32 }

// What every vec8 needs of the table: a zero, where the output starts, the seed, the flat index of the first element,
// the first sources, hashes of names and coefficients. `place` reads it, because a software driver reads a word once
// for all invocations outside of branches and loops, but once for each one inside of them.
var<private> zero: u32;
var<private> output_at: u32;
var<private> seed: vec2u;
var<private> flat: vec2u;
var<private> sources: vec4u;
var<private> hashes: array<vec2u, 4>;
var<private> coefs: array<vec4u, 3>;

// Where the coefficients of a record start, and its hash of name and model for input `i`.
fn coefs_at(rec: u32) -> u32 { return rec + RECORD_SOURCES + RECORD_INPUT_WORDS * INPUTS; }
fn hash_of(rec: u32, i: u32) -> vec2u {
  let at = rec + RECORD_SOURCES + INPUTS + 2u * i;
  return vec2u(table[at], table[at + 1u]);
}

// The vec8 `lane` (0..255) of the block that workgroup `wid` handles.
fn place(wid: vec3u, nwg: vec3u, lane: u32) -> Place {
  let block = wid.x + wid.y * nwg.x;
  zero = table[TABLE_ZERO];
  let rec = table[TABLE_RECORDS] + table[table[TABLE_MAP] + block] * table[TABLE_RECORD_WORDS];
  let first = rec + RECORD_SOURCES;
  let words = coefs_at(rec);
  seed = vec2u(table[TABLE_SEED], table[TABLE_SEED + 1u]);
  flat = vec2u(table[rec + RECORD_FLAT], table[rec + RECORD_FLAT + 1u]);
  output_at = table[rec + RECORD_OUTPUT];
  sources = vec4u(table[first], table[first + 1u], table[first + 2u], table[first + 3u]);
  for (var i = 0u; i < 4u; i++) { hashes[i] = hash_of(rec, i); }
  coefs[0] = vec4u(table[words], table[words + 1u], table[words + 2u], table[words + 3u]);
  coefs[1] = vec4u(table[words + 4u], table[words + 5u], table[words + 6u], table[words + 7u]);
  coefs[2] = vec4u(table[words + 8u], table[words + 9u], table[words + 10u], table[words + 11u]);
  let elements = select(0u, table[rec + RECORD_ELEMENTS], block < table[TABLE_BLOCKS]);
  return vec8_of(block, rec, (block - table[rec + RECORD_FIRST_BLOCK]) * BLOCK_VEC8S + lane, elements);
}

fn vec8_of(block: u32, rec: u32, vec8: u32, elements: u32) -> Place {
  let first = vec8 * 8u;
  return Place(block, rec, vec8, select(0u, min(8u, elements - first), first < elements), elements);
}

// The place `vec8s` further in the same block. A place without live vec8s stays one.
fn along(p: Place, vec8s: u32) -> Place { return vec8_of(p.block, p.rec, p.vec8 + vec8s, p.elements); }

fn coef_bits(p: Place, j: u32) -> u32 {
  if (j < 12u) { return select(select(coefs[0], coefs[1], j >= 4u), coefs[2], j >= 8u)[j & 3u]; }
  return coef_word(p, j);
}
// The same, where barriers depend on it.
fn coef_word(p: Place, j: u32) -> u32 { return table[coefs_at(p.rec) + j]; }
fn coef(p: Place, j: u32) -> f32 { return bitcast<f32>(coef_bits(p, j)); }

// A product that no compiler can fuse with a following addition: the xor with a zero it cannot see through.
fn prod(a: f32, b: f32) -> f32 { return bitcast<f32>(bitcast<u32>(a * b) ^ zero); }
fn prod4(a: vec4f, b: f32) -> vec4f { return bitcast<vec4f>(bitcast<vec4u>(a * b) ^ vec4u(zero)); }

// The bound of a loop that compilers cannot unroll: unrolled, the kernel takes them several times as long.
fn rolled(bound: u32) -> u32 { return bound + zero; }
// The same around barriers: WGSL takes what is private for different in every invocation.
fn rolled_together(bound: u32) -> u32 { return bound + table[TABLE_ZERO]; }

// Of the inputs' one type. It is a constant here and no parameter, because drivers drop what is never taken before
// they copy functions into their callers: their compilers take half the time.
fn load_same(off: u32, o: u32) -> Bits {
  if (IN_DTYPE == DTYPE_BF16) { return load_bf16(off, o); }
  if (IN_DTYPE == DTYPE_F32) { return load_f32(off, o); }
  if (IN_DTYPE == DTYPE_F16) { return load_f16(off, o); }
  if (IN_DTYPE == DTYPE_F64) { return load_f64(off, o); }
  return load_f8(off, o, IN_DTYPE == DTYPE_F8_E5M2);
}

// Where input `i` starts in the slot, and how it is stored.
fn source(p: Place, i: u32) -> u32 {
  if (INPUTS <= 4u || i < 4u) { return sources[i]; }
  return table[p.rec + RECORD_SOURCES + i];
}

fn source_at(source: u32) -> u32 { return source & ((1u << SOURCE_DTYPE) - 1u); }

// A vec8 of such an input, as f32.
fn load_from(source: u32, vec8: u32) -> Vec8 {
  let off = source_at(source);
  if (IN_DTYPE == DTYPE_MIXED) {
    let bits = load_bits(off, source >> SOURCE_DTYPE, vec8);
    return Vec8(bitcast<vec4f>(bits.a), bitcast<vec4f>(bits.b));
  }
  let bits = load_same(off, vec8);
  return Vec8(bitcast<vec4f>(bits.a), bitcast<vec4f>(bits.b));
}

// The same of an input whose type is known when the pipeline is made: where inputs differ in theirs, kernels compile in
// a tenth of the time. DTYPE_MIXED: it is not.
fn load_as(source: u32, vec8: u32, code: u32) -> Vec8 {
  if (code == DTYPE_MIXED) { return load_from(source, vec8); }
  let bits = load_bits(source_at(source), code, vec8);
  return Vec8(bitcast<vec4f>(bits.a), bitcast<vec4f>(bits.b));
}

// Input `i` of this vec8, as f32.
fn load(p: Place, i: u32) -> Vec8 { return load_from(source(p, i), p.vec8); }
