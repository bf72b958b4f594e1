// Damping and convergence of a Levenberg-Marquardt solve: the only place where these rules are written.
#pragma once

#include <lietorch/common.h>

namespace droid {

// The damping is relative to the diagonal (Marquardt 1963), so that at 1 every variable moves at most half as far as it
// would alone. Beyond the largest damping a step changes nothing but rounding: the solve ends.
constexpr double kMinDamping = 1e-8, kMaxDamping = 1e6;

// Only a step that is damped no more than this shows by a small decrease that the cost is at its minimum.
constexpr double kFullStepDamping = 1e-2;

// After an accepted step, and in advance for the system at the trial state, as most steps are accepted.
LIE_HD double relaxed(double lambda) { return lambda * 0.2 > kMinDamping ? lambda * 0.2 : kMinDamping; }

// After a refused one.
LIE_HD double raised(double lambda) { return (lambda > 1e-6 ? lambda : 1e-6) * 10.0; }

// A cost that is this share of the initial one is zero up to rounding.
constexpr double kZeroCost = 1e-16;

// The relative decrease rule, for the gain of an accepted step and for what the linear model promised of a refused one.
LIE_HD bool converged(double cost_initial, double cost, double decrease, double lambda, double min_relative_decrease) {
  const double least = kZeroCost * cost_initial, kept = cost > least ? cost : least;
  return lambda <= kFullStepDamping && decrease <= min_relative_decrease * kept;
}

}  // namespace droid
