#include "steps/cpu_step.h"

#include <bit>

namespace weightsmith {

std::vector<uint32_t> floatWords(const std::vector<double>& values) {
  std::vector<uint32_t> words;
  words.reserve(values.size());
  for (double value : values) words.push_back(std::bit_cast<uint32_t>(static_cast<float>(value)));
  return words;
}

}  // namespace weightsmith
