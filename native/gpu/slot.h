// The memory a kernel works in: a slot holds a tile's sources and its parameter table, a result what the kernel writes.
// They go round separately, because a result is on its way to the disk while the slot is being read into again.
// On software and unified-memory devices the kernel works in this memory itself (Dawn's HostMappedPointer, no copy);
// on a discrete GPU it is staging memory, with one copy in and one copy out a submission.
#pragma once
#include <webgpu/webgpu_cpp.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dawn/device.h"
#include "gpu/pipelines.h"

namespace weightsmith {

struct Dispatch {
  std::string kernel;
  Constants constants;
  uint32_t blocks = 0;
  uint64_t resultBytes = 0;
  bool reduce = false;  // clear the result first
};

// Bytes of the two buffers of a slot (sources, parameter table) or of a result (what is stored, counts of NaN and Inf).
struct Room {
  uint64_t data = 0, facts = 0;
  uint64_t total() const { return data + facts; }
  bool holds(const Room& other) const { return data >= other.data && facts >= other.facts; }
  // The least that holds both.
  Room with(const Room& other) const { return {std::max(data, other.data), std::max(facts, other.facts)}; }
};

// A storage buffer, and the host memory it stands for where the device can bind that.
class Buffer {
 public:
  Buffer(const Device& device, uint64_t size);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  const wgpu::Buffer& handle() const { return handle_; }
  uint64_t size() const { return size_; }
  // Null on a device with memory of its own.
  uint8_t* memory() const { return memory_; }

 private:
  const Device& device_;
  uint64_t size_;
  uint8_t* memory_ = nullptr;  // owned by Dawn's buffer, which may need it longer than this object lives
  wgpu::Buffer handle_;
};

class Result {
 public:
  Result(const Device& device, const Room& room);
  ~Result();
  Result(const Result&) = delete;
  Result& operator=(const Result&) = delete;

  Room room() const { return {result_.size(), counts_.size()}; }
  // Valid after a run until the next one.
  const uint8_t* data() const { return readback_ ? readPointer_ : result_.memory(); }
  const uint32_t* counts() const;
  // Where a processor that is the device writes what it computes itself; null on one with memory of its own.
  uint8_t* memory() { return result_.memory(); }

 private:
  friend class Slot;
  Buffer result_, counts_;
  wgpu::Buffer readback_;
  const uint8_t* readPointer_ = nullptr;
};

class Slot {
 public:
  Slot(const Device& device, const Room& room);
  ~Slot();
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  Room room() const { return {input_.size(), table_.size()}; }
  // Where the sources go; valid after `release` until a run.
  uint8_t* input() const { return upload_ ? uploadPointer_ : input_.memory(); }
  // The sources may be overwritten: makes `input` writable again.
  void release();
  // Uploads the table (and, `fresh`, the sources), runs the kernel, and waits until the result can be read.
  void run(Pipelines& pipelines, const Dispatch& dispatch, const std::vector<uint32_t>& table, bool fresh,
           Result& result);

 private:
  const wgpu::BindGroup& bindGroup(const Pipelines& pipelines, const Result& result);

  const Device& device_;
  Buffer input_, table_;
  wgpu::Buffer upload_;
  uint8_t* uploadPointer_ = nullptr;
  std::map<WGPUBuffer, wgpu::BindGroup> groups_;  // by result buffer, which its group keeps alive
};

}  // namespace weightsmith
