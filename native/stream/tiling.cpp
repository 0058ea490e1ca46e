#include "stream/tiling.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"

namespace weightsmith {
namespace {

constexpr uint64_t kMaxCoefficients = 512;     // words of a segment record, generous for what CPU steps return
constexpr uint64_t kTileTarget = 32ull << 20;  // bytes of one source in a tile: large enough to hide dispatch costs

constexpr uint64_t kDrawnLine = 32;  // elements a word of bits: see native/host/draw.h

// What is read before a tile for the sake of its first row starts at a multiple of 16 bytes in any dtype.
constexpr uint64_t kRowAlign = 16;

uint64_t align16(uint64_t value) { return (value + 15) / 16 * 16; }
// Kernels store whole vec8s, up to 32 bytes each: what lies past a segment's end must not be the next one's start.
uint64_t alignOutput(uint64_t value) { return (value + 31) / 32 * 32; }

struct Kind {
  int32_t program;
  std::vector<DType> inputs;
  std::optional<DType> output;
  size_t variants;
  uint64_t row;
  uint64_t whole;  // bytes of inputs that every tile reads completely
  bool operator==(const Kind&) const = default;
};

Kind kindOf(const Job& job) {
  Kind kind{job.program, {}, std::nullopt, job.variants.size(), job.row, 0};
  if (job.program < 0) return kind;  // copies of any type share tiles
  for (const auto& input : job.inputs) {
    kind.inputs.push_back(input.dtype);
    if (input.whole) kind.whole += align16(bytesOf(input.dtype, input.whole));
  }
  if (job.variants[0].output) kind.output = job.variants[0].output->dtype;
  return kind;
}

// Words behind the records that a part of a tensor can need for its lines, or for what the processor draws.
uint64_t lineWords(const Program& program, size_t inputs, uint64_t elements) {
  const Lines lines = program.rows && !program.lines.size ? Lines{kDrawnLine, false} : program.lines;
  if (!lines.size) return 0;
  return 2 + inputs * (lines.across ? lines.size : elements / lines.size + 2);
}

Tile emptyTile(const Kind& kind) {
  Tile tile;
  if (kind.program < 0) return tile;
  tile.inputCode = *kernelCode(kind.inputs[0]);
  for (const DType dtype : kind.inputs) {
    if (dtype != kind.inputs[0]) tile.inputCode = kDtypeMixed;
  }
  if (kind.output) tile.outputCode = *kernelCode(*kind.output);
  return tile;
}

}  // namespace

uint64_t bytesOf(DType dtype, uint64_t elements) { return (elements * dtypeBits(dtype) + 7) / 8; }

uint64_t readBytes(const Source& source, uint64_t elements) {
  return bytesOf(source.dtype, source.whole ? source.whole : elements);
}

uint64_t bytesBefore(const Source& source, const Segment& segment) {
  return source.whole ? 0 : bytesOf(source.dtype, segment.before);
}

uint32_t recordWords(size_t inputs, size_t coefficients) {
  return static_cast<uint32_t>(kRecordSources + kRecordInputWords * inputs + coefficients);
}

TilingLimits limitsOf(const Plan& plan, uint64_t maxBinding, bool mapped) {
  // The rest is for what CPU steps keep of a large tensor: the masks of a cut, samples, hits.
  const uint64_t tiles = plan.memory - std::min<uint64_t>(plan.memory / 4, 64 << 20);
  return {maxBinding, tiles / (mapped ? 1 : 2)};
}

size_t roundsOf(const Plan& plan, const Group& group) {
  return group.tiles.size() > 1 && group.program >= 0 ? plan.programs[group.program].kernels.size() : 1;
}

Tiling tile(const Plan& plan, const std::vector<bool>& finished, const TilingLimits& limits) {
  Tiling tiling;
  Kind open{-2, {}, std::nullopt, 0, 0, 0};
  uint64_t maxBlocks = 0, splitBlocks = 0;  // of a tile with whole tensors, and of one with part of a tensor
  bool room = false;                        // the last tile of `at` may take more tensors
  size_t at = 0;                            // the group at hand
  std::map<std::pair<int32_t, size_t>, size_t> shared;  // groups of shared programs, by program and variants

  for (uint32_t index = 0; index < plan.jobs.size(); index++) {
    const Job& job = plan.jobs[index];
    if (job.elements == 0 || finished[index]) continue;
    const Kind kind = kindOf(job);
    const bool copy = job.program < 0;
    // Jobs with whole inputs never share a tile: each has its own.
    if (!(kind == open) || kind.whole) {
      open = kind;
      room = false;
      uint64_t input = 0, widest = 0, result = 16, around = 0;
      if (copy) {
        input = widest = kBlock;  // one "element" is a byte
      } else {
        for (const auto& source : job.inputs) {
          if (source.whole) continue;
          input += bytesOf(source.dtype, kBlock);
          widest = std::max(widest, bytesOf(source.dtype, kBlock));
          if (kind.row > 1) around += bytesOf(source.dtype, 2 * (kind.row + kRowAlign));
        }
        for (const auto& step : plan.programs[job.program].kernels) {
          result = std::max<uint64_t>(result, step.words ? step.words * 4ull : bytesOf(*kind.output, kBlock));
        }
      }
      uint64_t table = copy ? 0 : 4 * (1 + kTableWords + recordWords(job.inputs.size(), 0));
      uint64_t memory = limits.memory;
      if (!copy) {
        const Program& program = plan.programs[job.program];
        const uint64_t bytes = 4 * lineWords(program, job.inputs.size(), kBlock);
        // The words of columns are the same for every block of a tensor.
        if (program.lines.across)
          memory -= std::min(memory, kSlots * bytes);
        else
          table += bytes;
      }
      const uint64_t all = kSlots * (input + table) + kResults * result;
      const auto most = [&](uint64_t reserved) -> uint64_t {
        if (limits.binding < reserved || memory / kSlots < reserved) return 0;
        return std::min({(limits.binding - reserved) / input, limits.binding / result,
                         (memory - kSlots * reserved) / all, std::max<uint64_t>(1, kTileTarget / widest)});
      };
      maxBlocks = most(kind.whole);
      splitBlocks = most(kind.whole + around);
      if (maxBlocks == 0) {
        throw Error(Code::OUT_OF_MEMORY, "One block of the tensor " + job.name + " needs " +
                                             std::to_string(all + kSlots * kind.whole) + " bytes, but tiles may take " +
                                             std::to_string(limits.memory) + " and a binding " +
                                             std::to_string(limits.binding) + "; give more memory.");
      }
    }
    const uint64_t units = copy ? bytesOf(job.inputs[0].dtype, job.elements) : job.elements;
    const uint64_t blocks = (units + kBlock - 1) / kBlock;
    const bool whole = blocks <= maxBlocks;
    if (!whole && splitBlocks == 0) {
      throw Error(Code::OUT_OF_MEMORY, "The rows of the tensor " + job.name + " have " + std::to_string(job.row) +
                                           " elements, and two of them of each model do not fit the tiles' memory of " +
                                           std::to_string(limits.memory) + " bytes or a binding of " +
                                           std::to_string(limits.binding) + "; give more memory.");
    }
    if (!room || tiling.groups[at].tiles.back().blocks + blocks > maxBlocks) {
      const bool joins = !copy && plan.programs[job.program].shared;
      const auto known = shared.find({job.program, kind.variants});
      if (joins && known != shared.end()) {
        at = known->second;
      } else {
        at = tiling.groups.size();
        if (joins) shared[{job.program, kind.variants}] = at;
        tiling.groups.push_back({job.program, static_cast<uint32_t>(job.inputs.size()), {}});
      }
      tiling.groups[at].tiles.push_back(emptyTile(kind));
      room = whole;
    }
    auto& tiles = tiling.groups[at].tiles;
    const uint64_t step = whole ? maxBlocks : splitBlocks;
    for (uint64_t first = 0; first < blocks; first += step) {
      if (first > 0) tiles.push_back(emptyTile(kind));
      Tile& tile = tiles.back();
      Segment segment;
      segment.job = index;
      segment.firstBlock = first;
      segment.blocks = static_cast<uint32_t>(std::min(step, blocks - first));
      const uint64_t start = first * kBlock;
      segment.elements = std::min(units - start, segment.blocks * kBlock);
      if (kind.row > 1) {
        const uint64_t end = start + segment.elements;
        segment.before = (start % kind.row + kRowAlign - 1) / kRowAlign * kRowAlign;
        segment.after = std::min(units, (end + kind.row - 1) / kind.row * kind.row) - end;
      }
      for (size_t i = 0; i < job.inputs.size(); i++) {
        const Source& source = job.inputs[i];
        const uint64_t before = bytesBefore(source, segment);
        segment.inputOffsets.push_back(tile.inputBytes + before);
        tile.inputBytes +=
            align16(before + (copy ? segment.elements : readBytes(source, segment.elements + segment.after)));
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
      uint64_t coefficients = 0, lines = 0;
      const bool cpuStep = !plan.programs[group.program].cpuStep.empty();
      for (const Segment& segment : tile.segments) {
        for (const Variant& variant : plan.jobs[segment.job].variants) {
          coefficients = std::max<uint64_t>(coefficients, variant.coefficients.size());
        }
        lines += lineWords(plan.programs[group.program], group.inputs, segment.elements);
      }
      if (cpuStep) coefficients = std::max(coefficients, kMaxCoefficients);
      tiling.table = std::max<uint64_t>(
          tiling.table,
          4 * (kTableWords + tile.blocks + tile.segments.size() * recordWords(group.inputs, coefficients) + lines));
      tiling.counts = std::max<uint64_t>(tiling.counts, 4 * kCountWords * tile.segments.size());
    }
  }
  return tiling;
}

}  // namespace weightsmith
