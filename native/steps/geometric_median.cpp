// Geometric median by Weiszfeld's iteration, in the form of Vardi and Zhang (PNAS 2000), which does not stall where an
// iterate meets one of the points. Input 0 is the origin, so that the distances, which are small beside the tensors,
// do not come from differences of large numbers; it is a point as well. Parameters: largest number of iterations,
// tolerance.
#include "steps/gram.h"

namespace weightsmith {
namespace {

std::vector<double> geometricMedian(const Gram& gram, std::span<const double> parameters) {
  const size_t n = gram.size();  // points besides the origin
  const double iterations = parameters[0], tolerance = parameters[1];
  std::vector<double> median(n, 1.0 / static_cast<double>(n + 1));
  double extent = 0;
  for (size_t i = 0; i < n; ++i) extent = std::max(extent, gram.norm(i));
  if (!(extent > 0)) return median;
  const double meets = extent * 1e-12;  // nearer than this is the point itself
  for (double iteration = 0; iteration < iterations; ++iteration) {
    double shares = 0;
    size_t met = 0;
    std::vector<double> target(n);
    for (size_t i = 0; i <= n; ++i) {  // i == n is the origin
      std::vector<double> away = median;
      if (i < n) away[i] -= 1;
      const double distance = gram.norm(away);
      if (distance <= meets) {
        ++met;
        continue;
      }
      shares += 1 / distance;
      if (i < n) target[i] += 1 / distance;
    }
    if (shares == 0) break;
    std::vector<double> step(n);
    for (size_t i = 0; i < n; ++i) step[i] = target[i] / shares - median[i];
    const double length = gram.norm(step);
    // A point is the median itself where the pull of the others is weaker than its own weight.
    const double stay = met == 0 ? 0 : static_cast<double>(met) / std::max(length * shares, 1e-300);
    if (stay >= 1) break;
    for (size_t i = 0; i < n; ++i) median[i] += (1 - stay) * step[i];
    if (!((1 - stay) * length > tolerance * extent)) break;
  }
  return median;
}

}  // namespace

std::unique_ptr<CpuStep> make_geometric_median(const CpuJob& job) { return makeGramStep(job, geometricMedian); }

}  // namespace weightsmith
