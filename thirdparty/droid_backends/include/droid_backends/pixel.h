// Residual and Jacobians of one pixel of one edge: the only place where this formula is written.
//
// A pixel of keyframe i with viewing ray a = ((u - cx)/fx, (v - cy)/fy, 1) and inverse depth d is the point a/d.
// Scaled by d, so that points at infinity (d = 0) are harmless, keyframe j sees it at
//
//     X = R a + t d ,   T_ij = T_j T_i^-1 = (R, t)            (i -> j; poses T_cam_world)
//     proj(X) = (fx X/Z + cx, fy Y/Z + cy)
//
// Perturbations are left ones, T <- exp(xi) T with xi = (tau, phi), so dX = d tau + phi x X for keyframe j, and the
// Jacobian for keyframe i is -Ad(T_ij)^T applied to the one for j (DROID-SLAM, Teed and Deng 2021, section 3.3).
#pragma once

#include <droid_backends/lanes.h>

namespace droid {

// Nothing nearer than this multiple of the source depth's unit is projected: its pixel runs away.
constexpr double kMinDepth = 0.2;
// Below this, the division itself is protected; the pixel is invalid anyway.
constexpr double kMinDivisor = 0.1;

struct Intrinsics {
  double fx, fy, cx, cy;
};

// S is double, or Lanes for several pixels at once.
template <typename S>
struct PixelProjection {
  S u, v;                           // where the pixel lands in j
  S z_scaled;                       // Z, the depth in j divided by the depth in i
  S inv_depth;                      // inverse depth in j
  decltype(S() > kMinDepth) valid;  // in front of camera j
};

template <typename S>
struct PixelJacobians {
  S Jj[2][6];  // d(u, v) / d xi_j
  S Jz[2];     // d(u, v) / d inverse depth of the source pixel
};

// T_ij of two poses [7] T_cam_world: T_j T_i^-1.
LIE_HD lie::SE3<double> relative_pose(const double* pose_i, const double* pose_j) {
  return lie::SE3<double>::load(pose_j) * lie::SE3<double>::load(pose_i).inv();
}

// moved = exp(xi) pose; they may be the same [7].
LIE_HD void move_pose(const double* xi, const double* pose, double* moved) {
  auto T = lie::SE3<double>::exp(xi) * lie::SE3<double>::load(pose);
  T.renormalise();  // rounding in long chains of products would otherwise grow
  T.store(moved);
}

// T_ij as project_pixel takes it.
struct RelativeMotion {
  double R[9], t[3];  // R row-major
  LIE_HD explicit RelativeMotion(const lie::SE3<double>& T_ij) {
    double matrix[16];
    T_ij.matrix(matrix);
    for (int r = 0; r < 3; ++r) {
      for (int c = 0; c < 3; ++c) R[3 * r + c] = matrix[4 * r + c];
      t[r] = matrix[4 * r + 3];
    }
  }
};

// What an edge needs of the poses of its two ends.
struct EdgeGeometry : RelativeMotion {
  double A[36];  // the map from a Jacobian column for j to the one for i: -Ad(T_ij)^T
  LIE_HD explicit EdgeGeometry(const lie::SE3<double>& T_ij) : RelativeMotion(T_ij) {
    for (int c = 0; c < 6; ++c) {
      double unit[6] = {0, 0, 0, 0, 0, 0}, image[6];
      unit[c] = 1.0;
      T_ij.adjT(unit, image);
      for (int r = 0; r < 6; ++r) A[6 * r + c] = -image[r];
    }
  }
};

LIE_HD double ray_x(const Intrinsics& K, int x) { return (x - K.cx) / K.fx; }
LIE_HD double ray_y(const Intrinsics& K, int y) { return (y - K.cy) / K.fy; }

// R [3][3] row-major and t [3] of T_ij; (ray_x, ray_y, 1) the viewing ray, d the inverse depth; J may be null.
template <typename S>
LIE_HD PixelProjection<S> project_pixel(const Intrinsics& K, const double R[9], const double t[3], const S& ray_x,
                                        const S& ray_y, const S& d, PixelJacobians<S>* J) {
  const S X = R[0] * ray_x + R[1] * ray_y + R[2] + t[0] * d;
  const S Y = R[3] * ray_x + R[4] * ray_y + R[5] + t[1] * d;
  const S Z = R[6] * ray_x + R[7] * ray_y + R[8] + t[2] * d;

  const S one = S() + 1.0, zero = S();
  const S iz = one / select(Z < kMinDivisor, one, Z);
  const S x = X * iz, y = Y * iz, dj = d * iz;
  const PixelProjection<S> p{K.fx * x + K.cx, K.fy * y + K.cy, Z, dj, Z > kMinDepth};
  if (J == nullptr) return p;

  const S xy = x * y;
  J->Jj[0][0] = K.fx * dj;
  J->Jj[0][1] = zero;
  J->Jj[0][2] = -K.fx * x * dj;
  J->Jj[0][3] = -K.fx * xy;
  J->Jj[0][4] = K.fx * (one + x * x);
  J->Jj[0][5] = -K.fx * y;
  J->Jj[1][0] = zero;
  J->Jj[1][1] = K.fy * dj;
  J->Jj[1][2] = -K.fy * y * dj;
  J->Jj[1][3] = -K.fy * (one + y * y);
  J->Jj[1][4] = K.fy * xy;
  J->Jj[1][5] = K.fy * x;
  J->Jz[0] = K.fx * (t[0] - x * t[2]) * iz;
  J->Jz[1] = K.fy * (t[1] - y * t[2]) * iz;
  return p;
}

// Row of d(u, v) / d xi_i, in column a, from the same row for xi_j.
LIE_HD double source_jacobian(const double A[36], const double Jj[6], int a) {
  double sum = 0.0;
  for (int b = 0; b < 6; ++b) sum += A[6 * a + b] * Jj[b];
  return sum;
}

// Inverse depth below which the logarithm of the prior residual goes on as its tangent, so that it is finite for d <=
// 0.
constexpr double kMinInverseDepth = 1e-6;

// Residual of the prior at one pixel, r = log(d z) + s: the relative error of the depth for small ones, and without
// bias where log z has zero-mean noise (d z e^s - 1 has its least squares at a map that is too large by 1.5 sigma^2).
template <typename S>
struct PriorResidual {
  S r, Jd;  // the derivative by s is 1
};

template <typename S>
LIE_HD PriorResidual<S> prior_residual(const S& d, const S& prior_depth, double log_scale) {
  const S least = S() + kMinInverseDepth, kept = select(d < least, least, d), Jd = 1.0 / kept;
  return {logarithm(kept * prior_depth) + (d - kept) * Jd + log_scale, Jd};
}

}  // namespace droid
