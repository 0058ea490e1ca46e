// What is done with resident buffers, as C++ sees it: the mirror of NativeWork in lib/native/border.ts. Plain data; no
// model family.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace weightsmith {

// Bytes of a file, or of memory, that go into a buffer.
struct BufferWrite {
  uint32_t buffer = 0;
  uint64_t offset = 0;  // in the buffer
  std::string path;     // empty: from `memory`
  uint64_t begin = 0;   // in the file
  uint64_t bytes = 0;
  std::vector<uint8_t> memory;
};

struct KernelDispatch {
  std::string kernel;
  std::map<std::string, double> constants;
  std::vector<uint32_t> parameters;  // binding 0
  std::vector<uint32_t> buffers;     // bindings from 1
  std::array<uint32_t, 3> grid{1, 1, 1};
};

struct BufferRead {
  uint32_t buffer = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct DeviceWork {
  std::vector<BufferWrite> writes;
  std::vector<KernelDispatch> dispatches;
  std::vector<BufferRead> reads;
};

}  // namespace weightsmith
