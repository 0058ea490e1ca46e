#include "gpu/pipelines.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace weightsmith {

namespace {

// What follows the name of a merge kernel in that of its form for devices with subgroups.
const std::string kSubgroupForm = "_subgroup";

bool hasKernel(const std::string& name) { return embeddedKernels().count(name) > 0; }

// Invocations of a subgroup, as lib/native/subgroups.ts counts them.
uint32_t lanesOf(const DeviceInfo& device) {
  const auto& features = device.features;
  if (std::find(features.begin(), features.end(), "subgroups") == features.end()) return 0;
  const auto least = device.limits.find("subgroupMinSize");
  const auto lanes = least == device.limits.end() ? 0 : static_cast<uint32_t>(least->second);
  return lanes < 4 ? 0 : lanes;
}

}  // namespace

Pipelines::Pipelines(const Device& device, std::string kernels)
    : device_(device), lanes_(lanesOf(device.facts())), kernels_(std::move(kernels)) {
  // Every tile kernel has the same four bindings: inputs, output, table, counts.
  std::vector<wgpu::BindGroupLayoutEntry> entries(4);
  for (uint32_t i = 0; i < 4; i++) {
    entries[i].binding = i;
    entries[i].visibility = wgpu::ShaderStage::Compute;
    entries[i].buffer.type =
        i == 0 || i == 2 ? wgpu::BufferBindingType::ReadOnlyStorage : wgpu::BufferBindingType::Storage;
  }
  wgpu::BindGroupLayoutDescriptor group;
  group.entryCount = entries.size();
  group.entries = entries.data();
  layout_ = device.handle().CreateBindGroupLayout(&group);
  wgpu::PipelineLayoutDescriptor descriptor;
  descriptor.bindGroupLayoutCount = 1;
  descriptor.bindGroupLayouts = &layout_;
  pipelineLayout_ = device.handle().CreatePipelineLayout(&descriptor);
}

const wgpu::ComputePipeline& Pipelines::get(const std::string& kernel, const Constants& constants, Bindings bindings) {
  const auto key = std::make_pair(kernel, constants);
  const auto known = pipelines_.find(key);
  if (known != pipelines_.end()) return known->second;
  if (bindings == Bindings::tile && lanes_ > 0 && hasKernel(kernel + kSubgroupForm)) {
    Constants all = constants;
    all["SUBGROUP"] = lanes_;
    const auto& pipeline = get(kernel + kSubgroupForm, all, bindings);
    return pipelines_.emplace(key, pipeline).first->second;
  }

  auto found = modules_.find(kernel);
  if (found == modules_.end()) found = modules_.emplace(kernel, Module{KernelSource(kernel, kernels_), nullptr}).first;
  auto& [source, module] = found->second;
  const auto& device = device_.handle();
  device.PushErrorScope(wgpu::ErrorFilter::Validation);
  if (!module) {
    wgpu::ShaderSourceWGSL wgsl;
    wgsl.code = wgpu::StringView(source.text());
    wgpu::ShaderModuleDescriptor descriptor;
    descriptor.nextInChain = &wgsl;
    descriptor.label = wgpu::StringView(kernel);
    module = device.CreateShaderModule(&descriptor);
  }
  std::vector<wgpu::ConstantEntry> entries;
  Constants all = constants;
  all.try_emplace("LANES", device_.facts().type == "cpu" ? 8 : 64);
  for (const auto& [name, value] : all) {
    // Dawn refuses a constant that the shader does not declare; kernels declare only what they use.
    if (source.text().find("override " + name) == std::string::npos) continue;
    wgpu::ConstantEntry entry;
    entry.key = wgpu::StringView(name);
    entry.value = value;
    entries.push_back(entry);
  }
  wgpu::ComputePipelineDescriptor descriptor;
  descriptor.label = wgpu::StringView(kernel);
  if (bindings == Bindings::tile) descriptor.layout = pipelineLayout_;
  descriptor.compute.module = module;
  descriptor.compute.entryPoint = "main";
  descriptor.compute.constantCount = entries.size();
  descriptor.compute.constants = entries.data();
  wgpu::ComputePipeline pipeline = device.CreateComputePipeline(&descriptor);
  std::string message;
  device_.wait(device.PopErrorScope(wgpu::CallbackMode::WaitAnyOnly,
                                    [&message](wgpu::PopErrorScopeStatus, wgpu::ErrorType type, wgpu::StringView text) {
                                      if (type != wgpu::ErrorType::NoError)
                                        message = std::string(text.data ? std::string_view(text) : "");
                                    }));
  if (!message.empty()) {
    message = "The kernel " + kernel + " does not compile on " + device_.facts().name + ": " + source.located(message);
    modules_.erase(found);
    throw Error(Code::KERNEL, message);
  }
  return pipelines_.emplace(key, pipeline).first->second;
}

}  // namespace weightsmith
