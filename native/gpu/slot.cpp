#include "gpu/slot.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace weightsmith {

namespace {

constexpr uint64_t kPage = 4096;
constexpr size_t kBindGroups = 16;

uint64_t roundUp(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }
std::string megabytes(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

// Page-aligned memory that Dawn may still hold after the buffer's owner is gone.
class HostMemory {
 public:
  explicit HostMemory(uint64_t size) : size_(size) {
    data_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) throw Error(Code::OUT_OF_MEMORY, "No memory for a buffer of " + megabytes(size) + ".");
#if defined(MADV_HUGEPAGE)
    // A hint: every byte will be touched, and large pages are a twentieth less work for the system in a merge.
    madvise(data_, size, MADV_HUGEPAGE);
#endif
  }
  ~HostMemory() { munmap(data_, size_); }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  uint8_t* data() const { return static_cast<uint8_t*>(data_); }

 private:
  void* data_;
  uint64_t size_;
};

wgpu::Buffer make(const Device& device, const wgpu::BufferDescriptor& descriptor) {
  const std::string what = "a buffer of " + megabytes(descriptor.size);
  wgpu::Buffer buffer;
  device.allocate(what, [&] { buffer = device.handle().CreateBuffer(&descriptor); });
  if (!buffer) throw Error(Code::OUT_OF_MEMORY, "The device has no room for " + what + ".");
  return buffer;
}

}  // namespace

Buffer::Buffer(const Device& device, uint64_t size)
    : device_(device), size_(roundUp(std::max<uint64_t>(size, 16), kPage)) {
  wgpu::BufferDescriptor descriptor;
  descriptor.size = size_;
  descriptor.usage = wgpu::BufferUsage::Storage | wgpu::BufferUsage::CopyDst | wgpu::BufferUsage::CopySrc;
  wgpu::BufferHostMappedPointer host;
  if (device.mapped()) {
    // Dawn's queue may use the memory after the buffer is dropped: it goes when Dawn says so.
    auto memory = std::make_unique<HostMemory>(size_);
    memory_ = memory->data();
    host.pointer = memory_;
    host.userdata = memory.release();
    host.disposeCallback = [](void* userdata) { std::unique_ptr<HostMemory> last(static_cast<HostMemory*>(userdata)); };
    descriptor.nextInChain = &host;
  }
  handle_ = make(device, descriptor);
}

Buffer::~Buffer() {
  handle_.Destroy();
  device_.dropped();
}

Result::Result(const Device& device, const Room& room) : result_(device, room.data), counts_(device, room.facts) {
  if (device.mapped()) return;
  wgpu::BufferDescriptor descriptor;
  descriptor.size = result_.size() + counts_.size();
  descriptor.usage = wgpu::BufferUsage::MapRead | wgpu::BufferUsage::CopyDst;
  readback_ = make(device, descriptor);
}

Result::~Result() {
  if (readback_) readback_.Destroy();
}

const uint32_t* Result::counts() const {
  return reinterpret_cast<const uint32_t*>(readback_ ? readPointer_ + result_.size() : counts_.memory());
}

Slot::Slot(const Device& device, const Room& room)
    : device_(device), input_(device, room.data), table_(device, room.facts) {
  if (device.mapped()) return;
  wgpu::BufferDescriptor descriptor;
  descriptor.size = input_.size();
  descriptor.usage = wgpu::BufferUsage::MapWrite | wgpu::BufferUsage::CopySrc;
  descriptor.mappedAtCreation = true;
  upload_ = make(device, descriptor);
  uploadPointer_ = static_cast<uint8_t*>(upload_.GetMappedRange());
  if (!uploadPointer_) throw Error(Code::OUT_OF_MEMORY, "No staging buffer of " + megabytes(input_.size()) + ".");
}

Slot::~Slot() {
  if (upload_) upload_.Destroy();
}

const wgpu::BindGroup& Slot::bindGroup(const Pipelines& pipelines, const Result& result) {
  const auto known = groups_.find(result.result_.handle().Get());
  if (known != groups_.end()) return known->second;
  if (groups_.size() >= kBindGroups) groups_.clear();
  const Buffer* buffers[] = {&input_, &result.result_, &table_, &result.counts_};
  std::vector<wgpu::BindGroupEntry> entries(4);
  for (uint32_t i = 0; i < 4; i++) {
    entries[i].binding = i;
    entries[i].buffer = buffers[i]->handle();
  }
  wgpu::BindGroupDescriptor descriptor;
  descriptor.layout = pipelines.layout();
  descriptor.entryCount = entries.size();
  descriptor.entries = entries.data();
  return groups_[result.result_.handle().Get()] = device_.handle().CreateBindGroup(&descriptor);
}

void Slot::run(Pipelines& pipelines, const Dispatch& dispatch, const std::vector<uint32_t>& table, bool fresh,
               Result& result) {
  const auto& pipeline = pipelines.get(dispatch.kernel, dispatch.constants);
  if (table_.memory()) {
    std::memcpy(table_.memory(), table.data(), table.size() * 4);
  } else {
    device_.queue().WriteBuffer(table_.handle(), 0, table.data(), table.size() * 4);
    if (result.readPointer_) result.readback_.Unmap();
    result.readPointer_ = nullptr;
    if (fresh && uploadPointer_) {
      upload_.Unmap();
      uploadPointer_ = nullptr;
    }
  }
  const uint64_t resultSize = result.result_.size(), countsSize = result.counts_.size();
  const uint64_t used = roundUp(dispatch.resultBytes, 4);
  wgpu::CommandEncoder encoder = device_.handle().CreateCommandEncoder();
  if (upload_ && fresh) encoder.CopyBufferToBuffer(upload_, 0, input_.handle(), 0, input_.size());
  if (dispatch.reduce) encoder.ClearBuffer(result.result_.handle(), 0, used);
  encoder.ClearBuffer(result.counts_.handle(), 0, countsSize);
  wgpu::ComputePassEncoder pass = encoder.BeginComputePass();
  pass.SetPipeline(pipeline);
  pass.SetBindGroup(0, bindGroup(pipelines, result));
  // Always a 2-D grid: one dimension ends at 65,535 workgroups.
  const uint32_t x = std::min<uint32_t>(dispatch.blocks, 32768);
  pass.DispatchWorkgroups(x, (dispatch.blocks + x - 1) / x);
  pass.End();
  if (result.readback_) {
    encoder.CopyBufferToBuffer(result.result_.handle(), 0, result.readback_, 0, used);
    encoder.CopyBufferToBuffer(result.counts_.handle(), 0, result.readback_, resultSize, countsSize);
  }
  wgpu::CommandBuffer commands = encoder.Finish();
  device_.queue().Submit(1, &commands);
  if (result.readback_) {
    bool ok = false;
    device_.wait(result.readback_.MapAsync(
        wgpu::MapMode::Read, 0, resultSize + countsSize, wgpu::CallbackMode::WaitAnyOnly,
        [&ok](wgpu::MapAsyncStatus status, wgpu::StringView) { ok = status == wgpu::MapAsyncStatus::Success; }));
    if (!ok) throw Error(Code::KERNEL, "The result of the kernel " + dispatch.kernel + " cannot be read back.");
    result.readPointer_ = static_cast<const uint8_t*>(result.readback_.GetConstMappedRange(0, resultSize + countsSize));
  } else {
    device_.wait(device_.queue().OnSubmittedWorkDone(wgpu::CallbackMode::WaitAnyOnly,
                                                     [](wgpu::QueueWorkDoneStatus, wgpu::StringView) {}));
  }
}

void Slot::release() {
  if (!upload_ || uploadPointer_) return;
  bool ok = false;
  device_.wait(upload_.MapAsync(
      wgpu::MapMode::Write, 0, input_.size(), wgpu::CallbackMode::WaitAnyOnly,
      [&ok](wgpu::MapAsyncStatus status, wgpu::StringView) { ok = status == wgpu::MapAsyncStatus::Success; }));
  if (!ok) throw Error(Code::INTERNAL, "The staging buffer cannot be mapped again.");
  uploadPointer_ = static_cast<uint8_t*>(upload_.GetMappedRange());
}

}  // namespace weightsmith
