// CPU steps: the small float64 computations between two kernels of a program (angles, norm ratios, thresholds).
// They run on the CPU because divisions, roots and trigonometry are not the same on every GPU, while these are.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plan/plan.h"

namespace weightsmith {

class CpuStep;

struct CpuJob {
  std::vector<double> coefficients;  // of the tensor, as planned
  size_t inputs = 0;
  uint64_t elements = 0;
  uint64_t row = 0;  // elements of a row, where the program looks at rows
  Lines lines;
  // For a program whose jobs share their facts: the step of the first job, which is asked first (nullptr: this is it),
  // and the blocks of the jobs before this one. All steps are made before one of them begins.
  CpuStep* first = nullptr;
  uint64_t firstBlock = 0;
};

struct Outcome {
  std::vector<uint32_t> words;  // coefficients of the next kernel (or of the same one, `again`)
  bool again = false;           // run the same kernel once more with `words`
  std::vector<double> result;   // what a report-only program returns for this tensor
};

std::vector<uint32_t> floatWords(const std::vector<double>& values);

class CpuStep {
 public:
  explicit CpuStep(const CpuJob& job) : job_(job) {}
  virtual ~CpuStep() = default;
  // Words the first kernel reads. Default: the job's coefficients rounded to f32.
  virtual std::vector<uint32_t> begin() { return floatWords(job_.coefficients); }
  // Partial results of consecutive blocks of one tensor, tiles in order; `firstBlock` counts from element 0.
  virtual void consume(size_t kernel, std::span<const uint32_t> partials, uint64_t firstBlock) = 0;
  // Called when the kernel has seen the whole tensor.
  virtual Outcome finish(size_t kernel) = 0;
  // For programs with lines: words that only this part of the tensor needs (see include/lines.wgsl), at most one a
  // line and input besides the first two. They go behind the records of a tile.
  virtual std::vector<uint32_t> part(uint64_t firstElement, uint64_t elements) const {
    (void)firstElement, (void)elements;
    return {};
  }

 protected:
  const CpuJob job_;
};

using MakeCpuStep = std::unique_ptr<CpuStep> (*)(const CpuJob&);
// Generated from the listing of this folder; nullptr for a name that has no file.
MakeCpuStep findCpuStep(std::string_view name);
std::vector<std::string> cpuStepNames();

}  // namespace weightsmith
