// Finds the exact cut of "keep the K largest magnitudes, equal ones by lower index" from what the kernels
// select_sample and select report, in few passes and bounded memory. See select.wgsl for the words.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace weightsmith {

class Selection {
 public:
  static constexpr size_t kBracketWords = 4;

  // `elements` to choose from, in blocks that follow each other from 0 on; only the last block of a tensor is partial.
  Selection(uint64_t elements, uint64_t keep);

  bool done() const { return done_; }
  // An element stays if key > threshold, or key == threshold and its flat index < cut.
  uint32_t threshold() const { return threshold_; }
  uint64_t cut() const { return cut_; }

  void sample(std::span<const uint32_t> keys, uint64_t block);
  void aim();  // choose the next bracket
  void bracketWords(std::vector<uint32_t>& words) const;
  void hits(std::span<const uint32_t> words, uint64_t block);
  void close();  // after a whole select pass: found, or know more and aim again

 private:
  void settle(uint32_t threshold, uint64_t cut);
  void setBracket(uint32_t low, uint32_t high);
  uint32_t keyOf(uint64_t hit) const;

  const uint64_t elements_;
  const uint64_t keep_;
  const uint64_t sampleEvery_;
  bool done_ = false;
  uint32_t threshold_ = 0;
  uint64_t cut_ = 0;

  // The cut lies in [known low, known high]; `above_` keys are larger than the known high, `within_` inside.
  uint32_t knownLow_;
  uint32_t knownHigh_;
  uint64_t above_ = 0;
  uint64_t within_;
  std::vector<uint32_t> sample_;  // keys

  // The bracket of the present pass, and what the pass has found.
  uint32_t low_ = 0;
  uint32_t high_ = 0;
  uint32_t shift_ = 0;
  int overflows_ = 0;  // passes with more hits than they could write down, since the last halving
  bool complete_ = true;
  uint64_t passAbove_ = 0;
  uint64_t passInside_ = 0;
  std::vector<uint64_t> found_;        // (largest prefix first, flat index): ascending order is the order of keeping
  std::vector<uint32_t> blockCounts_;  // hits a block, for a bracket of one key
  std::vector<uint32_t> mask_;         // the bit masks of a bracket of one key, or of `maskBlock_` alone
  uint64_t maskBlock_ = UINT64_MAX;
};

}  // namespace weightsmith
