// Any bytes as a safetensors file: a header that is returned is sound, everything else is refused by code.
#include "check.h"
#include "io/safetensors.h"

using namespace weightsmith;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const Header header = parseHeader({reinterpret_cast<const char*>(data), size}, "fuzz");
    uint64_t at = header.dataStart;
    for (const Tensor& tensor : header.tensors) {
      check(tensor.begin == at && tensor.end >= tensor.begin);
      at = tensor.end;
      uint64_t bits = dtypeBits(tensor.dtype);
      for (const uint64_t dimension : tensor.shape) bits *= dimension;
      check(bits == 8 * (tensor.end - tensor.begin));
    }
    check(at == size && header.fileSize == size);
  } catch (const Error& error) {
    check(error.code == Code::FORMAT && !error.message.empty());
  }
  return 0;
}
