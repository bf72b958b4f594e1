// The pass over pairs of edges of a source keyframe: sums over its pixels of E_i C^-1 E_j^T, and of E_i C^-1 b where
// both are the same. A block for each pair.
#include <lietorch/gpu.h>

#include "passes.h"

namespace droid::cuda {

namespace {

constexpr int kThreads = 128, kWarps = kThreads / gpu::kWarp;

// Jacobians of one slot of a source: six rows of an edge, or one of the scale.
struct Columns {
  const double* data;
  int width;
};

template <typename F>
__device__ inline Columns columns_of(const System<F>& s, const Batch& batch, int b, int slot) {
  const int first = s.plan.source_begin[b], n = s.plan.source_begin[b + 1] - first;
  const int64_t pixels = s.P.pixels();
  if (slot > n) return {s.work.scale_jacobian + (b - batch.begin) * pixels, 1};
  return {s.work.jacobians + 6 * (first + slot - 1 - batch.first_place) * pixels, 6};
}

constexpr int kSums = 42;  // [6, 6], then [6] of the right side

// values of all threads -> out [kSums], shared, their sums over the block; scratch [kWarps, 64] is shared.
__device__ inline void sum_over_block(double (&first)[32], double (&rest)[32], double* scratch, double* out) {
  const int warp = threadIdx.x / gpu::kWarp, lane = threadIdx.x % gpu::kWarp;
  scratch[64 * warp + lane] = gpu::transposed_warp_sum(first);
  scratch[64 * warp + 32 + lane] = gpu::transposed_warp_sum(rest);
  __syncthreads();
  for (int i = threadIdx.x; i < kSums; i += kThreads) {
    double sum = 0.0;
    for (int w = 0; w < kWarps; ++w) sum += scratch[64 * w + i];
    out[i] = sum;
  }
  __syncthreads();
}

template <typename F>
__global__ void __launch_bounds__(kThreads) eliminate_kernel(System<F> s, At at, Batch batch) {
  GPU_SHARED(double, scratch, kWarps * 64);
  GPU_SHARED(double, sums, kSums);
  if (!wanted(*s.P.state, at)) return;
  const int pair = batch.first_pair + blockIdx.x, b = s.plan.pair_source[pair];
  const int i = s.plan.pair_first[pair], j = s.plan.pair_second[pair], pixels = s.P.pixels();
  const Columns left = columns_of(s, batch, b, i), across = columns_of(s, batch, b, j);
  const double* inverse = s.work.depth_inverse + static_cast<int64_t>(b - batch.begin) * pixels;
  const double* right = s.work.depth_right + static_cast<int64_t>(b - batch.begin) * pixels;

  double sum_first[32] = {}, sum_rest[32] = {};  // the 42 sums, in registers as all indices are known
  for (int p = threadIdx.x; p < pixels; p += kThreads) {
    double other[6];
#pragma unroll
    for (int c = 0; c < 6; ++c) other[c] = c < across.width ? across.data[static_cast<int64_t>(c) * pixels + p] : 0.0;
    const double Q = inverse[p], b_p = i == j ? right[p] : 0.0;
#pragma unroll
    for (int a = 0; a < 6; ++a) {
      const double scaled = a < left.width ? Q * left.data[static_cast<int64_t>(a) * pixels + p] : 0.0;
      sum_rest[4 + a] += scaled * b_p;
#pragma unroll
      for (int c = 0; c < 6; ++c) {
        const int place = 6 * a + c;
        (place < 32 ? sum_first[place % 32] : sum_rest[place % 32]) += scaled * other[c];
      }
    }
  }
  sum_over_block(sum_first, sum_rest, scratch, sums);

  const int n = s.plan.source_begin[b + 1] - s.plan.source_begin[b], m = 6 * n + 1;
  double* raw = s.work.raw + s.plan.sums_begin[b];
  const int row = 6 * (i - 1), column = 6 * (j - 1);
  for (int e = threadIdx.x; e < 36; e += kThreads) {
    const int a = e / 6, c = e % 6;
    if (a >= left.width || c >= across.width) continue;
    raw[static_cast<int64_t>(row + a) * m + column + c] = sums[e];
    if (i != j) raw[static_cast<int64_t>(column + c) * m + row + a] = sums[e];
  }
  if (i != j) return;
  double* raw_right = s.work.raw_right + 6 * static_cast<int64_t>(s.plan.source_begin[b]) + b;
  for (int a = threadIdx.x; a < left.width; a += kThreads) raw_right[row + a] = sums[36 + a];
}

}  // namespace

template <typename F>
void eliminate(const System<F>& system, At at, const Batch& batch, std::intptr_t stream) {
  gpu::launch("eliminate", eliminate_kernel<F>, dim3(static_cast<unsigned>(batch.pairs)), kThreads, 0, stream, system,
              at, batch);
}

template void eliminate(const System<float>&, At, const Batch&, std::intptr_t);
template void eliminate(const System<double>&, At, const Batch&, std::intptr_t);

}  // namespace droid::cuda
