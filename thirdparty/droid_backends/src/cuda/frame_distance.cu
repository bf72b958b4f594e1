// Distance between keyframes: a block for each pair, its threads share the pixels. The smallest operation: a
// template for new ones.
#include <lietorch/gpu.h>

#include "view_pairs.h"

namespace droid::cuda {

namespace {

constexpr int kThreads = 256;

// Every thread gets the sums over all pixels that lie before the camera; scratch [32] is shared.
__device__ FlowSum sum_flow(const Views& views, const double* inv_depth, const double R[9], const double t[3],
                            double* scratch) {
  FlowSum own;
  const int pixels = static_cast<int>(views.pixels());
  for (int p = threadIdx.x; p < pixels; p += blockDim.x) {
    const double x = ray_x(views.K, p % views.w), y = ray_y(views.K, p / views.w);
    const auto flow = induced_flow<double>(views.K, R, t, x, y, inv_depth[p]);
    own.length += flow.length;
    own.count += flow.valid ? 1.0 : 0.0;
  }
  return {gpu::block_sum(own.length, scratch), gpu::block_sum(own.count, scratch)};
}

__device__ double one_way(const Views& views, std::int64_t source, std::int64_t target, double a, double* scratch) {
  const double identity[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
  const RelativeMotion motion(relative_pose(views.poses + 7 * source, views.poses + 7 * target));
  const double* inv_depth = views.inv_depth + source * views.pixels();
  const FlowSum full = sum_flow(views, inv_depth, motion.R, motion.t, scratch);
  const FlowSum shift = sum_flow(views, inv_depth, identity, motion.t, scratch);
  return mean_flow(full, shift, a, static_cast<double>(views.pixels()));
}

__global__ void distance_kernel(Views views, ViewPairs pairs, double a, bool bidirectional, double* distance) {
  GPU_SHARED(double, scratch, gpu::kWarp);
  const std::int64_t i = pairs.source[blockIdx.x], j = pairs.target[blockIdx.x];
  double mean = one_way(views, i, j, a, scratch);
  if (bidirectional) mean = 0.5 * (mean + one_way(views, j, i, a, scratch));
  if (threadIdx.x == 0) distance[blockIdx.x] = mean;
}

}  // namespace

void frame_distance(const Views& views, const ViewPairs& pairs, double translation_weight, bool bidirectional,
                    double* distance, std::intptr_t stream) {
  gpu::launch("frame_distance", distance_kernel, dim3(static_cast<unsigned>(pairs.P)), kThreads, 0, stream, views,
              pairs, translation_weight, bidirectional, distance);
}

}  // namespace droid::cuda
