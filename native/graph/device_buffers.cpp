#include "graph/device_buffers.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "io/file.h"

namespace weightsmith {

namespace {

// Every device aligns the offset of a binding to this or less; it is also more than any kernel has parameters.
constexpr uint64_t kParameterBytes = 256;
// Where the device has memory of its own, files go through pieces of this size.
constexpr uint64_t kPieceBytes = 16 << 20;

uint64_t roundUp(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

std::string range(uint64_t offset, uint64_t bytes, uint32_t buffer) {
  return "Bytes " + std::to_string(offset) + " to " + std::to_string(offset + bytes) + " are not within buffer " +
         std::to_string(buffer);
}

}  // namespace

DeviceBuffers::DeviceBuffers(const Device& device, const std::vector<uint64_t>& sizes) : device_(device) {
  for (const uint64_t size : sizes) {
    if (size > device.maxBinding()) {
      throw Error(Code::OUT_OF_MEMORY, "A buffer of " + std::to_string(size) + " bytes is asked for, but " +
                                           device.facts().name + " binds at most " +
                                           std::to_string(device.maxBinding()) + ".");
    }
    buffers_.push_back(std::make_unique<Buffer>(device, size));
  }
}

void DeviceBuffers::check(const DeviceWork& work) const {
  const auto within = [this](uint32_t buffer, uint64_t offset, uint64_t bytes) {
    if (buffer >= buffers_.size()) {
      throw Error(Code::ARGUMENT, "There is no buffer " + std::to_string(buffer) + " among " +
                                      std::to_string(buffers_.size()) + " resident buffers.");
    }
    const uint64_t size = buffers_[buffer]->size();
    if (offset % 4 != 0 || offset > size || bytes > size - offset) {
      throw Error(Code::ARGUMENT, range(offset, bytes, buffer) + ", or do not start at a multiple of 4.");
    }
  };
  for (const auto& item : work.writes) within(item.buffer, item.offset, item.bytes);
  for (const auto& item : work.reads) within(item.buffer, item.offset, item.bytes);
  for (const auto& item : work.dispatches) {
    if (item.parameters.size() * 4 > kParameterBytes) {
      throw Error(Code::ARGUMENT, "The kernel " + item.kernel + " gets more than 64 words of parameters.");
    }
    for (const uint32_t buffer : item.buffers) within(buffer, 0, 0);
  }
}

void DeviceBuffers::write(ThreadPool& readers, const std::vector<BufferWrite>& writes) {
  Completion all;
  std::vector<uint8_t> piece;
  for (const auto& item : writes) {
    const Buffer& buffer = *buffers_[item.buffer];
    if (buffer.memory()) {
      uint8_t* target = buffer.memory() + item.offset;
      if (item.path.empty()) {
        std::memcpy(target, item.memory.data(), item.bytes);
      } else {
        readers.submit(all, [&item, target] { File::openRead(item.path).readAt(item.begin, target, item.bytes); });
      }
      continue;
    }
    std::optional<File> file;
    if (!item.path.empty()) file.emplace(File::openRead(item.path));
    for (uint64_t done = 0; done < item.bytes; done += kPieceBytes) {
      const uint64_t bytes = std::min(kPieceBytes, item.bytes - done);
      piece.resize(roundUp(bytes, 4));  // the queue writes whole words; the buffer has room for them
      if (file) {
        file->readAt(item.begin + done, piece.data(), bytes);
      } else {
        std::memcpy(piece.data(), item.memory.data() + done, bytes);
      }
      device_.queue().WriteBuffer(buffer.handle(), item.offset + done, piece.data(), piece.size());
    }
  }
  all.wait();
}

void DeviceBuffers::encode(const wgpu::ComputePassEncoder& pass, Pipelines& pipelines,
                           const std::vector<KernelDispatch>& dispatches) {
  std::vector<uint32_t> words(dispatches.size() * kParameterBytes / 4);
  for (size_t i = 0; i < dispatches.size(); i++) {
    std::copy(dispatches[i].parameters.begin(), dispatches[i].parameters.end(),
              words.begin() + i * kParameterBytes / 4);
  }
  const uint64_t bytes = words.size() * 4;
  if (!parameters_ || parameters_->size() < bytes) parameters_ = std::make_unique<Buffer>(device_, bytes);
  if (parameters_->memory()) {
    std::memcpy(parameters_->memory(), words.data(), bytes);
  } else {
    device_.queue().WriteBuffer(parameters_->handle(), 0, words.data(), bytes);
  }
  for (size_t i = 0; i < dispatches.size(); i++) {
    const auto& dispatch = dispatches[i];
    const auto& pipeline = pipelines.get(dispatch.kernel, dispatch.constants, Bindings::own);
    std::vector<wgpu::BindGroupEntry> entries(1 + dispatch.buffers.size());
    entries[0].binding = 0;
    entries[0].buffer = parameters_->handle();
    entries[0].offset = i * kParameterBytes;
    entries[0].size = kParameterBytes;
    for (size_t b = 0; b < dispatch.buffers.size(); b++) {
      entries[b + 1].binding = static_cast<uint32_t>(b + 1);
      entries[b + 1].buffer = buffers_[dispatch.buffers[b]]->handle();
    }
    wgpu::BindGroupDescriptor descriptor;
    descriptor.layout = pipeline.GetBindGroupLayout(0);
    descriptor.entryCount = entries.size();
    descriptor.entries = entries.data();
    pass.SetPipeline(pipeline);
    pass.SetBindGroup(0, device_.handle().CreateBindGroup(&descriptor));
    pass.DispatchWorkgroups(dispatch.grid[0], dispatch.grid[1], dispatch.grid[2]);
  }
}

std::vector<std::vector<uint8_t>> DeviceBuffers::run(Pipelines& pipelines, ThreadPool& readers,
                                                     const DeviceWork& work) {
  check(work);
  write(readers, work.writes);
  // Compiling reports its own failures, so every pipeline is there before the scope of the commands opens.
  for (const auto& dispatch : work.dispatches) pipelines.get(dispatch.kernel, dispatch.constants, Bindings::own);
  const auto& device = device_.handle();
  device.PushErrorScope(wgpu::ErrorFilter::Validation);
  wgpu::CommandEncoder encoder = device.CreateCommandEncoder();
  if (!work.dispatches.empty()) {
    wgpu::ComputePassEncoder pass = encoder.BeginComputePass();
    encode(pass, pipelines, work.dispatches);
    pass.End();
  }
  uint64_t total = 0;
  for (const auto& read : work.reads) total += roundUp(read.bytes, 4);
  wgpu::Buffer readback;
  if (!device_.mapped() && total > 0) {
    wgpu::BufferDescriptor descriptor;
    descriptor.size = total;
    descriptor.usage = wgpu::BufferUsage::MapRead | wgpu::BufferUsage::CopyDst;
    readback = device.CreateBuffer(&descriptor);
    uint64_t at = 0;
    for (const auto& read : work.reads) {
      const uint64_t bytes = roundUp(read.bytes, 4);
      encoder.CopyBufferToBuffer(buffers_[read.buffer]->handle(), read.offset, readback, at, bytes);
      at += bytes;
    }
  }
  wgpu::CommandBuffer commands = encoder.Finish();
  device_.queue().Submit(1, &commands);
  std::string refusal;
  device_.wait(device.PopErrorScope(wgpu::CallbackMode::WaitAnyOnly,
                                    [&refusal](wgpu::PopErrorScopeStatus, wgpu::ErrorType type, wgpu::StringView text) {
                                      if (type != wgpu::ErrorType::NoError) refusal = std::string_view(text);
                                    }));
  if (!refusal.empty()) throw Error(Code::KERNEL, "The device refuses a command: " + refusal);

  std::vector<std::vector<uint8_t>> results;
  if (!readback) {
    device_.wait(device_.queue().OnSubmittedWorkDone(wgpu::CallbackMode::WaitAnyOnly,
                                                     [](wgpu::QueueWorkDoneStatus, wgpu::StringView) {}));
    for (const auto& read : work.reads) {
      const uint8_t* from = buffers_[read.buffer]->memory() + read.offset;
      results.emplace_back(from, from + read.bytes);
    }
    return results;
  }
  bool ok = false;
  device_.wait(readback.MapAsync(
      wgpu::MapMode::Read, 0, total, wgpu::CallbackMode::WaitAnyOnly,
      [&ok](wgpu::MapAsyncStatus status, wgpu::StringView) { ok = status == wgpu::MapAsyncStatus::Success; }));
  if (!ok) throw Error(Code::KERNEL, "The results of resident buffers cannot be read back.");
  const auto* from = static_cast<const uint8_t*>(readback.GetConstMappedRange(0, total));
  for (const auto& read : work.reads) {
    results.emplace_back(from, from + read.bytes);
    from += roundUp(read.bytes, 4);
  }
  readback.Destroy();
  return results;
}

uint64_t BufferRegistry::add(std::unique_ptr<DeviceBuffers> buffers) {
  all_.emplace(++last_, std::move(buffers));
  return last_;
}

DeviceBuffers& BufferRegistry::at(uint64_t id) const {
  const auto found = all_.find(id);
  if (found == all_.end()) throw Error(Code::DISPOSED, "The resident buffers were released.");
  return *found->second;
}

}  // namespace weightsmith
