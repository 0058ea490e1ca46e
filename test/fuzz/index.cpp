// Any bytes as model.safetensors.index.json: the files it names stay in the folder, everything else is refused by code.
#include "check.h"
#include "io/safetensors.h"

using namespace weightsmith;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const Index index = parseIndex({reinterpret_cast<const char*>(data), size}, "fuzz");
    for (const auto& entry : index.weightMap) {
      const std::string& file = entry.second;
      check(!file.empty() && file != "." && file != ".." && file.find_first_of("/\\") == std::string::npos);
    }
  } catch (const Error& error) {
    check(error.code == Code::INDEX && !error.message.empty());
  }
  return 0;
}
