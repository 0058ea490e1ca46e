#include "dawn/device.h"

#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <utility>

#include "base/error.h"

namespace weightsmith {
namespace {

constexpr uint64_t kPage = 4096;

// What an adapter is tried with: every word becomes one more.
constexpr const char* kTrial =
    "@group(0) @binding(0) var<storage, read_write> x: array<u32>;"
    "@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) { x[id.x] += 1u; }";

std::string list(const std::vector<std::string>& items) {
  std::string all;
  for (const auto& item : items) all += (all.empty() ? "" : ", ") + item;
  return all;
}

}  // namespace

DeviceList Device::list(const OpenOptions& options) {
  const DriverEnvironment environment(options);
  Adapters adapters(options);
  DeviceList all;
  all.refused = std::move(adapters.refused);
  for (auto& candidate : adapters.candidates) {
    try {
      openOn(adapters.instance, candidate, options);
    } catch (const Error& error) {
      candidate.facts.problem = error.message;
    }
    all.devices.push_back(std::move(candidate.facts));
  }
  return all;
}

std::unique_ptr<Device> Device::open(const OpenOptions& options) {
  const DriverEnvironment environment(options);
  const Adapters adapters(options);
  std::vector<std::string> seen;
  for (const auto& candidate : adapters.candidates) {
    const DeviceInfo& facts = candidate.facts;
    seen.push_back(facts.name + " (" + facts.type + ")");
    if (!fits(facts, options.device)) continue;
    try {
      return openOn(adapters.instance, candidate, options);
    } catch (const Error& error) {
      seen.back() += ", on which nothing can run: " + error.message;
    }
  }
  for (const auto& reason : adapters.refused) seen.push_back("a driver that it refuses: " + reason);
  // What to do about it is added where it is known which drivers could be there.
  throw Error(Code::NO_DEVICE, "No device fits '" + options.device + "': Dawn sees " +
                                   (seen.empty() ? "none" : weightsmith::list(seen)));
}

std::unique_ptr<Device> Device::openOn(const wgpu::Instance& instance, const Candidate& candidate,
                                       const OpenOptions& options) {
  std::unique_ptr<Device> self(new Device());
  self->state_ = std::make_shared<State>();
  self->state_->verbose = options.verbose;
  self->instance_ = instance;
  self->facts_ = candidate.facts;
  wgpu::Limits limits;
  candidate.adapter.GetLimits(&limits);
  self->maxBinding_ = limits.maxStorageBufferBindingSize;
  if (options.maxBufferBytes) {
    self->maxBinding_ = std::min(self->maxBinding_, options.maxBufferBytes);
    self->facts_.limits["maxStorageBufferBindingSize"] = static_cast<double>(self->maxBinding_);
  }
  const bool canMap = candidate.adapter.HasFeature(wgpu::FeatureName::HostMappedPointer);
  self->mapped_ =
      options.slots == "mapped" || (options.slots != "staging" && canMap && self->facts_.type != "discrete");
  if (self->mapped_ && !canMap) {
    throw Error(Code::NO_DEVICE, "The device " + self->facts_.name +
                                     " cannot bind host memory, so slots: 'mapped' is not possible; use 'staging'.");
  }

  std::vector<wgpu::FeatureName> features;
  if (self->mapped_) features.push_back(wgpu::FeatureName::HostMappedPointer);
  for (const auto feature : {wgpu::FeatureName::Subgroups, wgpu::FeatureName::ShaderF16,
                             wgpu::FeatureName::ChromiumExperimentalSubgroupMatrix}) {
    if (candidate.adapter.HasFeature(feature)) features.push_back(feature);
  }
  // Every byte of a slot is written before it is read, so clearing buffers at first use is wasted time.
  std::vector<const char*> on, off{"lazy_clear_resource_on_first_use"};
  for (const std::string& toggle : options.toggles) {
    if (toggle.starts_with('-'))
      off.push_back(toggle.c_str() + 1);
    else
      on.push_back(toggle.c_str());
  }
  wgpu::DawnTogglesDescriptor toggles;
  toggles.enabledToggleCount = on.size();
  toggles.enabledToggles = on.data();
  toggles.disabledToggleCount = off.size();
  toggles.disabledToggles = off.data();
  wgpu::DeviceDescriptor descriptor;
  descriptor.nextInChain = &toggles;
  descriptor.requiredLimits = &limits;
  descriptor.requiredFeatureCount = features.size();
  descriptor.requiredFeatures = features.data();
  // The loss callback runs exactly once, maybe after this object is gone: it takes its own share of the state along.
  auto keep = std::make_unique<std::shared_ptr<State>>(self->state_);
  descriptor.SetDeviceLostCallback(
      wgpu::CallbackMode::AllowSpontaneous,
      [](const wgpu::Device&, wgpu::DeviceLostReason reason, wgpu::StringView message, std::shared_ptr<State>* kept) {
        const std::unique_ptr<std::shared_ptr<State>> state(kept);
        if (reason != wgpu::DeviceLostReason::Destroyed && reason != wgpu::DeviceLostReason::CallbackCancelled) {
          std::lock_guard lock((*state)->mutex);
          (*state)->message = text(message);
          (*state)->lost = true;
        }
      },
      keep.release());
  // Errors and logs come from calls of this object only, and end with the device that it destroys.
  descriptor.SetUncapturedErrorCallback(
      [](const wgpu::Device&, wgpu::ErrorType type, wgpu::StringView message, State* state) {
        std::lock_guard lock(state->mutex);
        if (type == wgpu::ErrorType::OutOfMemory) {
          state->exhausted = true;
          return;
        }
        if (!state->failed) state->message = text(message);
        state->failed = true;
      },
      self->state_.get());
  std::string reason;
  auto future =
      candidate.adapter.RequestDevice(&descriptor, wgpu::CallbackMode::WaitAnyOnly,
                                      [&](wgpu::RequestDeviceStatus, wgpu::Device device, wgpu::StringView message) {
                                        self->device_ = std::move(device);
                                        reason = text(message);
                                      });
  self->instance_.WaitAny(future, UINT64_MAX);
  if (!self->device_) {
    throw Error(Code::DEVICE_LOST, "The device " + self->facts_.name + " gives no device: " + reason);
  }
  self->device_.SetLoggingCallback(
      [](wgpu::LoggingType, wgpu::StringView message, State* state) {
        if (state->verbose) std::fprintf(stderr, "Dawn: %s\n", text(message).c_str());
      },
      self->state_.get());
  self->queue_ = self->device_.GetQueue();
  self->prove();
  self->facts_.limits["subgroupMatrixSide"] = self->matrixSide();
  return self;
}

void Device::prove() const {
  wgpu::ShaderSourceWGSL wgsl;
  wgsl.code = kTrial;
  wgpu::ShaderModuleDescriptor module;
  module.nextInChain = &wgsl;
  wgpu::ComputePipelineDescriptor pipeline;
  pipeline.compute.module = device_.CreateShaderModule(&module);
  pipeline.compute.entryPoint = "main";
  const wgpu::ComputePipeline kernel = device_.CreateComputePipeline(&pipeline);

  constexpr uint32_t kWords = 64;
  uint32_t words[kWords];
  for (uint32_t i = 0; i < kWords; i++) words[i] = 41 * i;
  wgpu::BufferDescriptor descriptor;
  descriptor.size = kPage;
  descriptor.usage = wgpu::BufferUsage::Storage | wgpu::BufferUsage::CopyDst | wgpu::BufferUsage::CopySrc;
  wgpu::BufferHostMappedPointer host;
  if (mapped_) {
    host.pointer = aligned_alloc(kPage, kPage);
    if (!host.pointer) throw Error(Code::OUT_OF_MEMORY, "There is no memory for a buffer of a page.");
    host.userdata = host.pointer;
    host.disposeCallback = [](void* page) { free(page); };
    descriptor.nextInChain = &host;
  }
  wgpu::Buffer buffer;
  allocate("a buffer of a page", [&] { buffer = device_.CreateBuffer(&descriptor); });
  check();
  descriptor.nextInChain = nullptr;
  descriptor.usage = wgpu::BufferUsage::MapRead | wgpu::BufferUsage::CopyDst;
  const wgpu::Buffer readback = device_.CreateBuffer(&descriptor);

  wgpu::BindGroupEntry entry;
  entry.binding = 0;
  entry.buffer = buffer;
  wgpu::BindGroupDescriptor group;
  group.layout = kernel.GetBindGroupLayout(0);
  group.entryCount = 1;
  group.entries = &entry;
  queue_.WriteBuffer(buffer, 0, words, sizeof words);
  const wgpu::CommandEncoder encoder = device_.CreateCommandEncoder();
  const wgpu::ComputePassEncoder pass = encoder.BeginComputePass();
  pass.SetPipeline(kernel);
  pass.SetBindGroup(0, device_.CreateBindGroup(&group));
  pass.DispatchWorkgroups(1);
  pass.End();
  encoder.CopyBufferToBuffer(buffer, 0, readback, 0, sizeof words);
  const wgpu::CommandBuffer commands = encoder.Finish();
  queue_.Submit(1, &commands);
  wait(readback.MapAsync(wgpu::MapMode::Read, 0, sizeof words, wgpu::CallbackMode::WaitAnyOnly,
                         [](wgpu::MapAsyncStatus, wgpu::StringView) {}));
  const auto* result = static_cast<const uint32_t*>(readback.GetConstMappedRange(0, sizeof words));
  bool right = result != nullptr;
  for (uint32_t i = 0; right && i < kWords; i++) right = result[i] == words[i] + 1;
  readback.Destroy();
  buffer.Destroy();
  if (!right) throw Error(Code::KERNEL, "The device " + facts_.name + " computes 41 + 1 wrongly.");
}

uint32_t Device::matrixSide() const {
  if (!device_.HasFeature(wgpu::FeatureName::ChromiumExperimentalSubgroupMatrix) ||
      !device_.HasFeature(wgpu::FeatureName::ShaderF16)) {
    return 0;
  }
  // The list of an adapter changes its layout from one version of Dawn to the next, so what compiles is what there is.
  const auto lanes = std::to_string(static_cast<uint32_t>(facts_.limits.at("subgroupMaxSize")));
  for (const uint32_t side : {16, 8}) {
    const std::string shape = ", " + std::to_string(side) + ", " + std::to_string(side) + ">";
    const std::string code =
        "enable f16; enable chromium_experimental_subgroup_matrix;"
        "@group(0) @binding(0) var<storage, read_write> y: array<f32>;"
        "@compute @workgroup_size(" +
        lanes +
        ") fn main() {"
        "let sums = subgroupMatrixMultiplyAccumulate(subgroup_matrix_left<f16" +
        shape + "(), subgroup_matrix_right<f16" + shape + "(), subgroup_matrix_result<f32" + shape +
        "());"
        "subgroupMatrixStore<row_major>(&y, 0u, sums, " +
        std::to_string(side) + "u); }";
    wgpu::ShaderSourceWGSL wgsl;
    wgsl.code = wgpu::StringView(code);
    wgpu::ShaderModuleDescriptor descriptor;
    descriptor.nextInChain = &wgsl;
    device_.PushErrorScope(wgpu::ErrorFilter::Validation);
    wgpu::ComputePipelineDescriptor pipeline;
    pipeline.compute.module = device_.CreateShaderModule(&descriptor);
    pipeline.compute.entryPoint = "main";
    device_.CreateComputePipeline(&pipeline);
    bool compiles = false;
    wait(device_.PopErrorScope(wgpu::CallbackMode::WaitAnyOnly,
                               [&compiles](wgpu::PopErrorScopeStatus, wgpu::ErrorType type, wgpu::StringView) {
                                 compiles = type == wgpu::ErrorType::NoError;
                               }));
    if (compiles) return side;
  }
  return 0;
}

Device::~Device() {
  queue_ = nullptr;
  if (device_) device_.Destroy();
  device_ = nullptr;
}

void Device::wait(wgpu::Future future) const {
  const auto status = instance_.WaitAny(future, UINT64_MAX);
  if (status != wgpu::WaitStatus::Success) throw Error(Code::INTERNAL, "Dawn's WaitAny fails.");
  check();
}

void Device::allocate(const std::string& what, const std::function<void()>& make) const {
  reclaim();
  // Two scopes, because drivers report an import of host memory that fails in either way.
  const wgpu::ErrorFilter filters[] = {wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal};
  for (const auto filter : filters) device_.PushErrorScope(filter);
  make();
  std::string message;
  for (size_t i = 0; i < std::size(filters); i++) {
    wait(device_.PopErrorScope(wgpu::CallbackMode::WaitAnyOnly,
                               [&message](wgpu::PopErrorScopeStatus, wgpu::ErrorType type, wgpu::StringView reason) {
                                 if (type != wgpu::ErrorType::NoError) message = text(reason);
                               }));
  }
  if (!message.empty()) {
    throw Error(Code::OUT_OF_MEMORY,
                "The device " + facts_.name + " has no room for " + what +
                    "; give the run less memory. Dawn says: " + message.substr(0, message.find('\n')) + ".");
  }
}

void Device::reclaim() const {
  if (!std::exchange(dropped_, false)) return;
  // What is dropped counts as used by what is submitted next, and what that lets go of by what comes after it.
  for (int i = 0; i < 2; i++) {
    const wgpu::CommandBuffer nothing = device_.CreateCommandEncoder().Finish();
    queue_.Submit(1, &nothing);
    wait(queue_.OnSubmittedWorkDone(wgpu::CallbackMode::WaitAnyOnly,
                                    [](wgpu::QueueWorkDoneStatus, wgpu::StringView) {}));
    instance_.ProcessEvents();
  }
}

void Device::check() const {
  if (state_->lossAsked.exchange(false)) {
    device_.ForceLoss(wgpu::DeviceLostReason::Unknown, "Loss was asked for.");
  }
  if (state_->exhausted.exchange(false)) {
    throw Error(Code::OUT_OF_MEMORY, "The device " + facts_.name + " ran out of memory; give the run less.");
  }
  if (!state_->lost && !state_->failed) return;
  std::lock_guard lock(state_->mutex);
  if (state_->lost) {
    throw Error(Code::DEVICE_LOST,
                "The device " + facts_.name + " is lost: " + state_->message + " The next call opens a new one.");
  }
  throw Error(Code::KERNEL, "The device refuses a command: " + state_->message);
}

void Device::forceLoss() const { state_->lossAsked = true; }

}  // namespace weightsmith
