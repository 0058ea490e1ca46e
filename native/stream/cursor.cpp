#include "stream/cursor.h"

#include "base/error.h"

namespace weightsmith {

ProgramCursor::ProgramCursor(const Plan& plan, const Group& group, uint32_t variant)
    : program_(plan.programs[group.program]), tiles_(group.tiles.size()) {
  const auto make = program_.cpuStep.empty() ? nullptr : findCpuStep(program_.cpuStep);
  if (!make && !program_.cpuStep.empty()) {
    throw Error(Code::INTERNAL, "There is no CPU step named '" + program_.cpuStep + "'.");
  }
  uint64_t blocks = 0;
  for (const Tile& tile : group.tiles) {
    for (const Segment& segment : tile.segments) {
      const uint64_t before = blocks;
      blocks += segment.blocks;
      if (!positions_.try_emplace(segment.job, jobs_.size()).second) continue;
      const Job& job = plan.jobs[segment.job];
      const auto& coefficients = job.variants[variant].coefficients;
      JobState& state = jobs_.emplace_back();
      state.job = segment.job;
      if (!make) {
        state.words = floatWords(coefficients);
        continue;
      }
      CpuJob cpu{coefficients, job.inputs.size(), job.elements, job.row, program_.lines};
      if (program_.shared) {
        cpu.first = jobs_[0].cpuStep.get();
        cpu.firstBlock = before;
      }
      state.cpuStep = make(cpu);
    }
  }
  for (JobState& state : jobs_) {
    if (state.cpuStep) state.words = state.cpuStep->begin();
  }
}

void ProgramCursor::consume(const Tile& tile, const uint32_t* partials, std::vector<std::vector<double>>& results) {
  const size_t words = step().words;
  for (const Segment& segment : tile.segments) {
    JobState& state = jobs_[positions_.at(segment.job)];
    if (state.settled) continue;
    const std::span<const uint32_t> part(partials, segment.blocks * words);
    partials += part.size();
    if (!state.cpuStep) {
      // The partial results themselves are the result (a kernel called on its own).
      results[segment.job].insert(results[segment.job].end(), part.begin(), part.end());
    } else {
      state.cpuStep->consume(kernel_, part, segment.firstBlock);
    }
  }
}

bool ProgramCursor::tileDone(std::vector<std::vector<double>>& results) {
  if (++tilesDone_ < tiles_) return false;
  tilesDone_ = 0;
  bool again = false;
  if (step().words) {
    for (JobState& state : jobs_) {
      if (!state.cpuStep || state.settled) continue;
      Outcome outcome = state.cpuStep->finish(kernel_);
      if (!outcome.result.empty()) results[state.job] = std::move(outcome.result);
      state.settled = !outcome.again;
      again = again || outcome.again;
      (outcome.again ? state.words : state.next) = std::move(outcome.words);
    }
  }
  if (again) return true;
  for (JobState& state : jobs_) {
    if (state.settled) state.words = std::move(state.next);
    state.settled = false;
  }
  kernel_++;
  return true;
}

}  // namespace weightsmith
