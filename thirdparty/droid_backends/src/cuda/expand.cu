// The local system of a source keyframe from its sums: the pose of the source, which no sum holds, is a linear
// combination of the poses of its targets, J_i = sum over its edges of A_e J_j. A block for each source.
#include <lietorch/gpu.h>

#include "passes.h"

namespace droid::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kCost = kUpper6 + 6;  // place of the cost in the sums of an edge

// One source and where its numbers are. Columns of the local system: 6 of the source, 6 of each target, 1 of the scale.
struct Source {
  int first, n, keyframe;
  const EdgeGeometry* geometry;  // of all edges
  const int32_t* edge_at;
  double *H, *G, *v, *g;  // local system, [columns, columns] and [columns]
  double* sums;           // [n, 32]

  __device__ int columns() const { return 6 * n + 7; }
  __device__ double A(int row, int column) const {  // column of all targets'
    return geometry[edge_at[first + column / 6]].A[6 * row + column % 6];
  }
  // H of the target of a column; zero between different edges
  __device__ double target_H(int row, int column) const {
    if (row / 6 != column / 6) return 0.0;
    const int a = row % 6, c = column % 6;
    return sums[32 * (row / 6) + (a < c ? upper6(a, c) : upper6(c, a))];
  }
  __device__ double target_v(int row) const { return sums[32 * (row / 6) + kUpper6 + row % 6]; }
};

template <typename F>
__device__ Source source_of(const System<F>& s, At at, int b) {
  const int first = s.plan.source_begin[b], n = s.plan.source_begin[b + 1] - first;
  const int64_t begin = s.plan.local_begin[b], columns = 6 * static_cast<int64_t>(first) + 7 * b;
  const int64_t all = 6 * static_cast<int64_t>(s.P.E) + 7 * s.plan.sources;
  return {first,
          n,
          s.plan.source_keyframe[b],
          s.work.geometry + buffer(*s.P.state, at) * s.P.E,
          s.plan.edge_at,
          s.work.local_H + begin,
          s.work.local_G + begin,
          s.work.local_right + columns,
          s.work.local_right + all + columns,
          s.work.edge_sums + 32 * static_cast<int64_t>(first)};
}

// What the warps of the pixel pass left, added in order.
template <typename F>
__device__ void add_up(const System<F>& s, const Batch& batch, int b, const Source& source, double* prior) {
  const int warps = s.P.warps();
  for (int i = threadIdx.x; i < 32 * source.n; i += kThreads) {
    const int64_t place = source.first - batch.first_place + i / 32;
    const double* parts = s.work.edge_parts + 32 * place * warps;
    double sum = 0.0;
    for (int w = 0; w < warps; ++w) sum += parts[32 * w + i % 32];
    source.sums[i] = sum;
  }
  for (int i = threadIdx.x; i < 4; i += kThreads) {
    const double* parts = s.work.source_parts + 4 * static_cast<int64_t>(b - batch.begin) * warps;
    double sum = 0.0;
    for (int w = 0; w < warps; ++w) sum += parts[4 * w + i];
    prior[i] = sum;
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  double cost = prior[2];
  for (int e = 0; e < source.n; ++e) cost += source.sums[32 * e + kCost];
  s.work.source_cost[b] = cost;
  s.work.depth_decrease[b] = prior[3];
}

// K [columns, columns] and k from inner(row, column) and inner_right(row) of targets and scale, whose columns
// are counted from 0.
template <typename Inner, typename InnerRight>
__device__ void with_source(const Source& source, double* K, double* k, Inner inner, InnerRight inner_right) {
  const int M = source.columns(), m = M - 6, targets = 6 * source.n;
  for (int i = threadIdx.x; i < m * m; i += kThreads)
    K[static_cast<int64_t>(6 + i / m) * M + 6 + i % m] = inner(i / m, i % m);
  for (int i = threadIdx.x; i < m; i += kThreads) k[6 + i] = inner_right(i);
  __syncthreads();
  for (int i = threadIdx.x; i < 6 * m; i += kThreads) {  // rows A K, and the columns K A^T that mirror them
    const int a = i / m, c = i % m;
    double sum = 0.0;
    for (int r = 0; r < targets; ++r) sum += source.A(a, r) * K[static_cast<int64_t>(6 + r) * M + 6 + c];
    K[static_cast<int64_t>(a) * M + 6 + c] = sum;
    K[static_cast<int64_t>(6 + c) * M + a] = sum;
  }
  for (int a = threadIdx.x; a < 6; a += kThreads) {
    double sum = 0.0;
    for (int r = 0; r < targets; ++r) sum += source.A(a, r) * k[6 + r];
    k[a] = sum;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 36; i += kThreads) {
    const int a = i / 6, c = i % 6;
    double sum = 0.0;
    for (int r = 0; r < targets; ++r) sum += K[static_cast<int64_t>(a) * M + 6 + r] * source.A(c, r);
    K[static_cast<int64_t>(a) * M + c] = sum;
  }
}

template <typename F>
__global__ void __launch_bounds__(kThreads) expand_kernel(System<F> s, At at, Batch batch) {
  GPU_SHARED(double, prior, 4);
  if (!wanted(*s.P.state, at)) return;
  const int b = batch.begin + blockIdx.x;
  const Source source = source_of(s, at, b);
  add_up(s, batch, b, source, prior);
  __syncthreads();
  const int scale = 6 * source.n, m = scale + 1;
  with_source(
      source, source.H, source.v,
      [&](int r, int c) {
        if (r < scale && c < scale) return source.target_H(r, c);
        return r == c ? prior[0] : 0.0;
      },
      [&](int r) { return r < scale ? source.target_v(r) : prior[1]; });
  const bool depths = s.P.depth_free[source.keyframe];
  const double* raw = s.work.raw + s.plan.sums_begin[b];
  const double* raw_right = s.work.raw_right + 6 * static_cast<int64_t>(source.first) + b;
  with_source(
      source, source.G, source.g, [&](int r, int c) { return depths ? raw[static_cast<int64_t>(r) * m + c] : 0.0; },
      [&](int r) { return depths ? raw_right[r] : 0.0; });
}

}  // namespace

template <typename F>
void expand(const System<F>& system, At at, const Batch& batch, std::intptr_t stream) {
  gpu::launch("expand", expand_kernel<F>, dim3(static_cast<unsigned>(batch.end - batch.begin)), kThreads, 0, stream,
              system, at, batch);
}

template void expand(const System<float>&, At, const Batch&, std::intptr_t);
template void expand(const System<double>&, At, const Batch&, std::intptr_t);

}  // namespace droid::cuda
