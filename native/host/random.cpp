#include "host/random.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weightsmith {
namespace {

// Philox4x32-10 (see philox.wgsl).
constexpr int kRounds = 10;
constexpr uint32_t kFirst = 0xd2511f53u, kSecond = 0xcd9e8d57u;
constexpr uint32_t kStep[2] = {0x9e3779b9u, 0xbb67ae85u};

// Counters that go side by side: a round waits for its products, and there is time for others meanwhile.
constexpr size_t kCounters = 16;

// Words of the counters (counter + i, hash).
void philox(const HostStream& stream, uint64_t counter, uint32_t* words) {
  for (size_t i = 0; i < kCounters; ++i) {
    uint32_t x = static_cast<uint32_t>(counter + i), y = static_cast<uint32_t>((counter + i) >> 32);
    uint32_t z = stream.hash[0], w = stream.hash[1], k = stream.seed[0], l = stream.seed[1];
    for (int round = 0; round < kRounds; ++round) {
      const uint64_t p = uint64_t{kFirst} * x, q = uint64_t{kSecond} * z;
      x = static_cast<uint32_t>(q >> 32) ^ y ^ k;
      y = static_cast<uint32_t>(q);
      z = static_cast<uint32_t>(p >> 32) ^ w ^ l;
      w = static_cast<uint32_t>(p);
      k += kStep[0];
      l += kStep[1];
    }
    words[4 * i] = x;
    words[4 * i + 1] = y;
    words[4 * i + 2] = z;
    words[4 * i + 3] = w;
  }
}

#if defined(__x86_64__)
// The same, four counters a vector. What lies above a word in its 64 bits is not looked at.
[[gnu::target("avx2")]] void philoxAvx2(const HostStream& stream, uint64_t counter, uint32_t* words) {
  constexpr size_t kVectors = kCounters / 4;
  __m256i x[kVectors], y[kVectors], z[kVectors], w[kVectors];
  for (size_t i = 0; i < kVectors; ++i) {
    x[i] = _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(counter + 4 * i)), _mm256_set_epi64x(3, 2, 1, 0));
    y[i] = _mm256_srli_epi64(x[i], 32);
    z[i] = _mm256_set1_epi64x(stream.hash[0]);
    w[i] = _mm256_set1_epi64x(stream.hash[1]);
  }
  const __m256i first = _mm256_set1_epi64x(kFirst), second = _mm256_set1_epi64x(kSecond);
  uint32_t k = stream.seed[0], l = stream.seed[1];
  for (int round = 0; round < kRounds; ++round) {
    const __m256i key = _mm256_set1_epi64x(k), low = _mm256_set1_epi64x(l);
    for (size_t i = 0; i < kVectors; ++i) {
      const __m256i p = _mm256_mul_epu32(first, x[i]), q = _mm256_mul_epu32(second, z[i]);
      x[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(q, 32), y[i]), key);
      y[i] = q;
      z[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p, 32), w[i]), low);
      w[i] = p;
    }
    k += kStep[0];
    l += kStep[1];
  }
  for (size_t i = 0; i < kVectors; ++i) {
    const __m256i xy = _mm256_blend_epi32(x[i], _mm256_slli_epi64(y[i], 32), 0xaa);
    const __m256i zw = _mm256_blend_epi32(z[i], _mm256_slli_epi64(w[i], 32), 0xaa);
    const __m256i even = _mm256_unpacklo_epi64(xy, zw), odd = _mm256_unpackhi_epi64(xy, zw);
    auto* const to = reinterpret_cast<__m256i*>(words + 16 * i);
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
  }
}
const bool wide = __builtin_cpu_supports("avx2");
#endif

void draw(const HostStream& stream, uint64_t counter, uint32_t* words) {
#if defined(__x86_64__)
  if (wide) return philoxAvx2(stream, counter, words);
#endif
  philox(stream, counter, words);
}

}  // namespace

void randomWords(const HostStream& stream, uint64_t first, size_t fours, uint32_t* words) {
  const uint64_t counter = first / 4;
  size_t done = 0;
  for (; done + kCounters <= fours; done += kCounters) draw(stream, counter + done, words + 4 * done);
  if (done == fours) return;
  uint32_t rest[4 * kCounters];
  draw(stream, counter + done, rest);
  std::copy_n(rest, 4 * (fours - done), words + 4 * done);
}

}  // namespace weightsmith
