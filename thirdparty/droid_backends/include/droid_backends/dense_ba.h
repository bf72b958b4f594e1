// Dense bundle adjustment with a metric prior.
//
// Variables: poses T_cam_world (xi, 6 each), inverse depths d on the grid, one bounded log-scale s of the prior per
// keyframe. Cost:
//
//   E =  sum_edges sum_p  c(p) rho(|u*(p) - proj(T_j T_i^-1, p, d_i(p))|)            flow
//      + sum_k sum_p      m_k(p) rho(log(d_k(p) z_k(p)) + s_k)                       metric prior; m = confidence over
//                                                                                    variance of log z
//      + sum_k (s_k - a_k)^2 / sigma_s^2  +  sum_k (s_k - s_{p(k)})^2 / sigma_delta^2    p(k) = scale_previous[k]
//      + sum_f rho(log(|t_ij| / L_f) / sigma_f)                                       measured metric baselines
//
// The normal equations have a diagonal depth block C, so depths are eliminated (Schur complement):
//
//   | H   E | |dx|   |v|          S dx = v - E C^-1 b ,   S = H - E C^-1 E^T
//   | E^T C | |dz| = |b|          dz   = C^-1 (b - E^T dx)            x = poses and scales, z = depths
//
// Work per damping trial: one pass over all pixels of all edges that linearises and eliminates the depths at once
// (source_pass.h), one Cholesky factorisation of S inside its envelope (envelope.h), one pass that substitutes back.
// The first pass of an accepted step is the first one of the next iteration. Nothing is stored per pixel and edge, so
// memory grows with keyframes times pixels only.
#pragma once

#include <cstdint>

#include <droid_backends/pixel.h>
#include <droid_backends/robust.h>

namespace droid {

enum class PriorMode : int {
  kNone = 0,
  kMetric = 1,  // error of log depth with a bounded scale (above)
  kDroid = 2,   // alpha (d - 1/z)^2, which replaces the damping where a prior exists (droid_kernels.cu:1403-1426)
};

// Where the damping goes; the reference implementations differ.
enum class Damping : int {
  kBeforeSchur = 0,  // diagonal of H, then the Schur complement
  kAfterSchur = 1,   // diagonal of S
  kEveryBlock = 2,   // diagonal of every 6x6 block of S, off-diagonal blocks too (a quirk kept for parity)
};

enum class Status : int {
  kConverged = 0,  // relative decrease of a full step below min_relative_decrease (levenberg_marquardt.h)
  kMaxIterations = 1,
  kNotPositiveDefinite = 2,  // or NaN or infinity among the inputs; nothing was changed by the last linearisation
  kNoProgress = 3,           // no damping gave a lower cost, although the linear model promises one
  kNothingToDo = 4,          // no edges or no free variables
};

struct DenseBaProblem {
  int N = 0, E = 0, h = 0, w = 0;
  Intrinsics K{};
  double* poses = nullptr;                  // [N, 7] T_cam_world: t xyz, q xyzw; updated in place
  double* inv_depth = nullptr;              // [N, h, w]; updated in place
  double* scales = nullptr;                 // [N] log-scale of the prior; updated in place
  const int64_t* source = nullptr;          // [E]
  const int64_t* target = nullptr;          // [E]
  const double* flow_target = nullptr;      // [E, h, w, 2] x, y in grid cells
  const double* confidence = nullptr;       // [E, h, w, 2] of x and of y
  const double* depth_damping = nullptr;    // [N, h, w] or null: eta, added to C
  const double* prior_depth = nullptr;      // [N, h, w] or null: z in metres, 0 = none
  const double* prior_weight = nullptr;     // [N, h, w] or null: m
  const double* scale_anchor = nullptr;     // [N] or null (0): a
  const int64_t* scale_previous = nullptr;  // [N] or null (k - 1): p, -1 where no scale comes before
  const bool* pose_free = nullptr;          // [N]
  const bool* depth_free = nullptr;         // [N]
  int F = 0;                                // measured baselines
  const int64_t* baseline_pair = nullptr;   // [F, 2]
  const double* baseline_length = nullptr;  // [F]
  const double* baseline_sigma = nullptr;   // [F] of log length

  // The keyframe whose scale is coupled with that of k; -1: none.
  int previous(int k) const { return scale_previous ? static_cast<int>(scale_previous[k]) : k - 1; }
};

struct DenseBaOptions {
  int iterations = 8;
  PriorMode prior_mode = PriorMode::kNone;
  RobustLoss flow_loss{};
  RobustLoss prior_loss{};
  RobustLoss baseline_loss{};
  double flow_weight = 1.0;  // multiplies every confidence (0.001 in DROID-SLAM)
  double droid_alpha = 0.05;
  double scale_sigma = 0.025;      // sigma_s; <= 0 holds the scales fixed
  double scale_step_sigma = 0.02;  // sigma_delta; <= 0: no smoothness
  double min_inv_depth = 1e-3, max_inv_depth = 10.0;
  double initial_damping = 1e-4, ridge = 1e-6;
  double min_relative_decrease = 1e-4;  // convergence
  // Residual length of a pixel that lands behind the camera: at least that of the worst match inside the image, or
  // the cost falls when a point passes behind. Grid cells.
  double invalid_residual = 1e3;
  Damping damping = Damping::kBeforeSchur;
};

struct DenseBaReport {
  Status status = Status::kNothingToDo;
  int iterations = 0;  // linearisations
  int trials = 0;      // damped solves
  double cost_initial = 0, cost_final = 0;
};

// Levenberg-Marquardt with accept/reject on the robust cost.
DenseBaReport solve_dense_ba(const DenseBaProblem& problem, const DenseBaOptions& options);

// One undamped-by-trial Gauss-Newton step as the reference implementations take it: diag += ridge + damping * diag.
// The depths are not clamped here.
Status dense_ba_step(const DenseBaProblem& problem, const DenseBaOptions& options, double ridge, double damping);

// The robust cost alone.
double dense_ba_cost(const DenseBaProblem& problem, const DenseBaOptions& options);

// Where every pixel of every edge's source lands in its target.
// coords [E, h, w, 2], inv_depth_target [E, h, w], valid [E, h, w].
void reproject(const DenseBaProblem& problem, double* coords, double* inv_depth_target, bool* valid);

// Jacobians too, for tests and parity: Ji, Jj [E, h, w, 2, 6], Jz [E, h, w, 2].
void reproject_jacobians(const DenseBaProblem& problem, double* Ji, double* Jj, double* Jz);

}  // namespace droid
