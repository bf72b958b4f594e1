// The terms of the cost at one pixel, with what they add to the normal equations: the only place where these formulas
// are written. S is double (a GPU's thread) or Lanes (four neighbouring pixels on the CPU); dense_ba.h has the cost.
#pragma once

#include <droid_backends/dense_ba.h>

namespace droid {

// ---- flow of one edge

template <typename S>
struct FlowTerm {
  S rx, ry, wx, wy;  // residual and its weight in the normal equations; 0 where nothing is to be learnt
  S cost;
  PixelJacobians<S> J;
};

// What the loss sees of the confidences of x and y; where it is not positive, the term is not used at all.
template <typename S>
LIE_HD S mean_confidence(const S& cx, const S& cy) {
  return 0.5 * (cx + cy);
}

// (u, v): where the pixel was matched; cx, cy: confidences times the options' flow weight; (ray_x, ray_y, 1) and d: the
// pixel. Whatever stands where nothing is used, NaN included, does not count. Confidences of x and y may differ; the
// loss sees the length of the residual under their mean.
template <bool kJacobians, typename S>
LIE_HD void flow_term(const Intrinsics& K, const RelativeMotion& motion, const DenseBaOptions& opt, const S& ray_x,
                      const S& ray_y, const S& d, const S& u, const S& v, const S& cx, const S& cy, FlowTerm<S>& f) {
  const S zero = S(), mean = mean_confidence<S>(cx, cy);
  const auto unused = mean <= zero;
  const auto proj = project_pixel<S>(K, motion.R, motion.t, ray_x, ray_y, d, kJacobians ? &f.J : nullptr);
  const auto behind = proj.z_scaled <= zero + kMinDepth;  // NaN is not: it must reach the cost
  const auto ignored = unused | behind;
  f.rx = select(ignored, zero, u - proj.u);
  f.ry = select(ignored, zero, v - proj.v);
  const S seen2 = (cx * f.rx * f.rx + cy * f.ry * f.ry) / select(unused, zero + 1.0, mean);
  const S n2 = select(behind, zero + opt.invalid_residual * opt.invalid_residual, seen2);
  f.cost = select(unused, zero, mean * opt.flow_loss.cost_of_square(n2));
  if (!kJacobians) return;
  const S weight = select(ignored, zero, opt.flow_loss.weight_of_square(n2));
  f.wx = cx * weight;
  f.wy = cy * weight;
}

constexpr int kUpper6 = 21;                                                 // elements of a symmetric 6 x 6 block
LIE_HD constexpr int upper6(int a, int b) { return a * (11 - a) / 2 + b; }  // place of (a, b), a <= b, in them

// a . (Jj[0][c], Jj[1][c]), without the products that are always zero: x does not depend on ty, nor y on tx.
template <typename S>
LIE_HD S times_column(const S& a_x, const S& a_y, const PixelJacobians<S>& J, int c) {
  if (c == 0) return a_x * J.Jj[0][0];
  if (c == 1) return a_y * J.Jj[1][1];
  return a_x * J.Jj[0][c] + a_y * J.Jj[1][c];
}

// H [21] += upper triangle of Jj^T W Jj, v [6] += Jj^T W r
template <typename S>
LIE_HD void add_pose(const FlowTerm<S>& f, S* H, S* v) {
  H[upper6(0, 0)] += f.wx * f.J.Jj[0][0] * f.J.Jj[0][0];
  H[upper6(1, 1)] += f.wy * f.J.Jj[1][1] * f.J.Jj[1][1];
  DROID_UNROLL
  for (int a = 0; a < 6; ++a) {
    v[a] += times_column<S>(f.wx * f.rx, f.wy * f.ry, f.J, a);
    DROID_UNROLL
    for (int b = a < 2 ? 2 : a; b < 6; ++b)
      H[upper6(a, b)] += times_column<S>(f.wx * f.J.Jj[0][b], f.wy * f.J.Jj[1][b], f.J, a);
  }
}

// ---- prior of one keyframe

template <typename S>
struct PriorTerm {
  S C, b;     // depth-depth and right side
  S E, H, v;  // depth-scale, scale-scale, right side of the scale
  S cost;
};

// alpha (d - 1/z)^2 where z > 0
template <typename S>
LIE_HD void droid_prior_term(const DenseBaOptions& opt, const S& d, const S& z, PriorTerm<S>& f) {
  const S zero = S();
  const auto unused = z <= zero;
  const S difference = select(unused, zero, d - 1.0 / z);
  f.C = select(unused, zero, zero + opt.droid_alpha);
  f.b = -opt.droid_alpha * difference;
  f.cost = opt.droid_alpha * difference * difference;
  f.E = f.H = f.v = zero;
}

// Factor on the curvature of the prior in d. A Newton step on the logarithm, d (1 - r), would leave the range of depths
// for r >= 1; r / (1 - e^-r) leads to the root, and its series to the second order never below zero.
template <typename S>
LIE_HD S prior_curvature(const S& r) {
  const S zero = S(), above = select(r > zero, r, zero);
  return 1.0 + above * (0.5 + above * (1.0 / 12.0));
}

// m rho(log(d z) + s) where z > 0 and m > 0
template <typename S>
LIE_HD void metric_prior_term(const DenseBaOptions& opt, double log_scale, const S& d, const S& z, const S& m,
                              PriorTerm<S>& f) {
  const S zero = S(), one = zero + 1.0;
  const auto unused = (z <= zero) | (m <= zero);
  const auto prior = prior_residual<S>(d, select(unused, one, z), log_scale);
  const S r = select(unused, zero, prior.r);
  const S weight = select(unused, zero, m * opt.prior_loss.weight_of_square(r * r));
  f.H = weight;
  f.E = weight * prior.Jd;
  f.C = f.E * prior.Jd * prior_curvature<S>(r);
  f.v = -weight * r;
  f.b = f.v * prior.Jd;
  f.cost = select(unused, zero, m * opt.prior_loss.cost_of_square(r * r));
}

// ---- elimination of the depth

// 1/C with damping, eta added where no prior replaces it; a depth that nothing observes does not move.
template <typename S>
LIE_HD S damped_inverse(const S& C, double damping, const S& eta) {
  const S grown = C * (1.0 + damping) + eta, zero = S();
  return select(grown > zero + 1e-12, 1.0 / grown, zero);
}

// Decrease of the cost by the depth's own step inverse * b, cut at the limits of depth: b C^-1 b inside them.
template <typename S>
LIE_HD S depth_decrease(const DenseBaOptions& opt, const S& d, const S& inverse, const S& b) {
  const S zero = S(), nearest = zero + opt.max_inv_depth, farthest = zero + opt.min_inv_depth;
  const auto moves = inverse > zero;
  const S wanted = d + inverse * b;
  const S step = select(wanted < farthest, farthest, select(wanted > nearest, nearest, wanted)) - d;
  return select(moves, step * (2.0 * b - step / select(moves, inverse, zero + 1.0)), zero);
}

}  // namespace droid
