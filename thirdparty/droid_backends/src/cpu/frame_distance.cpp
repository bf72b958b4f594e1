// Distance between keyframes: each pair is the work of one thread, so results do not depend on their number.
#include <vector>

#include <droid_backends/view_pairs.h>

namespace droid {

namespace {

constexpr double kIdentity[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};

// Four neighbouring pixels at a time; the last ones are filled up with NaN, which is never valid.
DROID_INLINE FlowSum sum_flow(const Views& views, const double* rays_x, const double* rays_y, const double* inv_depth,
                              const double R[9], const double t[3]) {
  const int pixels = static_cast<int>(views.pixels());
  Lanes sum_of_lengths = {}, count = {};
  for (int first = 0; first < pixels; first += kLanes) {
    const int lanes = pixels - first;
    const Lanes x = load_lanes(rays_x + first, lanes, 0.0), y = load_lanes(rays_y + first, lanes, 0.0);
    const Lanes d = load_lanes(inv_depth + first, lanes, NAN);
    const auto flow = induced_flow<Lanes>(views.K, R, t, x, y, d);
    sum_of_lengths += flow.length;
    count += select(flow.valid, Lanes() + 1.0, Lanes());
  }
  return {sum(sum_of_lengths), sum(count)};
}

DROID_HOT_LOOP double one_way(const Views views, const double* rays_x, const double* rays_y, int64_t source,
                              int64_t target, double a) {
  const RelativeMotion motion(relative_pose(views.poses + 7 * source, views.poses + 7 * target));
  const double* d = views.inv_depth + source * views.pixels();
  const FlowSum full = sum_flow(views, rays_x, rays_y, d, motion.R, motion.t);
  const FlowSum shift = sum_flow(views, rays_x, rays_y, d, kIdentity, motion.t);
  return mean_flow(full, shift, a, static_cast<double>(views.pixels()));
}

}  // namespace

void frame_distance(const Views& views, const ViewPairs& pairs, double translation_weight, bool bidirectional,
                    double* distance) {
  std::vector<double> rays_x, rays_y;
  for (int v = 0; v < views.h; ++v)
    for (int u = 0; u < views.w; ++u) rays_x.push_back(ray_x(views.K, u)), rays_y.push_back(ray_y(views.K, v));
  const auto distance_of = [&](int64_t source, int64_t target) {
    return one_way(views, rays_x.data(), rays_y.data(), source, target, translation_weight);
  };
#pragma omp parallel for schedule(dynamic, 4)
  for (int64_t p = 0; p < pairs.P; ++p) {
    const int64_t i = pairs.source[p], j = pairs.target[p];
    distance[p] = bidirectional ? 0.5 * (distance_of(i, j) + distance_of(j, i)) : distance_of(i, j);
  }
}

}  // namespace droid
