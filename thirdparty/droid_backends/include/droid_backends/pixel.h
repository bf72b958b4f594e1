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

#include <lietorch/se3.h>

namespace droid {

// Nothing nearer than this multiple of the source depth's unit is projected: its pixel runs away.
constexpr double kMinDepth = 0.2;
// Below this, the division itself is protected; the pixel is invalid anyway.
constexpr double kMinDivisor = 0.1;

struct Intrinsics {
  double fx, fy, cx, cy;
};

struct PixelProjection {
  double u, v;           // where the pixel lands in j
  double z_scaled;       // Z, the depth in j divided by the depth in i
  double inv_depth;      // inverse depth in j
  bool valid;            // in front of camera j
};

struct PixelJacobians {
  double Jj[2][6];  // d(u, v) / d xi_j
  double Jz[2];     // d(u, v) / d inverse depth of the source pixel
};

LIE_HD void pixel_ray(const Intrinsics& K, int x, int y, double ray[3]) {
  ray[0] = (x - K.cx) / K.fx;
  ray[1] = (y - K.cy) / K.fy;
  ray[2] = 1.0;
}

// R [3][3] row-major and t [3] of T_ij; J may be null.
LIE_HD PixelProjection project_pixel(const Intrinsics& K, const double R[9], const double t[3],
                                            const double ray[3], double d, PixelJacobians* J) {
  const double X = R[0] * ray[0] + R[1] * ray[1] + R[2] * ray[2] + t[0] * d;
  const double Y = R[3] * ray[0] + R[4] * ray[1] + R[5] * ray[2] + t[1] * d;
  const double Z = R[6] * ray[0] + R[7] * ray[1] + R[8] * ray[2] + t[2] * d;

  const double iz = 1.0 / (Z < kMinDivisor ? 1.0 : Z);
  const double x = X * iz, y = Y * iz, dj = d * iz;
  const PixelProjection p{K.fx * x + K.cx, K.fy * y + K.cy, Z, dj, Z > kMinDepth};
  if (J == nullptr) return p;

  J->Jj[0][0] = K.fx * dj;
  J->Jj[0][1] = 0.0;
  J->Jj[0][2] = -K.fx * x * dj;
  J->Jj[0][3] = -K.fx * X * Y * iz * iz;
  J->Jj[0][4] = K.fx * (1.0 + X * X * iz * iz);
  J->Jj[0][5] = -K.fx * y;
  J->Jj[1][0] = 0.0;
  J->Jj[1][1] = K.fy * dj;
  J->Jj[1][2] = -K.fy * y * dj;
  J->Jj[1][3] = -K.fy * (1.0 + Y * Y * iz * iz);
  J->Jj[1][4] = K.fy * X * Y * iz * iz;
  J->Jj[1][5] = K.fy * x;
  J->Jz[0] = K.fx * (t[0] - x * t[2]) * iz;
  J->Jz[1] = K.fy * (t[1] - y * t[2]) * iz;
  return p;
}

// Prior on one pixel: residual r = d z e^s - 1, the relative error of the depth (DESIGN: bounded log-scale s).
struct PriorResidual {
  double r, Jd, Js;
};

LIE_HD PriorResidual prior_residual(double d, double prior_depth, double exp_scale) {
  const double zs = prior_depth * exp_scale;
  return {d * zs - 1.0, zs, d * zs};
}

}  // namespace droid
