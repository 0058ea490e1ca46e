// Which adapters there are. Dawn is asked for those of backends that compute, and what it says of drivers that it does
// not take is kept, because it is all that a person learns of why a driver is not in use.
#pragma once
#include <webgpu/webgpu_cpp.h>

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace weightsmith {

struct OpenOptions {
  std::string dawn;
  std::string vulkanLoader;
  std::string icd;
  std::string device = "auto";
  std::string slots = "auto";
  uint64_t maxBufferBytes = 0;
  std::string kernels;               // a folder to read kernels from; empty: those of the addon
  std::vector<std::string> toggles;  // of Dawn, for debugging; `-name` is one that is disabled
  bool verbose = false;
};

struct DeviceInfo {
  std::string name, vendor, architecture, driver, type, backend;
  std::vector<std::string> features;
  std::map<std::string, double> limits;
  // Why nothing can be computed on it, as one sentence; empty where something can.
  std::string problem;
};

struct Candidate {
  wgpu::Adapter adapter;
  DeviceInfo facts;
};

// Text of Dawn, which may be null or end at a zero.
std::string text(wgpu::StringView view);

// Whether the adapter is what `wanted` asks for: `auto`, a type or a part of its name.
bool fits(const DeviceInfo& facts, const std::string& wanted);

// What the Vulkan loader is told while adapters are looked for. Driver variables are set here, because process.env of
// a Node worker does not reach getenv, and put back afterwards, because child processes inherit them. The bundled
// driver is shown alone: it is asked for by name, or where no other driver does.
class DriverEnvironment {
 public:
  explicit DriverEnvironment(const OpenOptions& options);
  ~DriverEnvironment();
  DriverEnvironment(const DriverEnvironment&) = delete;
  DriverEnvironment& operator=(const DriverEnvironment&) = delete;

 private:
  std::lock_guard<std::mutex> lock_;
  std::map<const char*, std::optional<std::string>> before_;
};

// One look at the adapters of this process, while a DriverEnvironment lives.
struct Adapters {
  explicit Adapters(const OpenOptions& options);

  wgpu::Instance instance;
  // Best first.
  std::vector<Candidate> candidates;
  // What Dawn says of drivers that it refuses, a sentence each.
  std::vector<std::string> refused;
};

}  // namespace weightsmith
