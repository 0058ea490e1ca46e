#include "gpu/slot.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace weightsmith {

namespace {
constexpr uint64_t kPage = 4096;
uint64_t roundUp(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }
std::string megabytes(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }
}  // namespace

class HostMemory {
 public:
  explicit HostMemory(uint64_t size) : size_(size) {
    data_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED)
      throw Error(Code::OUT_OF_MEMORY, "No memory for a slot buffer of " + megabytes(size) + ".");
  }
  ~HostMemory() { munmap(data_, size_); }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  uint8_t* data() const { return static_cast<uint8_t*>(data_); }

 private:
  void* data_;
  uint64_t size_;
};

wgpu::Buffer Slot::make(uint64_t size, wgpu::BufferUsage usage, std::shared_ptr<HostMemory> memory) {
  wgpu::BufferDescriptor descriptor;
  descriptor.size = size;
  descriptor.usage = usage;
  wgpu::BufferHostMappedPointer host;
  if (memory) {
    host.pointer = memory->data();
    // Dawn may use the memory until its queue is done: the memory goes when Dawn says so.
    auto keep = std::make_unique<std::shared_ptr<HostMemory>>(std::move(memory));
    host.userdata = keep.release();
    host.disposeCallback = [](void* userdata) {
      std::unique_ptr<std::shared_ptr<HostMemory>> last(static_cast<std::shared_ptr<HostMemory>*>(userdata));
    };
    descriptor.nextInChain = &host;
  }
  wgpu::Buffer buffer = device_.handle().CreateBuffer(&descriptor);
  device_.check();
  if (!buffer) throw Error(Code::OUT_OF_MEMORY, "The device has no room for a buffer of " + megabytes(size) + ".");
  return buffer;
}

Slot::Slot(const Device& device, const SlotSize& size) : device_(device), size_(size) {
  size_.input = roundUp(std::max<uint64_t>(size.input, 16), kPage);
  size_.result = roundUp(std::max<uint64_t>(size.result, 16), kPage);
  size_.table = roundUp(std::max<uint64_t>(size.table, 16), kPage);
  size_.counts = roundUp(std::max<uint64_t>(size.counts, 16), kPage);
  const auto storage = wgpu::BufferUsage::Storage | wgpu::BufferUsage::CopyDst | wgpu::BufferUsage::CopySrc;
  if (device.mapped()) {
    inputMemory_ = std::make_shared<HostMemory>(size_.input);
    resultMemory_ = std::make_shared<HostMemory>(size_.result);
    tableMemory_ = std::make_shared<HostMemory>(size_.table);
    countsMemory_ = std::make_shared<HostMemory>(size_.counts);
  } else {
    wgpu::BufferDescriptor descriptor;
    descriptor.size = size_.input;
    descriptor.usage = wgpu::BufferUsage::MapWrite | wgpu::BufferUsage::CopySrc;
    descriptor.mappedAtCreation = true;
    upload_ = device.handle().CreateBuffer(&descriptor);
    uploadPointer_ = upload_ ? static_cast<uint8_t*>(upload_.GetMappedRange()) : nullptr;
    if (!uploadPointer_) throw Error(Code::OUT_OF_MEMORY, "No staging buffer of " + megabytes(size_.input) + ".");
    readback_ = make(size_.result + size_.counts, wgpu::BufferUsage::MapRead | wgpu::BufferUsage::CopyDst, nullptr);
  }
  input_ = make(size_.input, storage, inputMemory_);
  result_ = make(size_.result, storage, resultMemory_);
  table_ = make(size_.table, storage, tableMemory_);
  counts_ = make(size_.counts, storage, countsMemory_);
}

Slot::~Slot() {
  for (auto* buffer : {&input_, &result_, &table_, &counts_, &upload_, &readback_}) {
    if (*buffer) buffer->Destroy();
  }
}

uint8_t* Slot::input() { return inputMemory_ ? inputMemory_->data() : uploadPointer_; }
const uint8_t* Slot::result() const { return resultMemory_ ? resultMemory_->data() : readPointer_; }
const uint32_t* Slot::counts() const {
  return countsMemory_ ? reinterpret_cast<const uint32_t*>(countsMemory_->data())
                       : reinterpret_cast<const uint32_t*>(readPointer_ + size_.result);
}

void Slot::run(Pipelines& pipelines, const Dispatch& dispatch, const std::vector<uint32_t>& table, bool fresh) {
  const auto& device = device_.handle();
  const auto& pipeline = pipelines.get(dispatch.kernel, dispatch.constants);
  if (tableMemory_) {
    std::memcpy(tableMemory_->data(), table.data(), table.size() * 4);
  } else {
    device_.queue().WriteBuffer(table_, 0, table.data(), table.size() * 4);
    if (readPointer_) readback_.Unmap();
    readPointer_ = nullptr;
    if (fresh && uploadPointer_) {
      upload_.Unmap();
      uploadPointer_ = nullptr;
    }
  }
  if (!group_) {
    const wgpu::Buffer* buffers[] = {&input_, &result_, &table_, &counts_};
    std::vector<wgpu::BindGroupEntry> entries(4);
    for (uint32_t i = 0; i < 4; i++) {
      entries[i].binding = i;
      entries[i].buffer = *buffers[i];
    }
    wgpu::BindGroupDescriptor descriptor;
    descriptor.layout = pipelines.layout();
    descriptor.entryCount = entries.size();
    descriptor.entries = entries.data();
    group_ = device.CreateBindGroup(&descriptor);
  }
  wgpu::CommandEncoder encoder = device.CreateCommandEncoder();
  if (upload_ && fresh) encoder.CopyBufferToBuffer(upload_, 0, input_, 0, size_.input);
  if (dispatch.reduce) encoder.ClearBuffer(result_, 0, roundUp(dispatch.resultBytes, 4));
  encoder.ClearBuffer(counts_, 0, size_.counts);
  wgpu::ComputePassEncoder pass = encoder.BeginComputePass();
  pass.SetPipeline(pipeline);
  pass.SetBindGroup(0, group_);
  // Always a 2-D grid: one dimension ends at 65,535 workgroups.
  const uint32_t x = std::min<uint32_t>(dispatch.blocks, 32768);
  pass.DispatchWorkgroups(x, (dispatch.blocks + x - 1) / x);
  pass.End();
  if (readback_) {
    encoder.CopyBufferToBuffer(result_, 0, readback_, 0, roundUp(dispatch.resultBytes, 4));
    encoder.CopyBufferToBuffer(counts_, 0, readback_, size_.result, size_.counts);
  }
  wgpu::CommandBuffer commands = encoder.Finish();
  device_.queue().Submit(1, &commands);
  if (readback_) {
    bool ok = false;
    device_.wait(readback_.MapAsync(
        wgpu::MapMode::Read, 0, size_.result + size_.counts, wgpu::CallbackMode::WaitAnyOnly,
        [&ok](wgpu::MapAsyncStatus status, wgpu::StringView) { ok = status == wgpu::MapAsyncStatus::Success; }));
    if (!ok) throw Error(Code::KERNEL, "The result of the kernel " + dispatch.kernel + " cannot be read back.");
    readPointer_ = static_cast<const uint8_t*>(readback_.GetConstMappedRange(0, size_.result + size_.counts));
  } else {
    device_.wait(device_.queue().OnSubmittedWorkDone(wgpu::CallbackMode::WaitAnyOnly,
                                                     [](wgpu::QueueWorkDoneStatus, wgpu::StringView) {}));
  }
}

void Slot::release() {
  if (!upload_ || uploadPointer_) return;
  bool ok = false;
  device_.wait(upload_.MapAsync(
      wgpu::MapMode::Write, 0, size_.input, wgpu::CallbackMode::WaitAnyOnly,
      [&ok](wgpu::MapAsyncStatus status, wgpu::StringView) { ok = status == wgpu::MapAsyncStatus::Success; }));
  if (!ok) throw Error(Code::INTERNAL, "The staging buffer cannot be mapped again.");
  uploadPointer_ = static_cast<uint8_t*>(upload_.GetMappedRange());
}

}  // namespace weightsmith
