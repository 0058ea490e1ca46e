// What must hold of every input; a breach is a crash that the fuzzer reports.
#pragma once
#include <cstdlib>

inline void check(bool holds) {
  if (!holds) std::abort();
}
