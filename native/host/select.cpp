#include "host/select.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>

#include "host/wide.h"

namespace weightsmith {
namespace {

constexpr uint32_t kNone = 0xffffffffu;  // lowest key of a bracket that is skipped
constexpr uint32_t kHits = 126;
constexpr uint32_t kRow = 32, kRows = kBlock / kRow;
constexpr uint32_t kTask = 32;  // blocks

struct Bracket {
  uint32_t low, width, shift, one;  // `one`: of one key
};

// Returns how many keys of a block are above the bracket, and bits of those of each row that are inside.
WEIGHTSMITH_WIDE uint32_t compare(const uint32_t* keys, uint32_t low, uint32_t width, uint32_t* inside) {
  uint32_t above = 0;
  for (uint32_t row = 0; row < kRows; ++row) {
    uint32_t bits = 0, over = 0;
    for (uint32_t i = 0; i < kRow; ++i) {
      const uint32_t key = keys[row * kRow + i];
      over += key > low + width ? 1 : 0;
      bits |= key - low <= width ? 1u << i : 0;
    }
    above += over;
    inside[row] = bits;
  }
  return above;
}

// The words of a bracket in a block, as the kernel writes them.
void look(const uint32_t* keys, const Bracket& bracket, uint32_t* words) {
  std::fill_n(words, kSelectWords, 0);
  if (bracket.low == kNone) return;
  std::array<uint32_t, kRows> inside;
  words[0] = compare(keys, bracket.low, bracket.width, inside.data());
  for (uint32_t r = 0; r < kRows; ++r) {
    // In scattered order, so that the hits that find a place are a fair sample of an ordered tensor too.
    const uint32_t row = (r & 1) << 5 | (r & 2) << 3 | (r & 4) << 1 | (r & 8) >> 1 | (r & 16) >> 3 | (r & 32) >> 5;
    if (bracket.one != 0) {
      words[2 + row] = inside[row];
    } else {
      uint32_t hits = inside[row];
      for (uint32_t slot = words[1]; hits != 0 && slot < kHits; ++slot, hits &= hits - 1) {
        const uint32_t e = row * kRow + static_cast<uint32_t>(std::countr_zero(hits));
        words[2 + slot] = (keys[e] - bracket.low) >> bracket.shift << 11 | e;
      }
    }
    words[1] += static_cast<uint32_t>(std::popcount(inside[row]));
  }
}

// Keys of the elements of a block from `first` on, 0 where there is none. With WEIGHTED 1 each row of the tensor has a
// weight (see lines.wgsl).
void blockKeys(const HostPart& part, size_t model, uint32_t first, bool weighted, uint32_t* keys) {
  const uint32_t count = std::min<uint32_t>(kBlock, part.elements() - first);
  const HostSource base = part.source(0), source = part.source(model + 1);
  std::fill(keys + count, keys + kBlock, 0);
  if (!weighted) {
    deltaKeys(base, source, first, count, keys);
    return;
  }
  const uint32_t* const lines = part.coefficients() + part.coefficients()[0];
  const uint64_t size = lines[1];
  for (uint32_t done = 0; done < count;) {
    const uint64_t at = uint64_t{lines[0]} + first + done;
    const auto run = static_cast<uint32_t>(std::min<uint64_t>(count - done, size - at % size));
    weightedKeys(base, source, first + done, run, std::bit_cast<float>(lines[2 + at / size]), keys + done);
    done += run;
  }
}

}  // namespace

bool selectOnHost(const SelectWork& work, ThreadPool& threads) {
  const auto parts = hostParts(work.tile);
  const size_t models = work.tile.inputs - 1, selections = models * work.cuts;
  for (const HostPart& part : parts) {
    for (size_t i = 0; i <= models; ++i) {
      if (!hostLoads(part.source(i).dtype)) return false;
    }
  }
  std::atomic<uint32_t> next{0};
  Completion done;
  threads.submitAll(done, [&] {
    std::array<uint32_t, kBlock> keys;
    for (uint32_t task = next++; task * kTask < work.tile.blocks(); task = next++) {
      const uint32_t last = std::min((task + 1) * kTask, work.tile.blocks());
      for (uint32_t block = task * kTask; block < last; ++block) {
        const HostPart part(work.tile, block);
        const uint32_t first = (block - part.firstBlock()) * kBlock;
        const uint32_t* const brackets = part.coefficients() + (work.weighted ? 1 : 0);
        for (size_t model = 0; model < models; ++model) {
          const auto bracket = [&](size_t cut) {
            const uint32_t* const words = brackets + 4 * (model * work.cuts + cut);
            return Bracket{words[0], words[1], words[2], words[3]};
          };
          bool open = false;
          for (size_t cut = 0; cut < work.cuts; ++cut) open = open || bracket(cut).low != kNone;
          if (open) blockKeys(part, model, first, work.weighted, keys.data());
          for (size_t cut = 0; cut < work.cuts; ++cut) {
            look(keys.data(), bracket(cut),
                 work.result + (block * selections + model * work.cuts + cut) * kSelectWords);
          }
        }
      }
    }
  });
  done.wait();
  return true;
}

}  // namespace weightsmith
