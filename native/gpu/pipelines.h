// Compute pipelines by kernel name and override constants, compiled once a device inside an error scope.
#pragma once
#include <webgpu/webgpu_cpp.h>

#include <map>
#include <string>

#include "dawn/device.h"

namespace weightsmith {

// The four of every tile kernel (inputs, output, table, counts), or those that a kernel's WGSL declares.
enum class Bindings { tile, own };

using Constants = std::map<std::string, double>;

class Pipelines {
 public:
  explicit Pipelines(const Device& device);
  // Throws Error KERNEL with Dawn's message when the kernel does not compile.
  const wgpu::ComputePipeline& get(const std::string& kernel, const Constants& constants,
                                   Bindings bindings = Bindings::tile);
  const wgpu::BindGroupLayout& layout() const { return layout_; }

 private:
  const Device& device_;
  wgpu::BindGroupLayout layout_;
  wgpu::PipelineLayout pipelineLayout_;
  std::map<std::string, wgpu::ShaderModule> modules_;
  std::map<std::pair<std::string, Constants>, wgpu::ComputePipeline> pipelines_;
};

}  // namespace weightsmith
