#include "dawn/adapters.h"

#include <dawn/native/DawnNative.h>
#include <dlfcn.h>
#include <stdlib.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "dawn/library.h"
#include "dawn/suppress_stderr.h"

// Declared in Dawn's header, but not among the functions that can be asked for by name.
dawn::native::DawnInstanceDescriptor::DawnInstanceDescriptor() { sType = wgpu::SType::DawnInstanceDescriptor; }

namespace weightsmith {
namespace {

// The backends that compute. Dawn has more: its Null backend takes every call and does nothing, and OpenGL has no
// buffers as kernels need them.
constexpr wgpu::BackendType kBackends[] = {wgpu::BackendType::Vulkan, wgpu::BackendType::Metal,
                                           wgpu::BackendType::D3D12};

// How Dawn begins the second line of what it says of a driver that it cannot use.
constexpr std::string_view kRefusal = "While initializing adapter";

// The environment is the process's, so there is one lock a process.
std::mutex& environmentMutex() {
  static std::mutex one;
  return one;
}

// What an instance logs while adapters are looked for. It is the process's, because an instance may log for as long as
// anything of Dawn lives.
class Log {
 public:
  static Log& instance() {
    static Log one;
    return one;
  }
  void begin() {
    std::lock_guard lock(mutex_);
    refused_.clear();
    listening_ = true;
  }
  std::vector<std::string> end() {
    std::lock_guard lock(mutex_);
    listening_ = false;
    return std::exchange(refused_, {});
  }
  void add(const std::string& message) {
    if (message.find(kRefusal) == std::string::npos) return;
    std::string first = message.substr(0, message.find('\n'));
    std::lock_guard lock(mutex_);
    if (listening_ && std::find(refused_.begin(), refused_.end(), first) == refused_.end()) {
      refused_.push_back(std::move(first));
    }
  }

 private:
  std::mutex mutex_;
  bool listening_ = false;
  std::vector<std::string> refused_;
};

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

DeviceInfo describe(const wgpu::Adapter& adapter) {
  DeviceInfo facts;
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
  if (options.verbose) {
    logging.SetLoggingCallback([](wgpu::LoggingType, wgpu::StringView message) {
      std::fprintf(stderr, "Dawn: %s\n", text(message).c_str());
      Log::instance().add(text(message));
    });
  } else {
    logging.SetLoggingCallback([](wgpu::LoggingType, wgpu::StringView message) { Log::instance().add(text(message)); });
  }
  logging.nextInChain = &toggles;
  wgpu::InstanceDescriptor descriptor;
  descriptor.nextInChain = &logging;
  descriptor.requiredFeatureCount = 1;
  descriptor.requiredFeatures = features;
  wgpu::Instance instance = wgpu::CreateInstance(&descriptor);
  if (!instance) throw Error(Code::INTERNAL, "Dawn cannot create an instance with TimedWaitAny.");
  return instance;
}

wgpu::Adapter request(const wgpu::Instance& instance, wgpu::BackendType backend, wgpu::PowerPreference power,
                      bool fallback) {
  wgpu::RequestAdapterOptions options;
  options.backendType = backend;
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
std::vector<Candidate> ask(const wgpu::Instance& instance) {
  std::vector<Candidate> found;
  for (const auto backend : kBackends) {
    for (const bool fallback : {false, true}) {
      for (const auto power : {wgpu::PowerPreference::HighPerformance, wgpu::PowerPreference::LowPower}) {
        wgpu::Adapter adapter = request(instance, backend, power, fallback);
        if (!adapter) continue;
        DeviceInfo facts = describe(adapter);
        const bool known = std::any_of(found.begin(), found.end(), [&](const Candidate& other) {
          return other.facts.name == facts.name && other.facts.driver == facts.driver;
        });
        if (!known) found.push_back({std::move(adapter), std::move(facts)});
      }
    }
  }
  std::stable_partition(found.begin(), found.end(), [](const Candidate& item) { return item.facts.type != "cpu"; });
  return found;
}

}  // namespace

std::string text(wgpu::StringView view) {
  if (!view.data) return {};
  return view.length == WGPU_STRLEN ? std::string(view.data) : std::string(view.data, view.length);
}

bool fits(const DeviceInfo& facts, const std::string& wanted) {
  if (wanted.empty() || wanted == "auto") return true;
  return facts.type == lower(wanted) || lower(facts.name + " " + facts.driver).find(lower(wanted)) != std::string::npos;
}

DriverEnvironment::DriverEnvironment(const OpenOptions& options) : lock_(environmentMutex()) {
  if (!options.vulkanLoader.empty() && !dlopen("libvulkan.so.1", RTLD_NOW | RTLD_GLOBAL)) {
    dlopen(options.vulkanLoader.c_str(), RTLD_NOW | RTLD_GLOBAL);
  }
  if (options.icd.empty()) return;
  // Loaders before 1.3.207 know the second name only.
  for (const char* name : {"VK_DRIVER_FILES", "VK_ICD_FILENAMES"}) {
    const char* value = getenv(name);
    before_[name] = value ? std::optional<std::string>(value) : std::nullopt;
    setenv(name, options.icd.c_str(), 1);
  }
}

DriverEnvironment::~DriverEnvironment() {
  for (const auto& [name, value] : before_) {
    if (value)
      setenv(name, value->c_str(), 1);
    else
      unsetenv(name);
  }
}

Adapters::Adapters(const OpenOptions& options) : instance(createInstance(options)) {
  std::optional<SuppressStderr> quiet;
  if (!options.verbose) quiet.emplace();
  Log::instance().begin();
  candidates = ask(instance);
  refused = Log::instance().end();
}

}  // namespace weightsmith
