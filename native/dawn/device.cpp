#include "dawn/device.h"

#include <dawn/native/DawnNative.h>
#include <dlfcn.h>
#include <stdlib.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <iterator>
#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "dawn/library.h"
#include "dawn/quiet.h"

// Declared in Dawn's header, but not among the functions that can be asked for by name.
dawn::native::DawnInstanceDescriptor::DawnInstanceDescriptor() { sType = wgpu::SType::DawnInstanceDescriptor; }

namespace weightsmith {
namespace {

std::string text(wgpu::StringView view) {
  if (!view.data) return {};
  return view.length == WGPU_STRLEN ? std::string(view.data) : std::string(view.data, view.length);
}

std::string lower(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::tolower(c); });
  return value;
}

const char* typeName(wgpu::AdapterType type) {
  switch (type) {
    case wgpu::AdapterType::DiscreteGPU:
      return "discrete";
    case wgpu::AdapterType::IntegratedGPU:
      return "integrated";
    case wgpu::AdapterType::CPU:
      return "cpu";
    default:
      return "unknown";
  }
}

const char* backendName(wgpu::BackendType type) {
  switch (type) {
    case wgpu::BackendType::Vulkan:
      return "vulkan";
    case wgpu::BackendType::Metal:
      return "metal";
    case wgpu::BackendType::D3D12:
      return "d3d12";
    default:
      return "other";
  }
}

// The features this project has a use for, under their names in the WebGPU vocabulary.
const std::pair<wgpu::FeatureName, const char*> kFeatures[] = {
    {wgpu::FeatureName::ShaderF16, "shader-f16"},
    {wgpu::FeatureName::Subgroups, "subgroups"},
    {wgpu::FeatureName::ChromiumExperimentalSubgroupMatrix, "chromium-experimental-subgroup-matrix"},
    {wgpu::FeatureName::TimestampQuery, "timestamp-query"},
    {wgpu::FeatureName::HostMappedPointer, "host-mapped-pointer"},
};

AdapterFacts describe(const wgpu::Adapter& adapter) {
  AdapterFacts facts;
  wgpu::AdapterInfo info;
  adapter.GetInfo(&info);
  facts.name = text(info.device);
  facts.vendor = text(info.vendor);
  facts.architecture = text(info.architecture);
  facts.driver = text(info.description);
  facts.type = typeName(info.adapterType);
  facts.backend = backendName(info.backendType);
  for (const auto& [feature, name] : kFeatures) {
    if (adapter.HasFeature(feature)) facts.features.emplace_back(name);
  }
  wgpu::Limits limits;
  adapter.GetLimits(&limits);
  facts.limits = {
      {"maxBufferSize", static_cast<double>(limits.maxBufferSize)},
      {"maxStorageBufferBindingSize", static_cast<double>(limits.maxStorageBufferBindingSize)},
      {"maxStorageBuffersPerShaderStage", limits.maxStorageBuffersPerShaderStage},
      {"minStorageBufferOffsetAlignment", limits.minStorageBufferOffsetAlignment},
      {"maxComputeWorkgroupStorageSize", limits.maxComputeWorkgroupStorageSize},
      {"maxComputeInvocationsPerWorkgroup", limits.maxComputeInvocationsPerWorkgroup},
      {"maxComputeWorkgroupsPerDimension", limits.maxComputeWorkgroupsPerDimension},
      {"subgroupMinSize", info.subgroupMinSize},
      {"subgroupMaxSize", info.subgroupMaxSize},
  };
  return facts;
}

bool fits(const AdapterFacts& facts, const std::string& wanted) {
  if (wanted.empty() || wanted == "auto") return true;
  return facts.type == lower(wanted) || lower(facts.name + " " + facts.driver).find(lower(wanted)) != std::string::npos;
}

// What the Vulkan loader is told while adapters are looked for. Driver variables are set here, because process.env of
// a Node worker does not reach getenv, and put back afterwards, because child processes inherit them. The bundled
// driver is added to the system's, or, where it is asked for by name, is the only one shown.
class DriverEnvironment {
 public:
  explicit DriverEnvironment(const OpenOptions& options) : lock_(mutex()) {
    if (!options.vulkanLoader.empty() && !dlopen("libvulkan.so.1", RTLD_NOW | RTLD_GLOBAL)) {
      dlopen(options.vulkanLoader.c_str(), RTLD_NOW | RTLD_GLOBAL);
    }
    if (options.icd.empty()) return;
    const bool only = lower(options.adapter).find("swiftshader") != std::string::npos;
    name_ = only ? "VK_DRIVER_FILES" : "VK_ADD_DRIVER_FILES";
    if (const char* value = getenv(name_)) before_ = value;
    setenv(name_, options.icd.c_str(), 1);
  }
  ~DriverEnvironment() {
    if (!name_) return;
    if (before_)
      setenv(name_, before_->c_str(), 1);
    else
      unsetenv(name_);
  }
  DriverEnvironment(const DriverEnvironment&) = delete;
  DriverEnvironment& operator=(const DriverEnvironment&) = delete;

 private:
  // The environment is the process's, so there is one lock a process.
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  std::lock_guard<std::mutex> lock_;
  const char* name_ = nullptr;
  std::optional<std::string> before_;
};

wgpu::Instance createInstance(const OpenOptions& options) {
  loadDawn(options.dawn);
  const wgpu::InstanceFeatureName features[] = {wgpu::InstanceFeatureName::TimedWaitAny};
  // Dawn counts HostMappedPointer as unsafe, since the memory is ours; validation and robustness stay on.
  const char* const on[] = {"allow_unsafe_apis"};
  wgpu::DawnTogglesDescriptor toggles;
  toggles.enabledToggleCount = 1;
  toggles.enabledToggles = on;
  // An instance without a callback writes what it logs to stderr.
  dawn::native::DawnInstanceDescriptor logging;
  if (!options.verbose) logging.SetLoggingCallback([](wgpu::LoggingType, wgpu::StringView) {});
  logging.nextInChain = &toggles;
  wgpu::InstanceDescriptor descriptor;
  descriptor.nextInChain = &logging;
  descriptor.requiredFeatureCount = 1;
  descriptor.requiredFeatures = features;
  wgpu::Instance instance = wgpu::CreateInstance(&descriptor);
  if (!instance) throw Error(Code::INTERNAL, "Dawn cannot create an instance with TimedWaitAny.");
  return instance;
}

wgpu::Adapter request(const wgpu::Instance& instance, wgpu::PowerPreference power, bool fallback) {
  wgpu::RequestAdapterOptions options;
  options.powerPreference = power;
  options.forceFallbackAdapter = fallback;
  wgpu::Adapter found;
  auto future = instance.RequestAdapter(
      &options, wgpu::CallbackMode::WaitAnyOnly,
      [&found](wgpu::RequestAdapterStatus, wgpu::Adapter adapter, wgpu::StringView) { found = std::move(adapter); });
  instance.WaitAny(future, UINT64_MAX);
  return found;
}

// Dawn offers one adapter a question, so the questions are asked in order of preference.
std::vector<std::pair<wgpu::Adapter, AdapterFacts>> candidates(const wgpu::Instance& instance, bool verbose) {
  std::optional<QuietStderr> quiet;
  if (!verbose) quiet.emplace();
  std::vector<std::pair<wgpu::Adapter, AdapterFacts>> found;
  for (const bool fallback : {false, true}) {
    for (const auto power : {wgpu::PowerPreference::HighPerformance, wgpu::PowerPreference::LowPower}) {
      wgpu::Adapter adapter = request(instance, power, fallback);
      if (!adapter) continue;
      AdapterFacts facts = describe(adapter);
      const bool known = std::any_of(found.begin(), found.end(), [&](const auto& other) {
        return other.second.name == facts.name && other.second.driver == facts.driver;
      });
      if (!known) found.emplace_back(std::move(adapter), std::move(facts));
    }
  }
  std::stable_partition(found.begin(), found.end(), [](const auto& item) { return item.second.type != "cpu"; });
  return found;
}

}  // namespace

std::vector<AdapterFacts> Device::list(const OpenOptions& options) {
  std::vector<AdapterFacts> facts;
  const DriverEnvironment environment(options);
  for (auto& item : candidates(createInstance(options), options.verbose)) facts.push_back(std::move(item.second));
  return facts;
}

std::unique_ptr<Device> Device::open(const OpenOptions& options) {
  std::unique_ptr<Device> self(new Device());
  self->state_ = std::make_shared<State>();
  self->state_->verbose = options.verbose;
  const DriverEnvironment environment(options);
  self->instance_ = createInstance(options);
  std::string seen;
  for (auto& [adapter, facts] : candidates(self->instance_, options.verbose)) {
    if (!self->adapter_ && fits(facts, options.adapter)) {
      self->adapter_ = adapter;
      self->facts_ = facts;
    }
    seen += (seen.empty() ? "" : ", ") + facts.name + " (" + facts.type + ")";
  }
  if (!self->adapter_) {
    throw Error(Code::NO_ADAPTER, "No adapter fits '" + options.adapter + "'; Dawn sees " +
                                      (seen.empty() ? "none" : seen) +
                                      ". Run `weightsmith doctor` to see what to install.");
  }
  wgpu::Limits limits;
  self->adapter_.GetLimits(&limits);
  self->maxBinding_ = limits.maxStorageBufferBindingSize;
  self->maxBuffer_ = limits.maxBufferSize;
  if (options.maxBufferBytes) {
    self->maxBinding_ = std::min(self->maxBinding_, options.maxBufferBytes);
    self->maxBuffer_ = std::min(self->maxBuffer_, options.maxBufferBytes);
    self->facts_.limits["maxStorageBufferBindingSize"] = static_cast<double>(self->maxBinding_);
  }
  const bool canMap = self->adapter_.HasFeature(wgpu::FeatureName::HostMappedPointer);
  self->mapped_ =
      options.slots == "mapped" || (options.slots != "staging" && canMap && self->facts_.type != "discrete");
  if (self->mapped_ && !canMap) {
    throw Error(Code::NO_ADAPTER, "The adapter " + self->facts_.name +
                                      " cannot bind host memory, so slots: 'mapped' is not possible; use 'staging'.");
  }

  std::vector<wgpu::FeatureName> features;
  if (self->mapped_) features.push_back(wgpu::FeatureName::HostMappedPointer);
  for (const auto feature : {wgpu::FeatureName::Subgroups, wgpu::FeatureName::ShaderF16,
                             wgpu::FeatureName::ChromiumExperimentalSubgroupMatrix}) {
    if (self->adapter_.HasFeature(feature)) features.push_back(feature);
  }
  // Every byte of a slot is written before it is read, so clearing buffers at first use is wasted time.
  const char* const off[] = {"lazy_clear_resource_on_first_use"};
  wgpu::DawnTogglesDescriptor toggles;
  toggles.disabledToggleCount = 1;
  toggles.disabledToggles = off;
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
      self->adapter_.RequestDevice(&descriptor, wgpu::CallbackMode::WaitAnyOnly,
                                   [&](wgpu::RequestDeviceStatus, wgpu::Device device, wgpu::StringView message) {
                                     self->device_ = std::move(device);
                                     reason = text(message);
                                   });
  self->instance_.WaitAny(future, UINT64_MAX);
  if (!self->device_) {
    throw Error(Code::DEVICE_LOST, "The adapter " + self->facts_.name + " gives no device: " + reason);
  }
  self->device_.SetLoggingCallback(
      [](wgpu::LoggingType, wgpu::StringView message, State* state) {
        if (state->verbose) std::fprintf(stderr, "Dawn: %s\n", text(message).c_str());
      },
      self->state_.get());
  self->queue_ = self->device_.GetQueue();
  self->facts_.limits["subgroupMatrixSide"] = self->matrixSide();
  return self;
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
