#include "steps/selection.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

#include "plan/plan.h"

namespace weightsmith {
namespace {

constexpr uint32_t kKeyMin = 1;
constexpr uint32_t kKeyMax = 0x7f800001u;
constexpr unsigned kPrefixBits = 21;
constexpr unsigned kFlatBits = 43;
constexpr uint32_t kPrefixMask = (1u << kPrefixBits) - 1;
constexpr uint64_t kFlatMask = (uint64_t{1} << kFlatBits) - 1;
constexpr size_t kHits = 126;
constexpr size_t kMaskWords = 64;
constexpr uint64_t kSampleMax = uint64_t{1} << 20;
constexpr size_t kFoundMax = size_t{1} << 22;
// Masks of tensors up to this size are kept whole (32 MiB); a larger one costs a pass more.
constexpr uint64_t kMaskMax = uint64_t{1} << 28;

uint64_t blocksOf(uint64_t elements) { return (elements + kBlock - 1) / kBlock; }

}  // namespace

Selection::Selection(uint64_t elements, uint64_t keep)
    : elements_(elements),
      keep_(std::min(keep, elements)),
      sampleEvery_(blocksOf(elements) * kSampleWords / kSampleMax + 1),
      knownLow_(kKeyMin),
      knownHigh_(kKeyMax),
      within_(elements) {
  if (keep_ == elements_)
    settle(0, 0);
  else if (keep_ == 0)
    settle(UINT32_MAX, 0);
}

void Selection::settle(uint32_t threshold, uint64_t cut) {
  threshold_ = threshold;
  cut_ = cut;
  done_ = true;
  sample_ = {};
  found_ = {};
  blockCounts_ = {};
  mask_ = {};
}

void Selection::sample(std::span<const uint32_t> keys, uint64_t block) {
  if (done_ || block % sampleEvery_ != 0) return;
  for (uint32_t key : keys) {
    if (key != 0) sample_.push_back(key);
  }
}

void Selection::setBracket(uint32_t low, uint32_t high) {
  low_ = low;
  high_ = high;
  const int width = std::bit_width(high - low);
  shift_ = width > static_cast<int>(kPrefixBits) ? width - kPrefixBits : 0;
}

void Selection::aim() {
  if (done_) return;
  std::erase_if(sample_, [&](uint32_t key) { return key < knownLow_ || key > knownHigh_; });
  // The key of a rank among the sample, from the largest on.
  const auto ranked = [&](double rank) {
    const auto at = sample_.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(sample_.begin(), at, sample_.end(), std::greater<>());
    return *at;
  };
  const double size = static_cast<double>(sample_.size());
  uint32_t low = knownLow_;
  uint32_t high = knownHigh_;
  if (low != high && overflows_ > 2) {
    // The hits written down are no fair sample, and in an ordered tensor they mislead. Halving the keys always works.
    high = low + (high - low) / 2;
    overflows_ = 0;
  } else if (!sample_.empty() && low != high) {
    const double share = static_cast<double>(keep_ - above_) / static_cast<double>(within_);
    const double at = share * size;
    // Three standard deviations of a quantile; the bracket may miss, which costs a pass and no correctness.
    const double margin = 3 * std::sqrt(size * share * (1 - share)) + 2;
    const double first = std::floor(at - margin);
    const double last = std::ceil(at + margin);
    if (first >= 0) high = ranked(first);
    if (last < size) low = ranked(last);
    if (overflows_ > 0 && low == knownLow_ && high == knownHigh_) {
      // A bracket of one key always splits what is known.
      low = high = ranked(std::min(at, size - 1));
    }
  }
  setBracket(low, high);
  complete_ = true;
  passAbove_ = 0;
  passInside_ = 0;
  found_.clear();
  mask_.clear();
  blockCounts_.clear();
}

void Selection::bracketWords(std::vector<uint32_t>& words) const {
  if (done_) {
    words.insert(words.end(), {UINT32_MAX, 0, 0, 0});
    return;
  }
  words.insert(words.end(), {low_, high_ - low_, shift_, low_ == high_ ? 1u : 0u});
}

uint32_t Selection::keyOf(uint64_t hit) const {
  const uint32_t prefix = kPrefixMask - static_cast<uint32_t>(hit >> kFlatBits);
  return low_ + (prefix << shift_);
}

void Selection::hits(std::span<const uint32_t> words, uint64_t block) {
  if (done_) return;
  passAbove_ += words[0];
  const uint32_t count = words[1];
  passInside_ += count;
  if (low_ == high_) {
    blockCounts_.push_back(count);
    if (elements_ <= kMaskMax || block == maskBlock_) {
      mask_.insert(mask_.end(), words.begin() + 2, words.begin() + 2 + kMaskWords);
    }
    return;
  }
  if (count > kHits || found_.size() >= kFoundMax) complete_ = false;
  if (found_.size() >= kFoundMax) return;
  for (size_t i = 0; i < std::min<size_t>(count, kHits); ++i) {
    const uint64_t prefix = kPrefixMask - (words[2 + i] >> 11);
    found_.push_back(prefix << kFlatBits | (block * kBlock + (words[2 + i] & (kBlock - 1))));
  }
}

void Selection::close() {
  if (done_) return;
  if (keep_ <= passAbove_) {  // the cut lies above the bracket
    within_ = passAbove_ - above_;
    knownLow_ = high_ + 1;
    aim();
    return;
  }
  if (keep_ > passAbove_ + passInside_) {  // below it
    within_ -= passAbove_ - above_ + passInside_;
    above_ = passAbove_ + passInside_;
    knownHigh_ = low_ - 1;
    aim();
    return;
  }
  knownLow_ = low_;
  knownHigh_ = high_;
  above_ = passAbove_;
  within_ = passInside_;
  uint64_t rank = keep_ - above_;  // of the cut inside the bracket, from 1
  if (low_ == high_) {
    if (rank == within_) {  // all equal keys stay: no need to know where they are
      settle(low_, kFlatMask);
      return;
    }
    uint64_t block = 0;
    while (rank > blockCounts_[block]) rank -= blockCounts_[block++];
    const bool all = elements_ <= kMaskMax;
    if (!all && block != maskBlock_) {
      maskBlock_ = block;
      aim();
      return;
    }
    const uint32_t* mask = mask_.data() + (all ? block * kMaskWords : 0);
    size_t word = 0;
    while (rank > static_cast<uint64_t>(std::popcount(mask[word]))) rank -= std::popcount(mask[word++]);
    uint32_t bits = mask[word];
    while (--rank > 0) bits &= bits - 1;
    settle(low_, block * kBlock + word * 32 + std::countr_zero(bits) + 1);
    return;
  }
  if (complete_) {
    const auto cut = found_.begin() + static_cast<std::ptrdiff_t>(rank - 1);
    std::nth_element(found_.begin(), cut, found_.end());
    if (shift_ == 0) {
      settle(keyOf(*cut), (*cut & kFlatMask) + 1);
      return;
    }
    // The keys are known up to `shift_` bits: go on inside the prefix of the cut.
    const uint64_t prefix = *cut >> kFlatBits;
    const uint32_t low = keyOf(*cut);
    uint64_t before = 0;
    uint64_t same = 0;
    for (uint64_t hit : found_) {
      before += (hit >> kFlatBits) < prefix;
      same += (hit >> kFlatBits) == prefix;
    }
    above_ += before;
    within_ = same;
    knownHigh_ = std::min(high_, low + ((1u << shift_) - 1));
    knownLow_ = low;
    aim();
    return;
  }
  // Too many inside: what was written down is a finer sample.
  ++overflows_;
  sample_.clear();
  const size_t every = found_.size() / kSampleMax + 1;
  for (size_t i = 0; i < found_.size(); i += every) sample_.push_back(keyOf(found_[i]));
  aim();
}

}  // namespace weightsmith
