// Counting the views that confirm a depth: each row of a count is the work of one thread.
#include <vector>

#include <droid_backends/view_pairs.h>

namespace droid {

namespace {

struct Neighbour {
  RelativeMotion motion;
  const double* inv_depth;  // [h, w]
};

// Does one of the four cells around the pixel's place in the neighbour hold the same depth?
bool confirmed(const Views& views, const Neighbour& neighbour, int u, int v, double d, double max_depth_error) {
  PixelJacobians<double>* no_jacobians = nullptr;
  const auto p = project_pixel<double>(views.K, neighbour.motion.R, neighbour.motion.t, ray_x(views.K, u),
                                       ray_y(views.K, v), d, no_jacobians);
  const double x = std::floor(p.u), y = std::floor(p.v);
  // false for NaN; what passes is small enough to be an integer
  if (!p.valid || !(x >= 0.0 && y >= 0.0 && x < views.w - 1 && y < views.h - 1)) return false;
  const double* cell = neighbour.inv_depth + static_cast<int64_t>(y) * views.w + static_cast<int64_t>(x);
  for (int64_t offset : {0, 1, views.w, views.w + 1})
    if (depths_agree(p.inv_depth, cell[offset], max_depth_error)) return true;
  return false;
}

}  // namespace

void depth_filter(const Views& views, const ViewPairs& pairs, const int64_t* row, const double* max_depth_error,
                  int64_t K, int32_t* count) {
  std::vector<std::vector<Neighbour>> neighbours(K);
  std::vector<const double*> inv_depth(K, nullptr);
  for (int64_t p = 0; p < pairs.P; ++p) {
    const int64_t i = pairs.source[p], j = pairs.target[p];
    inv_depth[row[p]] = views.inv_depth + i * views.pixels();
    neighbours[row[p]].push_back({RelativeMotion(relative_pose(views.poses + 7 * i, views.poses + 7 * j)),
                                  views.inv_depth + j * views.pixels()});
  }
#pragma omp parallel for schedule(dynamic, 4)
  for (int64_t task = 0; task < K * views.h; ++task) {
    const int64_t k = task / views.h;
    const int v = static_cast<int>(task % views.h);
    for (int u = 0; u < views.w; ++u) {
      int32_t found = 0;
      for (const Neighbour& neighbour : neighbours[k])
        found += confirmed(views, neighbour, u, v, inv_depth[k][static_cast<int64_t>(v) * views.w + u],
                           max_depth_error[k]);
      count[task * views.w + u] = found;
    }
  }
}

}  // namespace droid
