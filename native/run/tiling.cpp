#include "run/tiling.h"

#include <algorithm>

#include "base/error.h"

namespace weightsmith {
namespace {

constexpr uint64_t kMaxCoefficients = 512;     // words of a segment record, generous for what host steps return
constexpr uint64_t kTileTarget = 32ull << 20;  // bytes of one source in a tile: large enough to hide dispatch costs

uint64_t align16(uint64_t value) { return (value + 15) / 16 * 16; }
// Kernels store whole octets, up to 32 bytes each: what lies past a segment's end must not be the next one's start.
uint64_t alignOutput(uint64_t value) { return (value + 31) / 32 * 32; }

struct Kind {
  int32_t program;
  std::vector<DType> inputs;
  std::optional<DType> output;
  size_t variants;
  uint64_t whole;  // bytes of inputs that every tile reads completely
  bool operator==(const Kind&) const = default;
};

Kind kindOf(const Job& job) {
  Kind kind{job.program, {}, std::nullopt, job.variants.size(), 0};
  if (job.program < 0) return kind;  // copies of any type share tiles
  for (const auto& input : job.inputs) {
    kind.inputs.push_back(input.dtype);
    if (input.whole) kind.whole += align16(bytesOf(input.dtype, input.whole));
  }
  if (job.variants[0].output) kind.output = job.variants[0].output->dtype;
  return kind;
}

}  // namespace

uint64_t bytesOf(DType dtype, uint64_t elements) { return (elements * dtypeBits(dtype) + 7) / 8; }

uint64_t readBytes(const Source& source, uint64_t elements) {
  return bytesOf(source.dtype, source.whole ? source.whole : elements);
}

uint32_t recordWords(size_t inputs, size_t coefficients) {
  return static_cast<uint32_t>(6 + 3 * inputs + coefficients);
}

TilingLimits limitsOf(const Plan& plan, uint64_t maxBinding, bool mapped) {
  return {maxBinding, plan.memory / (mapped ? 1 : 2)};
}

size_t roundsOf(const Plan& plan, const Group& group) {
  return group.tiles.size() > 1 && group.program >= 0 ? plan.programs[group.program].kernels.size() : 1;
}

Tiling tile(const Plan& plan, const TilingLimits& limits) {
  Tiling tiling;
  Kind open{-2, {}, std::nullopt, 0, 0};
  uint64_t maxBlocks = 0;
  Group* shared = nullptr;  // the group whose one tile still takes tensors

  for (uint32_t index = 0; index < plan.jobs.size(); index++) {
    const Job& job = plan.jobs[index];
    if (job.elements == 0) continue;
    const Kind kind = kindOf(job);
    const bool copy = job.program < 0;
    // Jobs with whole inputs never share a tile: each has its own.
    if (!(kind == open) || kind.whole) {
      open = kind;
      shared = nullptr;
      uint64_t input = 0, widest = 0, result = 16;
      if (copy) {
        input = widest = kBlock;  // one "element" is a byte
      } else {
        for (const auto& source : job.inputs) {
          if (source.whole) continue;
          input += bytesOf(source.dtype, kBlock);
          widest = std::max(widest, bytesOf(source.dtype, kBlock));
        }
        for (const auto& step : plan.programs[job.program].kernels) {
          result = std::max<uint64_t>(result, step.words ? step.words * 4ull : bytesOf(*kind.output, kBlock));
        }
      }
      const uint64_t table = copy ? 0 : 4 * (1 + 8 + recordWords(job.inputs.size(), 0));
      const uint64_t all = kSlots * (input + table) + kResults * result;
      const uint64_t binding = limits.binding - std::min(limits.binding, kind.whole);
      const uint64_t memory = limits.memory - std::min(limits.memory, kSlots * kind.whole);
      maxBlocks = std::min(
          {binding / input, limits.binding / result, memory / all, std::max<uint64_t>(1, kTileTarget / widest)});
      if (maxBlocks == 0) {
        throw Error(Code::OUT_OF_MEMORY, "One block of the tensor " + job.name + " needs " +
                                             std::to_string(all + kSlots * kind.whole) + " bytes, but a run may take " +
                                             std::to_string(limits.memory) + " and a binding " +
                                             std::to_string(limits.binding) + "; give more memory.");
      }
    }
    const uint64_t units = copy ? bytesOf(job.inputs[0].dtype, job.elements) : job.elements;
    const uint64_t blocks = (units + kBlock - 1) / kBlock;
    const bool fits = shared && shared->tiles[0].blocks + blocks <= maxBlocks;
    if (!fits || blocks > maxBlocks) {
      Group group;
      group.program = job.program;
      group.inputs = static_cast<uint32_t>(job.inputs.size());
      if (!copy) {
        group.inputCode = *kernelCode(job.inputs[0].dtype);
        for (const auto& source : job.inputs) {
          if (source.dtype != job.inputs[0].dtype) group.inputCode = kMixedDType;
        }
        if (kind.output) group.outputCode = *kernelCode(*kind.output);
      }
      tiling.groups.push_back(std::move(group));
      shared = blocks > maxBlocks ? nullptr : &tiling.groups.back();
    }
    Group& group = tiling.groups.back();
    for (uint64_t first = 0; first < blocks; first += maxBlocks) {
      if (group.tiles.empty() || blocks > maxBlocks) group.tiles.emplace_back();
      Tile& tile = group.tiles.back();
      Segment segment;
      segment.job = index;
      segment.firstBlock = first;
      segment.blocks = static_cast<uint32_t>(std::min(maxBlocks, blocks - first));
      segment.elements = std::min(units - first * kBlock, segment.blocks * kBlock);
      for (size_t i = 0; i < job.inputs.size(); i++) {
        segment.inputOffsets.push_back(tile.inputBytes);
        tile.inputBytes += align16(copy ? segment.elements : readBytes(job.inputs[i], segment.elements));
      }
      if (kind.output && !tile.segments.empty()) {
        const Segment& last = tile.segments.back();
        segment.outputOffset = alignOutput(last.outputOffset + bytesOf(*kind.output, last.elements));
      }
      tile.blocks += segment.blocks;
      tile.segments.push_back(std::move(segment));
    }
  }

  for (const Group& group : tiling.groups) {
    for (const Tile& tile : group.tiles) {
      tiling.input = std::max(tiling.input, tile.inputBytes);
      if (group.program < 0) continue;
      for (const auto& step : plan.programs[group.program].kernels) {
        uint64_t result = uint64_t{tile.blocks} * step.words * 4;
        if (!step.words) {
          const Segment& last = tile.segments.back();
          result =
              last.outputOffset + alignOutput(bytesOf(plan.jobs[last.job].variants[0].output->dtype, last.elements));
        }
        tiling.result = std::max(tiling.result, result);
      }
      uint64_t coefficients = 0;
      const bool host = !plan.programs[group.program].host.empty();
      for (const Segment& segment : tile.segments) {
        for (const Variant& variant : plan.jobs[segment.job].variants) {
          coefficients = std::max<uint64_t>(coefficients, variant.coefficients.size());
        }
      }
      if (host) coefficients = std::max(coefficients, kMaxCoefficients);
      tiling.table = std::max<uint64_t>(
          tiling.table, 4 * (8 + tile.blocks + tile.segments.size() * recordWords(group.inputs, coefficients)));
      tiling.counts = std::max<uint64_t>(tiling.counts, 4 * tile.segments.size());
    }
  }
  return tiling;
}

}  // namespace weightsmith
