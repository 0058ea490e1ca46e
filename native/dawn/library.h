// Dawn is loaded, never linked: the `webgpu` package ships one dawn.node per platform, without headers or exports.
// Its symbol table still names Dawn's GetProcAddress; that ONE symbol is looked up, everything else is asked by name.
#pragma once
#include <string>

namespace weightsmith {

// Loads Dawn from `path` (dawn.node, or any shared library that exports wgpuGetProcAddress). Once a process: a second
// call with the same path does nothing, with another path it fails. Throws Error LOAD.
void loadDawn(const std::string& path);

}  // namespace weightsmith

// The generated trampolines (build/generated/trampolines.cpp) resolve every wgpu* function through this.
extern "C" void* weightsmith_dawn_symbol(const char* name);
