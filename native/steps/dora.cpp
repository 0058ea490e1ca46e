// DoRA (arXiv 2402.09353): every line gets the length that its parameter says. One without a length has no direction
// either, and stays 0.
#include "steps/gram.h"

namespace weightsmith {
namespace {

std::vector<double> dora(const Gram& gram, std::span<const double> parameters) {
  const double length = gram.norm(0);
  return {length == 0 ? 0 : parameters[0] / length};
}

}  // namespace

// A second input is what the matrix was before, which is counted against and has no part in the lengths.
std::unique_ptr<CpuStep> make_dora(const CpuJob& job) {
  CpuJob own = job;
  own.inputs = 1;
  return makeGramStep(own, dora, Parameters::kOfLines);
}

}  // namespace weightsmith
