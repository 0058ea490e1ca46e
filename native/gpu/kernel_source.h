// The text of kernels: WGSL files with their includes expanded. They are embedded at build time, so that the addon is
// one file; WEIGHTSMITH_KERNELS names a folder laid out as native/kernels from which they are read instead, at every
// first use in a device, so that an edit needs no build.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace weightsmith {

struct KernelFile {
  std::string_view path;  // from the root of the repository
  std::string_view text;
};

// By kernel name, and by the name in an `#include`. Defined in build/generated/kernels.cpp.
const std::map<std::string, KernelFile>& embeddedKernels();
const std::map<std::string, KernelFile>& embeddedIncludes();

class KernelSource {
 public:
  // `folder`: empty for the embedded kernels. Throws Error KERNEL for a name that no kernel has or an include that is
  // no file, and Error IO_READ for a file that cannot be read.
  KernelSource(const std::string& name, const std::string& folder);

  // What Dawn compiles.
  const std::string& text() const { return text_; }

  // A message of Dawn with every place in the text, `:12:5`, as a place in a file,
  // `native/kernels/merge/linear.wgsl:3:5`.
  std::string located(std::string_view message) const;

 private:
  struct Line {
    size_t file;  // in `paths_`
    size_t number;
  };

  void add(const std::string& path, std::string_view text);
  void include(std::string_view name);

  std::string folder_;
  std::string text_;
  std::vector<std::string> paths_;
  std::vector<Line> lines_;  // of the text
};

std::vector<std::string> kernelNames();

}  // namespace weightsmith
