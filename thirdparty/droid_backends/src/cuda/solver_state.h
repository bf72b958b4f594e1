// What kernels ask of the state of a solve.
#pragma once

#include <droid_backends/levenberg_marquardt.h>

#include "dense_ba.h"

namespace droid::cuda {

// Is there anything to do at this place? Not after the end, nor at the current state while its system still holds.
__device__ inline bool wanted(const SolverState& state, At at) {
  return state.status == SolverState::kRunning && (at == At::kTrial || state.stale != 0.0);
}

__device__ inline int buffer(const SolverState& state, At at) {
  const int current = state.current != 0.0 ? 1 : 0;
  return at == At::kCurrent ? current : 1 - current;
}

__device__ inline double damping(const SolverState& state, const Amounts& amounts, At at) {
  if (amounts.fixed) return amounts.damping;
  return at == At::kCurrent ? state.lambda : relaxed(state.lambda);
}

__device__ inline double depth_damping(const SolverState& state, const Amounts& amounts, At at) {
  return amounts.fixed ? amounts.depth_damping : damping(state, amounts, at);
}

}  // namespace droid::cuda
