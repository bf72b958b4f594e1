// Counting the views that confirm a depth: each row of a count is the work of one thread.
#include <vector>

#include <droid_backends/view_pairs.h>

namespace droid {

namespace {

struct Neighbour {
  RelativeMotion motion;
  const double* inv_depth;  // [h, w]
};

}  // namespace

void depth_filter(const Views& views, const ViewPairs& pairs, const int64_t* row, const double* max_depth_error,
                  bool relative, int64_t K, int32_t* count) {
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
      for (const Neighbour& n : neighbours[k]) {
        const double d = inv_depth[k][static_cast<int64_t>(v) * views.w + u];
        const double limit = depth_limit(max_depth_error[k], relative, d);
        found += is_confirmed(views, n.motion.R, n.motion.t, n.inv_depth, u, v, d, limit);
      }
      count[task * views.w + u] = found;
    }
  }
}

}  // namespace droid
