// Distance and depth agreement of pairs of keyframes, from poses and inverse depths alone.
#pragma once

#include <cstdint>

#include <droid_backends/pixel.h>

namespace droid {

// N keyframes of one camera on a grid of h x w cells.
struct Views {
  int N = 0, h = 0, w = 0;
  Intrinsics K{};
  const double* poses = nullptr;      // [N, 7] T_cam_world: t xyz, q xyzw
  const double* inv_depth = nullptr;  // [N, h, w]

  LIE_HD int64_t pixels() const { return static_cast<int64_t>(h) * w; }
};

// P directed pairs of keyframes.
struct ViewPairs {
  int64_t P = 0;
  const int64_t* source = nullptr;  // [P]
  const int64_t* target = nullptr;  // [P]
};

// Length of the flow that a motion induces at one pixel, in grid cells; 0 where it is not valid.
template <typename S>
struct InducedFlow {
  S length;
  decltype(S() > kMinDepth) valid;
};

template <typename S>
LIE_HD InducedFlow<S> induced_flow(const Intrinsics& K, const double R[9], const double t[3], const S& ray_x,
                                   const S& ray_y, const S& d) {
  PixelJacobians<S>* no_jacobians = nullptr;
  const PixelProjection<S> p = project_pixel<S>(K, R, t, ray_x, ray_y, d, no_jacobians);
  const S du = p.u - (K.fx * ray_x + K.cx), dv = p.v - (K.fy * ray_y + K.cy);
  return {select(p.valid, square_root(du * du + dv * dv), S()), p.valid};
}

// True if a projected and a stored inverse depth agree; false where either is unknown (0).
LIE_HD bool depths_agree(double carried, double stored, double max_depth_error) {
  return carried > 0.0 && stored > 0.0 && std::fabs(1.0 / carried - 1.0 / stored) < max_depth_error;
}

// How far two views of a pixel of inverse depth d may differ; a share is one of the pixel's own depth. Where d is
// unknown nothing agrees, whatever the limit.
LIE_HD double depth_limit(double max_error, bool relative, double d) { return relative ? max_error / d : max_error; }

// Does one of the four cells around the place of the pixel (u, v) in a neighbour hold its depth? (R, t) = T_neighbour
// T^-1, inv_depth [h, w] of the neighbour.
LIE_HD bool is_confirmed(const Views& views, const double R[9], const double t[3], const double* inv_depth, int u,
                         int v, double d, double max_depth_error) {
  PixelJacobians<double>* no_jacobians = nullptr;
  const auto p = project_pixel<double>(views.K, R, t, ray_x(views.K, u), ray_y(views.K, v), d, no_jacobians);
  const double x = std::floor(p.u), y = std::floor(p.v);
  // false for NaN; what passes is small enough to be an integer
  if (!p.valid || !(x >= 0.0 && y >= 0.0 && x < views.w - 1 && y < views.h - 1)) return false;
  const double* cell = inv_depth + static_cast<int64_t>(y) * views.w + static_cast<int64_t>(x);
  for (int row = 0; row < 2; ++row)
    for (int column = 0; column < 2; ++column)
      if (depths_agree(p.inv_depth, cell[static_cast<int64_t>(row) * views.w + column], max_depth_error)) return true;
  return false;
}

// Distance where too little of the source is in front of the target.
constexpr double kUnseenDistance = 1000.0;
constexpr double kMinSeenShare = 0.75;

// Flow of all pixels of a keyframe under one motion.
struct FlowSum {
  double length = 0.0, count = 0.0;
};

// The mean of flow under the full motion and under its translation, weighted 1 - a and a.
LIE_HD double mean_flow(const FlowSum& full, const FlowSum& shift, double a, double pixels) {
  const double seen = (1.0 - a) * full.count + a * shift.count;
  if (!(seen >= kMinSeenShare * pixels) || seen <= 0.0) return kUnseenDistance;
  return ((1.0 - a) * full.length + a * shift.length) / seen;
}

// Mean length of the flow that the pair's motion induces in the source's pixels, distance [P] in grid cells:
//
//     (1 - a) |flow of (R, t)| + a |flow of (I, t)|            a = translation_weight, (R, t) = T_target T_source^-1
//
// The second part ignores rotation, which brings no parallax. The mean is over what is in front of the target's camera,
// each part counted with its weight; where less than kMinSeenShare is, the distance is kUnseenDistance. With
// `bidirectional`, the mean of both directions. droid_kernels.cu:frame_distance_kernel of DROID-SLAM has beta = 1 - a.
void frame_distance(const Views& views, const ViewPairs& pairs, double translation_weight, bool bidirectional,
                    double* distance);

// Number of pairs by which a pixel's depth is confirmed, count [K, h, w]: carried into the target, its depth is within
// max_depth_error[k] of that of one of the four cells around it: in metres, or `relative`, as a share of the pixel's
// own depth. The rows of count are keyframes [K]; every pair starts at one of them, row[p]. After
// droid_kernels.cu:depth_filter_kernel of DROID-SLAM, whose targets are those from three before to five after the
// keyframe, without the two that follow it; unlike there, points behind the target's camera are confirmed by nothing.
void depth_filter(const Views& views, const ViewPairs& pairs, const int64_t* row, const double* max_depth_error,
                  bool relative, int64_t K, int32_t* count);

}  // namespace droid
