// Cursor over a program for one variant of one group of tiles: which kernel comes next, with which words. Each job has
// its own CPU step; a kernel is done when every tile of the group has been through it.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "plan/plan.h"
#include "steps/cpu_step.h"
#include "stream/tiling.h"

namespace weightsmith {

class ProgramCursor {
 public:
  // Throws Error INTERNAL for a CPU step that has no file.
  ProgramCursor(const Plan& plan, const Group& group, uint32_t variant);

  bool done() const { return kernel_ == program_.kernels.size(); }
  const KernelStep& step() const { return program_.kernels[kernel_]; }
  // Coefficients of a job for the kernel at hand.
  const std::vector<uint32_t>& words(uint32_t job) const { return jobs_[positions_.at(job)].words; }
  // Whether the kernel at hand has to see the job: not where it is repeated for the sake of others.
  bool concerns(uint32_t job) const { return !jobs_[positions_.at(job)].settled; }
  // Words behind the records for a part of a job (see CpuStep::part).
  std::vector<uint32_t> part(const Segment& segment) const {
    const auto& cpuStep = jobs_[positions_.at(segment.job)].cpuStep;
    return cpuStep ? cpuStep->part(segment.firstBlock * kBlock, segment.elements) : std::vector<uint32_t>{};
  }
  // Partial results of the blocks of a tile that the kernel has seen. What no CPU step takes is added to `results`,
  // one row a job.
  void consume(const Tile& tile, const uint32_t* partials, std::vector<std::vector<double>>& results);
  // A tile has been through the kernel; after the last one the next kernel (or the same once more) is at hand. True
  // at that moment. What CPU steps return is put into `results`.
  bool tileDone(std::vector<std::vector<double>>& results);

 private:
  struct JobState {
    uint32_t job = 0;
    std::unique_ptr<CpuStep> cpuStep;
    std::vector<uint32_t> words, next;  // `next` is for the kernel that follows, once all jobs are settled
    bool settled = false;               // needs no repetition of this kernel
  };

  const Program& program_;
  size_t tiles_;
  size_t kernel_ = 0, tilesDone_ = 0;
  std::vector<JobState> jobs_;                      // in the order in which their tiles come
  std::unordered_map<uint32_t, size_t> positions_;  // of a job in `jobs_`
};

}  // namespace weightsmith
