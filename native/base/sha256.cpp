// FIPS 180-4 in two ways: plain C++, and x86-64 SHA instructions chosen when the program runs.
#include "base/sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace weightsmith {

namespace {

constexpr size_t kBlock = 64;

alignas(16) constexpr uint32_t kRounds[64] = {
    0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
    0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
    0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
    0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
    0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
    0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
    0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
    0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2};

void compressPortable(uint32_t* state, const uint8_t* blocks, size_t count) {
  for (; count > 0; count--, blocks += kBlock) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) {
      const uint8_t* p = blocks + 4 * i;
      w[i] = uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | uint32_t{p[3]};
    }
    for (int i = 16; i < 64; i++) {
      const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
      const uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRounds[i] + w[i];
      const uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = d + t1;
      d = c;
      c = b;
      b = a;
      a = t1 + t2;
    }
    const uint32_t next[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++) state[i] += next[i];
  }
}

#if defined(__x86_64__)

#define WEIGHTSMITH_SHA_TARGET __attribute__((target("sha,sse4.1")))

// Four rounds with the message words of `m`.
WEIGHTSMITH_SHA_TARGET inline void fourRounds(__m128i& abef, __m128i& cdgh, __m128i m, int round) {
  __m128i words = _mm_add_epi32(m, _mm_load_si128(reinterpret_cast<const __m128i*>(kRounds + round)));
  cdgh = _mm_sha256rnds2_epu32(cdgh, abef, words);
  words = _mm_shuffle_epi32(words, 0x0E);
  abef = _mm_sha256rnds2_epu32(abef, cdgh, words);
}

// Replaces the oldest four message words, `m0`, by the four that follow `m3`.
WEIGHTSMITH_SHA_TARGET inline void extend(__m128i& m0, __m128i m1, __m128i m2, __m128i m3) {
  m0 = _mm_add_epi32(_mm_sha256msg1_epu32(m0, m1), _mm_alignr_epi8(m3, m2, 4));
  m0 = _mm_sha256msg2_epu32(m0, m3);
}

WEIGHTSMITH_SHA_TARGET void compressSha(uint32_t* state, const uint8_t* blocks, size_t count) {
  const __m128i bigEndian = _mm_set_epi64x(0x0C0D0E0F08090A0B, 0x0405060700010203);
  const auto load = reinterpret_cast<const __m128i*>(state);
  const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(load), 0xB1);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(load + 1), 0x1B);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);

  for (; count > 0; count--, blocks += kBlock) {
    const __m128i abefBefore = abef;
    const __m128i cdghBefore = cdgh;
    const auto words = reinterpret_cast<const __m128i*>(blocks);
    __m128i m0 = _mm_shuffle_epi8(_mm_loadu_si128(words), bigEndian);
    __m128i m1 = _mm_shuffle_epi8(_mm_loadu_si128(words + 1), bigEndian);
    __m128i m2 = _mm_shuffle_epi8(_mm_loadu_si128(words + 2), bigEndian);
    __m128i m3 = _mm_shuffle_epi8(_mm_loadu_si128(words + 3), bigEndian);
    for (int round = 0; round < 48; round += 16) {
      fourRounds(abef, cdgh, m0, round);
      extend(m0, m1, m2, m3);
      fourRounds(abef, cdgh, m1, round + 4);
      extend(m1, m2, m3, m0);
      fourRounds(abef, cdgh, m2, round + 8);
      extend(m2, m3, m0, m1);
      fourRounds(abef, cdgh, m3, round + 12);
      extend(m3, m0, m1, m2);
    }
    fourRounds(abef, cdgh, m0, 48);
    fourRounds(abef, cdgh, m1, 52);
    fourRounds(abef, cdgh, m2, 56);
    fourRounds(abef, cdgh, m3, 60);
    abef = _mm_add_epi32(abef, abefBefore);
    cdgh = _mm_add_epi32(cdgh, cdghBefore);
  }

  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  const auto store = reinterpret_cast<__m128i*>(state);
  _mm_storeu_si128(store, _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(store + 1, _mm_alignr_epi8(dchg, feba, 8));
}

bool hasShaInstructions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const bool sse41 = (c >> 19 & 1) != 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return sse41 && (b >> 29 & 1) != 0;
}

#endif

}  // namespace

Sha256::Compress Sha256::fastest() {
#if defined(__x86_64__)
  static const Compress chosen = hasShaInstructions() ? compressSha : compressPortable;
  return chosen;
#else
  return compressPortable;
#endif
}

Sha256 Sha256::portable() {
  Sha256 hash;
  hash.compress_ = compressPortable;
  return hash;
}

void Sha256::update(const void* data, size_t size) {
  if (size == 0) return;
  auto bytes = static_cast<const uint8_t*>(data);
  const size_t held = total_ % kBlock;
  total_ += size;
  if (held > 0) {
    const size_t take = std::min(size, kBlock - held);
    std::memcpy(pending_.data() + held, bytes, take);
    if (held + take < kBlock) return;
    compress_(state_.data(), pending_.data(), 1);
    bytes += take;
    size -= take;
  }
  compress_(state_.data(), bytes, size / kBlock);
  const size_t rest = size % kBlock;
  if (rest > 0) std::memcpy(pending_.data(), bytes + (size - rest), rest);
}

std::string Sha256::hex() const {
  // The last one or two blocks: pending bytes, a one bit, zeros, and the length in bits.
  std::array<uint8_t, 2 * kBlock> tail = {};
  const size_t held = total_ % kBlock;
  std::memcpy(tail.data(), pending_.data(), held);
  tail[held] = 0x80;
  const size_t blocks = held + 9 <= kBlock ? 1 : 2;
  const uint64_t bits = total_ * 8;
  for (size_t i = 0; i < 8; i++) tail[blocks * kBlock - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
  std::array<uint32_t, 8> state = state_;
  compress_(state.data(), tail.data(), blocks);

  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (const uint32_t word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) out += kHex[word >> shift & 15];
  }
  return out;
}

}  // namespace weightsmith
