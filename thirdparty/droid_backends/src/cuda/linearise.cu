// The pass over the pixels: a thread for each pixel of a source keyframe goes through its edges. What edges share, the
// elimination of the pixel's depth, needs all of them, so Jacobians with respect to poses and depth are stored, and
// eliminate.cu reads them.
#include <lietorch/gpu.h>

#include "passes.h"

namespace droid::cuda {

namespace {

constexpr int kThreads = 128;

template <typename F>
__global__ void geometry_kernel(System<F> s, At at) {
  const SolverState& state = *s.P.state;
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (!wanted(state, at) || e >= s.P.E) return;
  const double* poses = s.P.poses.of(buffer(state, at));
  s.work.geometry[buffer(state, at) * s.P.E + e] =
      EdgeGeometry(relative_pose(poses + 7 * s.P.source[e], poses + 7 * s.P.target[e]));
}

template <typename F>
__global__ void __launch_bounds__(kThreads) linearise_kernel(System<F> s, At at, Batch batch) {
  const Problem& P = s.P;
  const SolverState& state = *P.state;
  if (!wanted(state, at)) return;
  const int b = batch.begin + blockIdx.y, k = s.plan.source_keyframe[b], pixels = P.pixels();
  const int first = s.plan.source_begin[b], last = s.plan.source_begin[b + 1];
  const int p = blockIdx.x * kThreads + threadIdx.x, warp = p / gpu::kWarp, lane = threadIdx.x % gpu::kWarp;
  if (warp >= P.warps()) return;  // whole warps
  const bool inside = p < pixels, depths = P.depth_free[k];
  const Pixel px = inside ? load_pixel(P, at, k, p) : Pixel{};

  PriorTerm<double> prior{};
  if (inside) load_prior(s, at, k, p, px.d, prior);
  const double prior_H = gpu::warp_sum(prior.H), prior_v = gpu::warp_sum(prior.v);
  const double prior_cost = gpu::warp_sum(prior.cost);
  double* sums = s.work.source_parts + 4 * (static_cast<int64_t>(b - batch.begin) * P.warps() + warp);
  if (lane == 0) {
    sums[0] = prior_H;
    sums[1] = prior_v;
    sums[2] = prior_cost;
  }

  double C = prior.C, right = prior.b;
  for (int q = first; q < last; ++q) {
    const int64_t place = q - batch.first_place;
    FlowTerm<double> f;
    double values[32] = {};
    double* E = s.work.jacobians + 6 * place * pixels + p;
    if (inside && load_flow<F, true>(s, at, s.plan.edge_at[q], p, px, f)) {
      add_pose<double>(f, values, values + kUpper6);
      values[kUpper6 + 6] = f.cost;
      const double wx = f.wx * f.J.Jz[0], wy = f.wy * f.J.Jz[1];
      C += wx * f.J.Jz[0] + wy * f.J.Jz[1];
      right += wx * f.rx + wy * f.ry;
#pragma unroll
      for (int a = 0; a < 6; ++a)
        if (depths) E[static_cast<int64_t>(a) * pixels] = times_column<double>(wx, wy, f.J, a);
    } else if (inside && depths) {
#pragma unroll
      for (int a = 0; a < 6; ++a) E[static_cast<int64_t>(a) * pixels] = 0.0;
    }
    s.work.edge_parts[(place * P.warps() + warp) * 32 + lane] = gpu::transposed_warp_sum(values);
  }
  const double eta = inside ? load_eta(s, k, p) : 0.0;
  const double inverse = depths ? damped_inverse<double>(C, depth_damping(state, s.amounts, at), eta) : 0.0;
  const double decrease = gpu::warp_sum(depth_decrease<double>(s.opt, px.d, inverse, right));
  if (lane == 0) sums[3] = decrease;
  if (!inside || !depths) return;
  const int64_t cell = static_cast<int64_t>(b - batch.begin) * pixels + p;
  s.work.scale_jacobian[cell] = prior.E;
  s.work.depth_inverse[cell] = inverse;
  s.work.depth_right[cell] = right;
}

}  // namespace

template <typename F>
void find_geometry(const System<F>& system, At at, std::intptr_t stream) {
  gpu::launch("edge geometry", geometry_kernel<F>, dim3(gpu::blocks(system.P.E, kThreads)), kThreads, 0, stream, system,
              at);
}

template <typename F>
void linearise(const System<F>& system, At at, const Batch& batch, std::intptr_t stream) {
  const dim3 grid(gpu::blocks(system.P.pixels(), kThreads), static_cast<unsigned>(batch.end - batch.begin));
  gpu::launch("linearise", linearise_kernel<F>, grid, kThreads, 0, stream, system, at, batch);
}

template void find_geometry(const System<float>&, At, std::intptr_t);
template void find_geometry(const System<double>&, At, std::intptr_t);
template void linearise(const System<float>&, At, const Batch&, std::intptr_t);
template void linearise(const System<double>&, At, const Batch&, std::intptr_t);

}  // namespace droid::cuda
