// DARE's words for the kernels dare_norms and dare.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "steps/cpu_step.h"

namespace weightsmith {

// `rescale`: the factor of each model's kept elements.
std::vector<uint32_t> dareWords(const CpuJob& job, std::span<const double> rescale);

}  // namespace weightsmith
