#include "gpu/kernel_source.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "io/file.h"

namespace weightsmith {
namespace {

constexpr std::string_view kRoot = "native/kernels/";
// No kernel comes near these; what does is no folder of kernels.
constexpr uint64_t kMostBytes = 1 << 20;  // of a file
constexpr size_t kMostFiles = 64;         // of a kernel

bool isDigit(char c) { return c >= '0' && c <= '9'; }

// What `#include "x.wgsl"` names, on a line of its own; empty for any other line.
std::string_view included(std::string_view line) {
  const auto trim = [&line] {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.front()))) line.remove_prefix(1);
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.remove_suffix(1);
  };
  constexpr std::string_view directive = "#include";
  trim();
  if (!line.starts_with(directive)) return {};
  line.remove_prefix(directive.size());
  trim();
  if (line.size() < 2 || line.front() != '"' || line.back() != '"') return {};
  return line.substr(1, line.size() - 2);
}

bool isFileName(std::string_view name) {
  return name.ends_with(".wgsl") &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.'; });
}

std::string contents(const std::string& path) {
  const File file = File::openRead(path);
  if (file.size() > kMostBytes) {
    throw Error(Code::KERNEL, "The file " + quoted(path) + " has " + std::to_string(file.size()) +
                                  " bytes, but a kernel has at most " + std::to_string(kMostBytes) +
                                  "; name a folder of kernels in WEIGHTSMITH_KERNELS, or unset it.");
  }
  std::string text(file.size(), '\0');
  file.readAt(0, text.data(), text.size());
  return text;
}

}  // namespace

std::vector<std::string> kernelNames() {
  std::vector<std::string> names;
  for (const auto& [name, file] : embeddedKernels()) names.push_back(name);
  return names;
}

KernelSource::KernelSource(const std::string& name, const std::string& folder) : folder_(folder) {
  const auto known = embeddedKernels().find(name);
  if (known == embeddedKernels().end()) throw Error(Code::KERNEL, "There is no kernel named '" + name + "'.");
  const auto& [path, text] = known->second;
  if (folder_.empty() || !path.starts_with(kRoot)) {
    add(std::string(path), text);
  } else {
    const std::string own = folder_ + "/" + std::string(path.substr(kRoot.size()));
    add(own, contents(own));
  }
}

void KernelSource::add(const std::string& path, std::string_view text) {
  if (paths_.size() == kMostFiles) {
    throw Error(Code::KERNEL, "The kernel " + quoted(paths_.front()) + " includes more than " +
                                  std::to_string(kMostFiles - 1) + " files.");
  }
  const size_t file = paths_.size();
  paths_.push_back(path);
  for (size_t number = 1; !text.empty(); number++) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (const std::string_view name = included(line); !name.empty()) {
      if (!isFileName(name)) {
        throw Error(Code::KERNEL, path + ":" + std::to_string(number) + " includes " + quoted(std::string(name)) +
                                      ", which is no name of a file in the folder include.");
      }
      include(name);
      continue;
    }
    lines_.push_back({file, number});
    text_.append(line).push_back('\n');
  }
}

void KernelSource::include(std::string_view name) {
  const std::string path = (folder_.empty() ? std::string(kRoot) : folder_ + "/") + "include/" + std::string(name);
  if (std::find(paths_.begin(), paths_.end(), path) != paths_.end()) return;
  if (!folder_.empty()) return add(path, contents(path));
  const auto known = embeddedIncludes().find(std::string(name));
  if (known == embeddedIncludes().end()) throw Error(Code::KERNEL, "There is no file " + path + ", which is included.");
  add(path, known->second.text);
}

std::string KernelSource::located(std::string_view message) const {
  std::string result;
  while (!message.empty()) {
    // `:LINE:COLUMN`, with no file before it.
    size_t at = 1;
    size_t line = 0;
    const bool bare = result.empty() || result.back() == ' ' || result.back() == '\n' || result.back() == '(';
    while (at < message.size() && at < 8 && isDigit(message[at]))
      line = 10 * line + static_cast<size_t>(message[at++] - '0');
    const bool place = bare && message[0] == ':' && at > 1 && at + 1 < message.size() && message[at] == ':' &&
                       isDigit(message[at + 1]) && line >= 1 && line <= lines_.size();
    if (place) {
      const Line& origin = lines_[line - 1];
      result += paths_[origin.file] + ":" + std::to_string(origin.number);
      message.remove_prefix(at);
    } else {
      result += message[0];
      message.remove_prefix(1);
    }
  }
  return result;
}

}  // namespace weightsmith
