// The passes that assembling consists of, and how their threads read one pixel.
#pragma once

#include <droid_backends/pixel_terms.h>

#include "solver_state.h"

namespace droid::cuda {

template <typename F>
void find_geometry(const System<F>& system, At at, std::intptr_t stream);
template <typename F>
void linearise(const System<F>& system, At at, const Batch& batch, std::intptr_t stream);
template <typename F>
void eliminate(const System<F>& system, At at, const Batch& batch, std::intptr_t stream);
template <typename F>
void expand(const System<F>& system, At at, const Batch& batch, std::intptr_t stream);
template <typename F>
void gather(const System<F>& system, At at, double* values, double* dense, double* right, std::intptr_t stream);

struct Pixel {
  double x, y, d;  // viewing ray (x, y, 1) and inverse depth
};

__device__ inline Pixel load_pixel(const Problem& P, At at, int keyframe, int p) {
  const double* inv_depth = P.inv_depth.of(buffer(*P.state, at));
  return {ray_x(P.K, p % P.w), ray_y(P.K, p / P.w), inv_depth[static_cast<int64_t>(keyframe) * P.pixels() + p]};
}

// Two neighbouring numbers at once: pairs (x, y) lie side by side.
struct alignas(8) FloatPair {
  float x, y;
};
struct alignas(16) DoublePair {
  double x, y;
};
__device__ inline DoublePair load_pair(const float* numbers, int64_t pair) {
  const FloatPair both = reinterpret_cast<const FloatPair*>(numbers)[pair];
  return {static_cast<double>(both.x), static_cast<double>(both.y)};
}
__device__ inline DoublePair load_pair(const double* numbers, int64_t pair) {
  return reinterpret_cast<const DoublePair*>(numbers)[pair];
}

// False where all confidences are zero; the flow there may be anything.
template <typename F, bool kJacobians>
__device__ inline bool load_flow(const System<F>& s, At at, int edge, int p, const Pixel& px, FlowTerm<double>& f) {
  const int64_t cell = static_cast<int64_t>(edge) * s.P.pixels() + p;
  const DoublePair c = load_pair(s.measured.confidence, cell);
  const double cx = s.opt.flow_weight * c.x, cy = s.opt.flow_weight * c.y;
  if (mean_confidence<double>(cx, cy) <= 0.0) return false;
  const DoublePair uv = load_pair(s.measured.flow_target, cell);
  const EdgeGeometry& geometry = s.work.geometry[buffer(*s.P.state, at) * s.P.E + edge];
  flow_term<kJacobians, double>(s.P.K, geometry, s.opt, px.x, px.y, px.d, uv.x, uv.y, cx, cy, f);
  return true;
}

template <typename F>
__device__ inline bool has_prior(const System<F>& s) {
  return s.opt.prior_mode != PriorMode::kNone && s.P.prior_depth != nullptr;
}

template <typename F>
__device__ inline void load_prior(const System<F>& s, At at, int keyframe, int p, double d, PriorTerm<double>& f) {
  if (!has_prior(s)) return;
  const int64_t cell = static_cast<int64_t>(keyframe) * s.P.pixels() + p;
  const double z = s.P.prior_depth[cell];
  if (s.opt.prior_mode == PriorMode::kDroid) return droid_prior_term<double>(s.opt, d, z, f);
  const double scale = s.P.scales.of(buffer(*s.P.state, at))[keyframe];
  metric_prior_term<double>(s.opt, scale, d, z, s.P.prior_weight[cell], f);
}

// What is added to C; in droid mode the prior replaces it.
template <typename F>
__device__ inline double load_eta(const System<F>& s, int keyframe, int p) {
  if (s.P.depth_damping == nullptr) return 0.0;
  const int64_t cell = static_cast<int64_t>(keyframe) * s.P.pixels() + p;
  const bool replaced = s.opt.prior_mode == PriorMode::kDroid && s.P.prior_depth && s.P.prior_depth[cell] > 0.0;
  return replaced ? 0.0 : s.P.depth_damping[cell];
}

}  // namespace droid::cuda
