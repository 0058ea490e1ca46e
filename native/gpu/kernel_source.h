// The WGSL kernels of native/kernels, embedded at build time with their includes expanded, so that the addon is one
// file and no path is looked up at run time. Defined in build/generated/kernels.cpp.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace weightsmith {

// Empty for a name that has no file.
std::string_view kernelSource(std::string_view name);
std::vector<std::string> kernelNames();

}  // namespace weightsmith
