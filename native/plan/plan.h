// A plan as C++ sees it: the mirror of NativePlan in lib/native/border.ts. Plain data; no recipe, no model family.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "layout.h"

namespace weightsmith {

// A file, or memory that the caller keeps alive until the run ends.
struct Place {
  std::string path;
  uint8_t* memory = nullptr;
  uint64_t size = 0;
  std::vector<uint8_t> header;  // outputs: bytes at offset 0
};

struct KernelStep {
  std::string kernel;
  uint32_t words = 0;  // of partial result a block; 0: stores elements
  std::map<std::string, double> constants;
};

// The rows of a tensor, `size` elements each, or its `size` columns. A size of 0: the tensor is one vector.
struct Lines {
  uint64_t size = 0;
  bool across = false;
};

struct Program {
  std::string cpuStep;  // empty: none
  bool shared = false;  // the CPU steps of its jobs know each other: each kernel sees all jobs before the next starts
  bool rows = false;    // its kernels look at whole rows
  Lines lines;          // that have coefficients of their own
  std::vector<KernelStep> kernels;
};

struct Source {
  uint32_t place = 0;
  uint64_t offset = 0;
  DType dtype = DType::F32;
  uint64_t whole = 0;  // elements of an input that every tile reads from its first to its last; 0: as many as the job
};

// One result that is computed from the inputs of a job.
struct Variant {
  std::vector<double> coefficients;
  std::optional<Source> output;
};

struct Job {
  std::string name;
  int32_t program = -1;  // -1: copy bytes
  uint64_t elements = 0;
  uint64_t row = 0;  // elements of a row, for a program that looks at them
  std::vector<Source> inputs;
  std::vector<Variant> variants;  // outputs of one dtype
};

// Where the run notes which jobs are finished, so that another run can go on from there.
struct JournalPlan {
  std::string path;
  std::string run;  // a hash of everything that decides about the outputs
  bool resume = false;
  uint64_t every = 0;  // bytes written between two notes
};

struct Plan {
  std::vector<Place> inputs, outputs;
  std::vector<Program> programs;
  std::vector<Job> jobs;
  uint64_t memory = 0;
  uint64_t seed = 0;
  bool checksum = false;
  bool sync = false;
  std::optional<JournalPlan> journal;
};

// What was counted among the elements that a variant of a job stored.
struct Counts {
  uint32_t job = 0;
  uint32_t variant = 0;
  uint64_t nonFinite = 0;
  uint64_t changed = 0, swallowed = 0;  // by kernels that change their first input: see layout.wgsl
};

struct Report {
  double total = 0, read = 0, compute = 0, write = 0, wait = 0, sync = 0, cpuSteps = 0;  // milliseconds
  uint64_t bytesRead = 0, bytesWritten = 0, tiles = 0, nonFinite = 0, resumed = 0;
  std::vector<Counts> counts;  // of those with any
  std::vector<std::string> checksums;
  std::vector<std::vector<double>> results;
};

struct Progress {
  uint64_t bytesRead = 0, bytesWritten = 0, totalRead = 0, totalWrite = 0;
  std::string tensor;
};

}  // namespace weightsmith
