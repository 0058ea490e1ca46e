// A slot holds one tile: its sources, its parameter table and its results. On software and unified-memory adapters
// the kernel works in the slot's own memory (Dawn's HostMappedPointer, no copy); on a discrete GPU the slot is staging
// memory, with one copy in and one copy out a submission.
#pragma once
#include <webgpu/webgpu_cpp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dawn/device.h"
#include "gpu/pipelines.h"

namespace weightsmith {

struct SlotSize {
  uint64_t input = 0;   // bytes of sources
  uint64_t result = 0;  // bytes of stored elements or partial results
  uint64_t table = 0;   // bytes of the parameter table
  uint64_t counts = 0;  // bytes of NaN/Inf counters
  uint64_t total() const { return input + result + table + counts; }
};

struct Dispatch {
  std::string kernel;
  Constants constants;
  uint32_t blocks = 0;
  uint64_t resultBytes = 0;
  bool reduce = false;  // clear the result first
};

// Page-aligned memory that Dawn may still hold after the slot is gone.
class HostMemory;

class Slot {
 public:
  Slot(const Device& device, const SlotSize& size);
  ~Slot();
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  const SlotSize& size() const { return size_; }
  uint8_t* input();
  // Valid after `run` until the next `run`.
  const uint8_t* result() const;
  const uint32_t* counts() const;

  // Uploads the table (and, `fresh`, the sources), runs the kernel, and waits until the result can be read.
  void run(Pipelines& pipelines, const Dispatch& dispatch, const std::vector<uint32_t>& table, bool fresh);
  // The sources may be overwritten: makes `input` writable again.
  void release();

 private:
  wgpu::Buffer make(uint64_t size, wgpu::BufferUsage usage, std::shared_ptr<HostMemory> memory);

  const Device& device_;
  SlotSize size_;
  std::shared_ptr<HostMemory> inputMemory_, resultMemory_, tableMemory_, countsMemory_;
  wgpu::Buffer input_, result_, table_, counts_, upload_, readback_;
  uint8_t* uploadPointer_ = nullptr;
  const uint8_t* readPointer_ = nullptr;
  wgpu::BindGroup group_;
};

}  // namespace weightsmith
