// The terms of the cost at four neighbouring pixels, read from the arrays of a problem.
#pragma once

#include <algorithm>
#include <vector>

#include <droid_backends/pixel_terms.h>
#include <droid_backends/source_pass.h>

namespace droid {

// Viewing rays (x, y, 1) of the grid.
struct Rays {
  std::vector<double> x, y;  // [h * w]
  explicit Rays(const DenseBaProblem& P) {
    for (int v = 0; v < P.h; ++v)
      for (int u = 0; u < P.w; ++u) x.push_back(ray_x(P.K, u)), y.push_back(ray_y(P.K, v));
  }
};

// What all chunks of a pass share. The loops get copies: nothing that they write can change one, so all of it stays in
// registers.
struct Pass {
  DenseBaProblem P;
  DenseBaOptions opt;
  const EdgeGeometry* geometry;
  const double *ray_x, *ray_y;
  double damping;

  Pass(const DenseBaProblem& problem, const DenseBaOptions& options, const std::vector<EdgeGeometry>& edges,
       const Rays& rays, double depth_damping)
      : P(problem),
        opt(options),
        geometry(edges.data()),
        ray_x(rays.x.data()),
        ray_y(rays.y.data()),
        damping(depth_damping) {}
  int pixels() const { return P.h * P.w; }
};

// Up to four neighbouring pixels of the source keyframe.
struct Pixels {
  int first, count;
  Lanes x, y, d;  // viewing ray (x, y, 1) and inverse depth
};

DROID_INLINE Pixels load_pixels(const Pass& pass, int keyframe, int first, int end) {
  const int count = std::min(kLanes, end - first);
  const double* d = pass.P.inv_depth + static_cast<int64_t>(keyframe) * pass.pixels() + first;
  return {first, count, load_lanes(&pass.ray_x[first], count, 0.0), load_lanes(&pass.ray_y[first], count, 0.0),
          load_lanes(d, count, 0.0)};
}

using Flow = FlowTerm<Lanes>;
using Prior = PriorTerm<Lanes>;

// Flow terms of one edge; false where all confidences are zero: the flow there may be anything.
template <bool kJacobians>
DROID_INLINE bool flow_terms(const Pass& pass, int edge, const Pixels& px, Flow& f) {
  const int64_t index = static_cast<int64_t>(edge) * pass.pixels() + px.first;
  Lanes cx, cy, u, v;
  load_pairs(pass.P.confidence + 2 * index, px.count, cx, cy);
  cx *= pass.opt.flow_weight, cy *= pass.opt.flow_weight;
  if (all(mean_confidence<Lanes>(cx, cy) <= Lanes())) return false;
  load_pairs(pass.P.flow_target + 2 * index, px.count, u, v);
  flow_term<kJacobians, Lanes>(pass.P.K, pass.geometry[edge], pass.opt, px.x, px.y, px.d, u, v, cx, cy, f);
  return true;
}

// False where the keyframe has no prior depth.
DROID_INLINE bool prior_terms(const Pass& pass, int keyframe, double log_scale, const Pixels& px, Prior& f) {
  const DenseBaProblem& P = pass.P;
  if (pass.opt.prior_mode == PriorMode::kNone || P.prior_depth == nullptr) return false;
  const int64_t index = static_cast<int64_t>(keyframe) * pass.pixels() + px.first;
  const Lanes zero = Lanes(), z = load_lanes(P.prior_depth + index, px.count, 0.0);
  if (pass.opt.prior_mode == PriorMode::kDroid) {
    droid_prior_term<Lanes>(pass.opt, px.d, z, f);
    return !all(z <= zero);
  }
  const Lanes m = load_lanes(P.prior_weight + index, px.count, 0.0);
  if (all((z <= zero) | (m <= zero))) return false;
  metric_prior_term<Lanes>(pass.opt, log_scale, px.d, z, m, f);
  return true;
}

DROID_INLINE Lanes damped_inverse(const Pass& pass, int keyframe, const Pixels& px, const Lanes& C) {
  const DenseBaProblem& P = pass.P;
  Lanes eta = Lanes();
  if (P.depth_damping) {
    const int64_t index = static_cast<int64_t>(keyframe) * pass.pixels() + px.first;
    const bool droid = pass.opt.prior_mode == PriorMode::kDroid && P.prior_depth;  // there the prior replaces it
    const Lanes z = droid ? load_lanes(P.prior_depth + index, px.count, 0.0) : Lanes();
    eta = select(z > Lanes(), Lanes(), load_lanes(P.depth_damping + index, px.count, 0.0));
  }
  return damped_inverse<Lanes>(C, pass.damping, eta);
}

}  // namespace droid
