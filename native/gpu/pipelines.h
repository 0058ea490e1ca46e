// Compute pipelines by kernel name and override constants, compiled once a device inside an error scope.
#pragma once
#include <webgpu/webgpu_cpp.h>

#include <map>
#include <string>

#include "dawn/device.h"
#include "gpu/kernel_source.h"

namespace weightsmith {

// The four of every tile kernel (inputs, output, table, counts), or those that a kernel's WGSL declares.
enum class Bindings { tile, own };

using Constants = std::map<std::string, double>;

class Pipelines {
 public:
  // `kernels`: the folder that kernels are read from; empty for those of the addon.
  Pipelines(const Device& device, std::string kernels);
  // A merge kernel NAME is taken in its form NAME_subgroup, where there is one and the device has subgroups.
  // Throws Error KERNEL with Dawn's message, and the places of its files, when the kernel does not compile.
  const wgpu::ComputePipeline& get(const std::string& kernel, const Constants& constants,
                                   Bindings bindings = Bindings::tile);
  const wgpu::BindGroupLayout& layout() const { return layout_; }

 private:
  struct Module {
    KernelSource source;
    wgpu::ShaderModule compiled;
  };

  const Device& device_;
  uint32_t lanes_;  // of a subgroup; 0: kernels take the forms that run anywhere
  wgpu::BindGroupLayout layout_;
  wgpu::PipelineLayout pipelineLayout_;
  std::string kernels_;
  std::map<std::string, Module> modules_;
  std::map<std::pair<std::string, Constants>, wgpu::ComputePipeline> pipelines_;
};

}  // namespace weightsmith
