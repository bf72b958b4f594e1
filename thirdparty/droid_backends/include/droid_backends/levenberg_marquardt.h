// The damping of a solve from one trial to the next: the only place where these rules are written.
#pragma once

#include <lietorch/common.h>

namespace droid {

constexpr int kMaxTrials = 6;  // damped solves per linearisation before the solver gives up

// After an accepted step, and in advance for the system at the trial state, as most steps are accepted.
LIE_HD double relaxed(double lambda) { return lambda * 0.2 > 1e-8 ? lambda * 0.2 : 1e-8; }

// After a refused one.
LIE_HD double raised(double lambda) { return (lambda > 1e-6 ? lambda : 1e-6) * 10.0; }

LIE_HD double relative_decrease(double before, double after) {
  return (before - after) / (before > 1e-300 ? before : 1e-300);
}

}  // namespace droid
