// The terms of the cost at four neighbouring pixels, with what they add to the normal equations.
#pragma once

#include <algorithm>
#include <vector>

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
      : P(problem), opt(options), geometry(edges.data()), ray_x(rays.x.data()), ray_y(rays.y.data()),
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

struct Flow {
  Lanes rx, ry, wx, wy;  // residual and its weight in the normal equations; 0 where nothing is to be learnt
  Lanes cost;
  PixelJacobians<Lanes> J;
};

// Flow terms of one edge. Confidences of x and y may differ; the loss sees the length of the residual under their mean.
// False where all confidences are zero: whatever stands in the flow there, NaN included, is not looked at.
template <bool kJacobians>
DROID_INLINE bool flow_terms(const Pass& pass, int edge, const Pixels& px, Flow& f) {
  const int64_t index = static_cast<int64_t>(edge) * pass.pixels() + px.first;
  Lanes cx, cy;
  load_pairs(pass.P.confidence + 2 * index, px.count, cx, cy);
  cx *= pass.opt.flow_weight, cy *= pass.opt.flow_weight;
  const Lanes zero = Lanes(), mean = 0.5 * (cx + cy);
  const LaneMask unused = mean <= zero;
  if (!any(~unused)) return false;

  Lanes u, v;
  load_pairs(pass.P.flow_target + 2 * index, px.count, u, v);
  const EdgeGeometry& g = pass.geometry[edge];
  const auto proj = project_pixel<Lanes>(pass.P.K, g.R, g.t, px.x, px.y, px.d, kJacobians ? &f.J : nullptr);
  const LaneMask behind = proj.z_scaled <= zero + kMinDepth;  // NaN is not: it must reach the cost
  const LaneMask ignored = unused | behind;
  f.rx = select(ignored, zero, u - proj.u);
  f.ry = select(ignored, zero, v - proj.v);
  const Lanes seen2 = (cx * f.rx * f.rx + cy * f.ry * f.ry) / select(unused, zero + 1.0, mean);
  const Lanes n2 = select(behind, zero + pass.opt.invalid_residual * pass.opt.invalid_residual, seen2);
  f.cost = select(unused, zero, mean * pass.opt.flow_loss.cost_of_square(n2));
  if (!kJacobians) return true;
  const Lanes weight = select(ignored, zero, pass.opt.flow_loss.weight_of_square(n2));
  f.wx = cx * weight, f.wy = cy * weight;
  return true;
}

struct Prior {
  Lanes C, b;      // depth-depth and right side
  Lanes E, H, v;   // depth-scale, scale-scale, right side of the scale
  Lanes cost;
};

DROID_INLINE bool prior_terms(const Pass& pass, int keyframe, double exp_scale, const Pixels& px, Prior& f) {
  const DenseBaProblem& P = pass.P;
  if (pass.opt.prior_mode == PriorMode::kNone || P.prior_depth == nullptr) return false;
  const int64_t index = static_cast<int64_t>(keyframe) * pass.pixels() + px.first;
  const Lanes zero = Lanes(), z = load_lanes(P.prior_depth + index, px.count, 0.0);
  if (pass.opt.prior_mode == PriorMode::kDroid) {
    const LaneMask unused = z <= zero;
    const Lanes difference = select(unused, zero, px.d - 1.0 / z);
    f.C = select(unused, zero, zero + pass.opt.droid_alpha);
    f.b = -pass.opt.droid_alpha * difference;
    f.cost = pass.opt.droid_alpha * difference * difference;
    f.E = f.H = f.v = zero;
    return any(~unused);
  }
  const Lanes m = load_lanes(P.prior_weight + index, px.count, 0.0);
  const LaneMask unused = (z <= zero) | (m <= zero);
  if (!any(~unused)) return false;
  const auto prior = prior_residual<Lanes>(px.d, z, exp_scale);
  const Lanes r = select(unused, zero, prior.r);
  const Lanes weight = select(unused, zero, m * pass.opt.prior_loss.weight_of_square(r * r));
  const Lanes Jd = select(unused, zero, prior.Jd), Js = select(unused, zero, prior.Js);
  f.C = weight * Jd * Jd, f.b = -weight * Jd * r;
  f.E = weight * Jd * Js, f.H = weight * Js * Js, f.v = -weight * Js * r;
  f.cost = select(unused, zero, m * pass.opt.prior_loss.cost_of_square(r * r));
  return true;
}

// 1/C with damping; a depth nothing observes does not move. In droid mode the prior replaces eta.
DROID_INLINE Lanes damped_inverse(const Pass& pass, int keyframe, const Pixels& px, Lanes C) {
  const DenseBaProblem& P = pass.P;
  const Lanes zero = Lanes();
  C *= 1.0 + pass.damping;
  if (P.depth_damping) {
    const int64_t index = static_cast<int64_t>(keyframe) * pass.pixels() + px.first;
    const Lanes eta = load_lanes(P.depth_damping + index, px.count, 0.0);
    const bool droid = pass.opt.prior_mode == PriorMode::kDroid && P.prior_depth;
    const Lanes z = droid ? load_lanes(P.prior_depth + index, px.count, 0.0) : zero;
    C += select(z > zero, zero, eta);
  }
  return select(C > zero + 1e-12, 1.0 / C, zero);
}

}  // namespace droid
