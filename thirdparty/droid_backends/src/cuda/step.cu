// The trial state: poses and scales moved by a solution of the reduced system, depths substituted back.
#include <lietorch/gpu.h>

#include "passes.h"

namespace droid::cuda {

namespace {

constexpr int kThreads = 128, kPredictThreads = 256;

template <typename F>
__global__ void move_kernel(System<F> s, const double* x) {
  const SolverState& state = *s.P.state;
  if (state.status != SolverState::kRunning) return;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < s.P.N) {
    const int row = s.plan.pose_row[i], scale_row = s.plan.scale_row[i];
    const double* pose = s.P.poses.of(buffer(state, At::kCurrent)) + 7 * i;
    double* moved = s.P.poses.of(buffer(state, At::kTrial)) + 7 * i;
    if (row >= 0) move_pose(x + row, pose, moved);
    if (scale_row >= 0)
      s.P.scales.of(buffer(state, At::kTrial))[i] = s.P.scales.of(buffer(state, At::kCurrent))[i] + x[scale_row];
  }
  if (i >= 6 * s.P.E) return;  // what the step means for the columns of each place's edge
  const int q = i / 6, c = i % 6, e = s.plan.edge_at[q];
  const int target = s.plan.pose_row[s.P.target[e]], source = s.plan.pose_row[s.P.source[e]];
  double step = target >= 0 ? x[target + c] : 0.0;
  const double* A = s.work.geometry[buffer(state, At::kCurrent) * s.P.E + e].A;
  for (int a = 0; a < 6 && source >= 0; ++a) step += A[6 * a + c] * x[source + a];
  s.work.edge_steps[i] = step;
}

// What the linear model promises of the step: x . right of the reduced system, and b C^-1 b of the depths.
template <typename F>
__global__ void predict_kernel(System<F> s, const double* x, const double* right) {
  GPU_SHARED(double, scratch, gpu::kWarp);
  if (s.P.state->status != SolverState::kRunning) return;
  double decrease = 0.0;
  for (int i = threadIdx.x; i < s.plan.rows; i += blockDim.x) decrease += x[i] * right[i];
  for (int b = threadIdx.x; b < s.plan.sources; b += blockDim.x) decrease += s.work.depth_decrease[b];
  decrease = gpu::block_sum(decrease, scratch);
  if (threadIdx.x == 0) s.P.state->predicted = decrease;
}

// b - E^T step is summed edge by edge: Jz W (r - Jj step).
template <typename F>
__global__ void __launch_bounds__(kThreads) substitute_kernel(System<F> s, const double* x) {
  const Problem& P = s.P;
  const SolverState& state = *P.state;
  const int b = blockIdx.y, k = s.plan.source_keyframe[b], p = blockIdx.x * kThreads + threadIdx.x;
  if (state.status != SolverState::kRunning || p >= P.pixels() || !P.depth_free[k]) return;
  const Pixel px = load_pixel(P, At::kCurrent, k, p);
  PriorTerm<double> prior{};
  load_prior(s, At::kCurrent, k, p, px.d, prior);
  const int scale_row = s.plan.scale_row[k];
  double C = prior.C, right = prior.b - prior.E * (scale_row >= 0 ? x[scale_row] : 0.0);
  for (int q = s.plan.source_begin[b]; q < s.plan.source_begin[b + 1]; ++q) {
    FlowTerm<double> f;
    if (!load_flow<F, true>(s, At::kCurrent, s.plan.edge_at[q], p, px, f)) continue;
    const double* step = s.work.edge_steps + 6 * static_cast<int64_t>(q);
    double rx = f.rx - f.J.Jj[0][0] * step[0], ry = f.ry - f.J.Jj[1][1] * step[1];
#pragma unroll
    for (int a = 2; a < 6; ++a) {
      rx -= f.J.Jj[0][a] * step[a];
      ry -= f.J.Jj[1][a] * step[a];
    }
    const double wx = f.wx * f.J.Jz[0], wy = f.wy * f.J.Jz[1];
    C += wx * f.J.Jz[0] + wy * f.J.Jz[1];
    right += wx * rx + wy * ry;
  }
  const double damping = depth_damping(state, s.amounts, At::kCurrent);
  const double d = px.d + damped_inverse<double>(C, damping, load_eta(s, k, p)) * right;
  const double nearest = s.opt.max_inv_depth, farthest = s.opt.min_inv_depth;
  P.inv_depth.of(buffer(state, At::kTrial))[static_cast<int64_t>(k) * P.pixels() + p] = d < farthest  ? farthest
                                                                                        : d > nearest ? nearest
                                                                                                      : d;
}

}  // namespace

template <typename F>
void step(const System<F>& system, const double* x, const double* right, std::intptr_t stream) {
  if (!system.amounts.fixed)
    gpu::launch("predict", predict_kernel<F>, dim3(1), kPredictThreads, 0, stream, system, x, right);
  const int items = system.P.N > 6 * system.P.E ? system.P.N : 6 * system.P.E;
  gpu::launch("move", move_kernel<F>, dim3(gpu::blocks(items, kThreads)), kThreads, 0, stream, system, x);
  const dim3 grid(gpu::blocks(system.P.pixels(), kThreads), static_cast<unsigned>(system.plan.sources));
  gpu::launch("substitute", substitute_kernel<F>, grid, kThreads, 0, stream, system, x);
}

template <typename F>
void assemble(const System<F>& system, At at, const Batch* batches, int count, double* values, double* dense,
              double* right, std::intptr_t stream) {
  find_geometry(system, at, stream);
  for (int i = 0; i < count; ++i) {
    linearise(system, at, batches[i], stream);
    eliminate(system, at, batches[i], stream);
    expand(system, at, batches[i], stream);
  }
  gather(system, at, values, dense, right, stream);
}

template void step(const System<float>&, const double*, const double*, std::intptr_t);
template void step(const System<double>&, const double*, const double*, std::intptr_t);
template void assemble(const System<float>&, At, const Batch*, int, double*, double*, double*, std::intptr_t);
template void assemble(const System<double>&, At, const Batch*, int, double*, double*, double*, std::intptr_t);

}  // namespace droid::cuda
