// Which depths other keyframes confirm: a thread for each pixel of a keyframe, which asks the neighbours in turn.
#include <lietorch/gpu.h>

#include "view_pairs.h"

namespace droid::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kMotions = 32;  // neighbours whose motion is known at a time
constexpr int kMotion = 12;   // R, t

// Block (k, pixels). The motions are the same for all pixels: a thread makes one of them, all threads use them.
__global__ void filter_kernel(Views views, KeyframePairs pairs, const double* max_depth_error, bool relative,
                              int pixel_blocks, int32_t* count) {
  GPU_SHARED(double, motions, kMotions* kMotion);
  const int64_t k = blockIdx.x / pixel_blocks;
  const int64_t p = static_cast<int64_t>(blockIdx.x % pixel_blocks) * kThreads + threadIdx.x;
  const bool inside = p < views.pixels();
  const int64_t keyframe = pairs.keyframe[k];
  const double d = inside ? views.inv_depth[keyframe * views.pixels() + p] : 0.0;
  const double limit = depth_limit(max_depth_error[k], relative, d);
  const int u = static_cast<int>(p % views.w), v = static_cast<int>(p / views.w);
  int32_t found = 0;
  const int64_t end = pairs.row_begin[k + 1];
  for (int64_t first = pairs.row_begin[k]; first < end; first += kMotions) {
    const int here = static_cast<int>(end - first < kMotions ? end - first : kMotions);
    if (static_cast<int>(threadIdx.x) < here) {
      const int64_t target = pairs.target[first + threadIdx.x];
      const RelativeMotion motion(relative_pose(views.poses + 7 * keyframe, views.poses + 7 * target));
      for (int i = 0; i < 9; ++i) motions[threadIdx.x * kMotion + i] = motion.R[i];
      for (int i = 0; i < 3; ++i) motions[threadIdx.x * kMotion + 9 + i] = motion.t[i];
    }
    __syncthreads();
    for (int n = 0; n < here && inside; ++n) {
      const double* R = motions + n * kMotion;
      const double* inv_depth = views.inv_depth + pairs.target[first + n] * views.pixels();
      found += is_confirmed(views, R, R + 9, inv_depth, u, v, d, limit);
    }
    __syncthreads();
  }
  if (inside) count[k * views.pixels() + p] = found;
}

}  // namespace

void depth_filter(const Views& views, const KeyframePairs& pairs, const double* max_depth_error, bool relative,
                  int32_t* count, std::intptr_t stream) {
  const unsigned pixel_blocks = gpu::blocks(views.pixels(), kThreads);
  gpu::launch("depth_filter", filter_kernel, dim3(pixel_blocks * static_cast<unsigned>(pairs.K)), kThreads, 0, stream,
              views, pairs, max_depth_error, relative, pixel_blocks, count);
}

}  // namespace droid::cuda
