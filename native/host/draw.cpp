#include "host/draw.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <numeric>

#include "host/keys.h"
#include "host/random.h"
#include "host/tile.h"
#include "host/wide.h"
#include "layout.h"

namespace weightsmith {
namespace {

constexpr uint64_t kLongest = 1 << 16;  // elements of a row: a thread keeps 22 bytes of each
constexpr uint64_t kLine = 32;          // elements of a word of bits
constexpr uint64_t kLines = kBlock / kLine;
constexpr size_t kDropWords = 3;      // coefficients a model (see drop.wgsl)
constexpr uint64_t kShare = 1 << 16;  // elements of a task, about

// Bins: the zeros, all that is small, then equal steps of keys over eight powers of two up to the largest of a row.
constexpr uint32_t kOctaves = 8, kLeastBins = 16, kMostBins = 1u << 11;

// Part of a tensor in a tile, as its record has it, and one of the models.
struct Part {
  uint32_t elements = 0;
  uint64_t flat = 0;  // of the first element
  HostSource base, model;
  HostStream stream;
  uint64_t row = 0;           // elements of a row; 0: all go with the same probability
  float first = 0, rank = 0;  // the limit of rank 0, and what a rank takes off it
  size_t bitsAt = 0;          // among the words of all bits, that of the first line
  uint32_t* bits = nullptr;   // the same, in the table
  size_t stride = 0;          // words from a line to the next one
};

// Random words below this go; it never rises with the rank. As `limit` and `bound` of ranks.wgsl.
inline uint32_t limitOf(const Part& part, uint32_t rank) {
  // Rounded once as a product, which f64 holds exactly, so that no compiler fuses it with what follows.
  const double product = static_cast<double>(static_cast<float>(static_cast<int32_t>(rank))) * part.rank;
  const float limit = part.first - static_cast<float>(product);
  return static_cast<uint32_t>(static_cast<int64_t>(std::min(std::max(limit, 0.0f), 4294967040.0f)));
}

WEIGHTSMITH_WIDE void binsOf(const uint32_t* keys, size_t count, uint32_t top, uint32_t shift, uint32_t bins,
                             uint16_t* to) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t below = std::min((top - std::min(keys[i], top)) >> shift, bins - 2);
    to[i] = static_cast<uint16_t>(keys[i] == kZeroKey ? 0 : bins - 1 - below);
  }
}

// What a thread needs for a row.
class Row {
 public:
  // The bits of the elements of a row, which begins at element `begin` of the part and may end after it.
  void draw(const Part& part, int64_t begin) {
    count_ = static_cast<size_t>(part.row);
    keys_.resize(count_);
    bins_.resize(count_);
    const uint32_t top = deltaKeys(part.base, part.model, begin, count_, keys_.data());
    const uint32_t bins = std::clamp(std::bit_ceil(static_cast<uint32_t>(count_) / 2), kLeastBins, kMostBins);
    const auto shift = static_cast<uint32_t>(std::countr_zero(kOctaves << 23) - std::countr_zero(bins));
    binsOf(keys_.data(), count_, top, shift, bins, bins_.data());
    starts_.assign(bins + 1, 0);
    for (const uint16_t bin : bins_) ++starts_[bin];
    std::exclusive_scan(starts_.begin(), starts_.end(), starts_.begin(), 0u);
    // Elements with words from the limit of a bin's start on stay, those with words below that of its end go.
    limits_.resize(bins + 1);
    for (uint32_t bin = 0; bin <= bins; ++bin) limits_[bin] = limitOf(part, starts_[bin]);

    open_.clear();
    const auto first = static_cast<uint64_t>(std::max<int64_t>(begin, 0));
    const uint64_t last = std::min<uint64_t>(begin + count_, part.elements);
    for (uint64_t line = first / kLine; line * kLine < last; ++line) {
      uint32_t words[kLine];
      randomWords(part.stream, part.flat + line * kLine, kLine / 4, words);
      const uint64_t from = std::max(first, line * kLine), till = std::min(last, line * kLine + kLine);
      uint32_t stays = 0, open = 0;
      // Without branches, which nobody could foresee.
      for (uint64_t e = from; e < till; ++e) {
        const uint32_t bin = bins_[e - begin], word = words[e % kLine];
        stays |= static_cast<uint32_t>(word >= limits_[bin]) << (e % kLine);
        open |= static_cast<uint32_t>(word >= limits_[bin + 1]) << (e % kLine);
      }
      for (uint32_t left = open & ~stays; left != 0; left &= left - 1) {
        const auto bit = static_cast<uint32_t>(std::countr_zero(left));
        const auto at = static_cast<uint32_t>(line * kLine + bit - begin);
        if (bins_[at] != 0) open_.push_back({at, words[bit]});
      }
      part.bits[line * part.stride] |= stays;
    }
    if (!open_.empty()) settle(part, begin, bins);
  }

 private:
  struct Open {
    uint32_t at, word;
  };

  // Sorts the bins that have open elements, whose ranks are then their places.
  void settle(const Part& part, int64_t begin, uint32_t bins) {
    // The elements of all other bins go to one place past all ends, for the sake of a loop without branches.
    const auto none = static_cast<uint32_t>(count_) + 1;
    ends_.assign(bins, none);
    for (const Open& open : open_) ends_[bins_[open.at]] = starts_[bins_[open.at]];
    sorted_.resize(count_ + 2);
    for (uint32_t i = 0; i < count_; ++i) {
      const uint32_t place = ends_[bins_[i]];
      sorted_[place] = uint64_t{keys_[i]} << 32 | i;
      ends_[bins_[i]] = place + static_cast<uint32_t>(place != none);
    }
    for (uint32_t bin = 0; bin < bins; ++bin) {
      if (ends_[bin] == none) continue;
      // Where all are equal, as many are where inputs are rounded, they are in order already.
      const auto from = sorted_.begin() + starts_[bin], till = sorted_.begin() + ends_[bin];
      if (!std::is_sorted(from, till)) std::sort(from, till);
    }
    for (const Open& open : open_) {
      const uint32_t bin = bins_[open.at];
      const auto from = sorted_.begin() + starts_[bin], till = sorted_.begin() + ends_[bin];
      const auto found = std::lower_bound(from, till, uint64_t{keys_[open.at]} << 32 | open.at);
      if (open.word < limitOf(part, static_cast<uint32_t>(found - sorted_.begin()))) continue;
      const auto e = static_cast<uint64_t>(begin + open.at);
      part.bits[e / kLine * part.stride] |= 1u << (e % kLine);
    }
  }

  size_t count_ = 0;
  std::vector<uint32_t> keys_;
  std::vector<uint16_t> bins_;
  std::vector<uint32_t> starts_, limits_, ends_;  // a bin; one more start and limit
  std::vector<Open> open_;
  std::vector<uint64_t> sorted_;  // keys with their places
};

// Some lines of a part whose elements all go with the same probability.
void drawAlike(const Part& part, uint64_t firstLine, uint64_t lastLine) {
  constexpr uint64_t kAtOnce = 8;
  const uint32_t limit = limitOf(part, 0);
  uint32_t words[kAtOnce * kLine];
  for (uint64_t line = firstLine; line < lastLine; line += kAtOnce) {
    const uint64_t lines = std::min(kAtOnce, lastLine - line);
    randomWords(part.stream, part.flat + line * kLine, lines * kLine / 4, words);
    for (uint64_t l = 0; l < lines; ++l) {
      uint32_t stays = 0;
      for (uint64_t e = 0; e < kLine; ++e) stays |= (words[l * kLine + e] >= limit ? 1u : 0u) << e;
      part.bits[(line + l) * part.stride] = stays;
    }
  }
}

// Some rows of a part, or some blocks of one without ranks.
struct Task {
  size_t part = 0;
  uint64_t first = 0, last = 0;
};

}  // namespace

bool drawOnHost(const DrawWork& work, ThreadPool& threads) {
  auto& table = work.table;
  const size_t models = work.inputs - 1;
  const uint32_t blocks = table[kTableBlocks];
  const size_t words = blocks * kLines * models;
  if (table.size() + words > work.room) return false;

  const HostTile tile{table, work.sources, work.inputs};
  std::vector<Part> parts;
  std::vector<Task> tasks;
  for (const HostPart& segment : hostParts(tile)) {
    Part part;
    part.elements = segment.elements();
    part.flat = segment.flat();
    part.base = segment.source(0);
    part.stride = models;
    const uint32_t* const coefficients = segment.coefficients() + (work.masks ? 1 : 0);
    const uint64_t row = coefficients[kDropWords * models];
    for (size_t i = 0; i < models; ++i) {
      const uint32_t* const hash = segment.hash(i + 1);
      part.model = segment.source(i + 1);
      part.stream = {{table[kTableSeed], table[kTableSeed + 1]}, {hash[0], hash[1]}};
      part.bitsAt = segment.firstBlock() * kLines * models + i;
      part.first = std::bit_cast<float>(coefficients[kDropWords * i]);
      part.rank = std::bit_cast<float>(coefficients[kDropWords * i + 1]);
      part.row = part.rank == 0 ? 0 : row;
      if (part.row > kLongest || (part.row != 0 && !(hostLoads(part.base.dtype) && hostLoads(part.model.dtype)))) {
        return false;
      }
      // Rows of two tasks never share a line.
      const uint64_t unit = part.row ? kLine / std::gcd(kLine, part.row) : 1;
      const uint64_t size = part.row ? part.row : kBlock;
      const uint64_t step = std::max<uint64_t>(1, kShare / (unit * size)) * unit;
      const uint64_t until = part.row ? part.flat + part.elements : part.elements;
      uint64_t from = part.row ? part.flat / part.row / unit * unit : 0;
      for (; from * size < until; from += step) {
        tasks.push_back({parts.size(), from, std::min(from + step, (until + size - 1) / size)});
      }
      parts.push_back(part);
    }
  }

  const size_t start = table.size();
  table[kTableGiven] = static_cast<uint32_t>(start);
  table.resize(start + words);
  for (Part& part : parts) part.bits = &table[start + part.bitsAt];

  std::atomic<size_t> next{0};
  Completion done;
  threads.submitAll(done, [&] {
    Row row;
    for (size_t t = next++; t < tasks.size(); t = next++) {
      const auto& [p, first, last] = tasks[t];
      const Part& part = parts[p];
      if (part.row == 0) {
        drawAlike(part, first * kLines, std::min(last * kLines, (part.elements + kLine - 1) / kLine));
        continue;
      }
      for (uint64_t r = first; r < last; ++r) {
        const auto begin = static_cast<int64_t>(r * part.row) - static_cast<int64_t>(part.flat);
        if (begin + static_cast<int64_t>(part.row) > 0) row.draw(part, begin);
      }
    }
  });
  done.wait();
  return true;
}

}  // namespace weightsmith
