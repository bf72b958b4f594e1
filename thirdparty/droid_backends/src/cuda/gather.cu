// The reduced system from the local ones: a block for each part of it adds the contributions of sources, measured
// baselines and couplings of scales in the order of its list, and damps the sum.
#include <droid_backends/baseline.h>
#include <lietorch/gpu.h>

#include "passes.h"

namespace droid::cuda {

namespace {

constexpr int kThreads = 64, kRightThreads = 48;  // the first 36 do elements, those from 48 on the right side
constexpr int kBaselineNumbers = 16, kWeight = 12, kResidual = 13, kBaselineCost = 14;

template <typename F>
__global__ void baseline_kernel(System<F> s, At at) {
  const int f = blockIdx.x * blockDim.x + threadIdx.x;
  if (f >= s.P.F || !wanted(*s.P.state, at)) return;
  const double* poses = s.P.poses.of(buffer(*s.P.state, at));
  const int32_t* pair = s.P.baseline_pair + 2 * f;
  const EdgeGeometry geometry(relative_pose(poses + 7 * pair[0], poses + 7 * pair[1]));
  const BaselineTerm term(geometry, s.P.baseline_length[f], s.P.baseline_sigma[f]);
  double* out = s.work.baselines + kBaselineNumbers * f;
  for (int end = 0; end < 2; ++end)
    for (int a = 0; a < 6; ++a) out[6 * end + a] = term.J[end][a];
  out[kWeight] = s.opt.baseline_loss.weight(fabs(term.r));
  out[kResidual] = term.r;
  out[kBaselineCost] = s.opt.baseline_loss.cost(fabs(term.r));
}

// Right side of a scale that moves: its anchor, and its steps from the scale before and to those after it.
template <typename F>
__device__ double scale_right(const System<F>& s, const double* scales, int k) {
  const double anchor = s.P.scale_anchor ? s.P.scale_anchor[k] : 0.0;
  double right = -(scales[k] - anchor) / (s.opt.scale_sigma * s.opt.scale_sigma);
  if (s.opt.scale_step_sigma <= 0.0) return right;
  const double weight = 1.0 / (s.opt.scale_step_sigma * s.opt.scale_step_sigma);
  const int before = s.P.scale_previous[k];
  if (before >= 0) right -= weight * (scales[k] - scales[before]);
  for (int l = 0; l < s.P.N; ++l)
    if (s.P.scale_previous[l] == k) right += weight * (scales[l] - scales[k]);
  return right;
}

struct Element {
  double H = 0.0, G = 0.0;
};

template <typename F>
__device__ Element sum_of(const System<F>& s, int part, int r, int c) {
  Element sum;
  sum.H = s.plan.part_constant[part];
  for (int i = s.plan.part_begin[part]; i < s.plan.part_begin[part + 1]; ++i) {
    const int32_t* from = s.plan.from + 3 * static_cast<int64_t>(i);
    if (from[0] < 0) {
      const double* baseline = s.work.baselines + kBaselineNumbers * (-1 - from[0]);
      sum.H += baseline[kWeight] * baseline[6 * from[1] + r] * baseline[6 * from[2] + c];
      continue;
    }
    const int b = from[0], n = s.plan.source_begin[b + 1] - s.plan.source_begin[b];
    const int64_t at = s.plan.local_begin[b] + static_cast<int64_t>(6 * from[1] + r) * (6 * n + 7) + 6 * from[2] + c;
    sum.H += s.work.local_H[at];
    sum.G += s.work.local_G[at];
  }
  return sum;
}

template <typename F>
__device__ double right_of(const System<F>& s, At at, int part, int r) {
  const int64_t all = 6 * static_cast<int64_t>(s.P.E) + 7 * s.plan.sources;
  double right = 0.0;
  for (int i = s.plan.part_begin[part]; i < s.plan.part_begin[part + 1]; ++i) {
    const int32_t* from = s.plan.from + 3 * static_cast<int64_t>(i);
    if (from[1] != from[2]) continue;  // every slot once
    if (from[0] < 0) {
      const double* baseline = s.work.baselines + kBaselineNumbers * (-1 - from[0]);
      right -= baseline[kWeight] * baseline[6 * from[1] + r] * baseline[kResidual];
      continue;
    }
    const int64_t row = 6 * static_cast<int64_t>(s.plan.source_begin[from[0]]) + 7 * from[0] + 6 * from[1] + r;
    right += s.work.local_right[row] - s.work.local_right[all + row];
  }
  if (s.plan.part_shape[part] == 66) return right;
  return right + scale_right(s, s.P.scales.of(buffer(*s.P.state, at)), s.plan.row_keyframe[part]);
}

template <typename F>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(System<F> s, At at, double* values, double* dense, double* right) {
  if (!wanted(*s.P.state, at)) return;
  const int part = blockIdx.x, shape = s.plan.part_shape[part], rows = shape / 10, columns = shape % 10;
  const int row = s.plan.part_row[part], column = s.plan.part_column[part], t = threadIdx.x;
  if (t < rows * columns) {
    const int r = t / columns, c = t % columns;
    Element element = sum_of(s, part, r, c);
    const double ridge = s.amounts.ridge, growth = damping(*s.P.state, s.amounts, at);
    const bool diagonal = row + r == column + c;
    if (s.opt.damping == Damping::kBeforeSchur && diagonal) element.H += ridge + growth * element.H;
    double value = element.H - element.G;
    const bool every_block = s.opt.damping == Damping::kEveryBlock && shape == 66 && r == c;
    if (s.opt.damping != Damping::kBeforeSchur && (diagonal || every_block)) value += ridge + growth * value;
    values[36 * static_cast<int64_t>(part) + t] = value;
    if (dense) dense[static_cast<int64_t>(row + r) * s.plan.rows + column + c] = value;
  }
  if (row == column && t >= kRightThreads && t < kRightThreads + rows)
    right[row + t - kRightThreads] = right_of(s, at, part, t - kRightThreads);
}

// The cost that is not of a source. Every thread of the block takes part; thread 0 gets it.
template <typename F>
__device__ double cost_at(const System<F>& s, At at, double* scratch) {
  double cost = 0.0;
  for (int b = threadIdx.x; b < s.plan.sources; b += blockDim.x) cost += s.work.source_cost[b];
  for (int f = threadIdx.x; f < s.P.F; f += blockDim.x) cost += s.work.baselines[kBaselineNumbers * f + kBaselineCost];
  const double* scales = s.P.scales.of(buffer(*s.P.state, at));
  for (int k = threadIdx.x; k < s.P.N; k += blockDim.x) {
    const int before = s.P.scale_previous[k];
    const bool moves = s.plan.scale_row[k] >= 0, moves_before = before >= 0 && s.plan.scale_row[before] >= 0;
    const double anchor = s.P.scale_anchor ? s.P.scale_anchor[k] : 0.0;
    const double off = (scales[k] - anchor) / s.opt.scale_sigma;
    if (moves) cost += off * off;
    if (before < 0 || s.opt.scale_step_sigma <= 0.0 || !(moves || moves_before)) continue;
    const double step = (scales[k] - scales[before]) / s.opt.scale_step_sigma;
    cost += step * step;
  }
  return gpu::block_sum(cost, scratch);
}

template <typename F>
__global__ void begin_kernel(System<F> s) {
  GPU_SHARED(double, scratch, gpu::kWarp);
  SolverState& state = *s.P.state;
  const double cost = cost_at(s, At::kCurrent, scratch);
  if (threadIdx.x > 0) return;
  state.cost = state.cost_initial = cost;
  state.stale = 0.0;
  state.iterations = 1.0;
  if (!std::isfinite(cost)) {
    state.status = static_cast<double>(Status::kNotPositiveDefinite);
    state.iterations = 0.0;
  }
}

// As LevenbergMarquardt::iterate and solve_dense_ba of src/dense_ba.cpp have it.
__device__ void accept_or_refuse(SolverState& state, const DenseBaOptions& opt, bool singular, double cost) {
  const auto end = [&](Status status) { state.status = static_cast<double>(status); };
  const bool accepted = !singular && cost < state.cost;
  const double decrease = accepted ? state.cost - cost : state.predicted;
  const bool at_minimum =
      !singular && converged(state.cost_initial, state.cost, decrease, state.lambda, opt.min_relative_decrease);
  state.trials += 1.0;
  if (!singular) state.solvable = 1.0;
  if (accepted) {
    state.lambda = relaxed(state.lambda);
    state.current = 1.0 - state.current;
    state.cost = cost;
  } else {
    state.lambda = raised(state.lambda);
  }
  state.stale = accepted ? 0.0 : 1.0;
  if (at_minimum) return end(Status::kConverged);
  if (accepted) {
    if (state.iterations >= opt.iterations) return end(Status::kMaxIterations);
    state.iterations += 1.0;
    state.solvable = 0.0;
  } else if (state.lambda > kMaxDamping) {
    end(state.solvable == 0.0 ? Status::kNotPositiveDefinite : Status::kNoProgress);
  }
}

// Gauss-Newton takes every step that can be computed.
__device__ void take(SolverState& state, const DenseBaOptions& opt, bool singular) {
  if (singular || !std::isfinite(state.cost)) {
    state.status = static_cast<double>(Status::kNotPositiveDefinite);
    return;
  }
  state.current = 1.0 - state.current;
  state.stale = 1.0;
  state.iterations += 1.0;
  if (state.iterations > opt.iterations) state.status = static_cast<double>(Status::kMaxIterations);
}

template <typename F>
__global__ void decide_kernel(System<F> s, const double* x, const int32_t* info) {
  GPU_SHARED(double, scratch, gpu::kWarp);
  SolverState& state = *s.P.state;
  if (state.status != SolverState::kRunning) return;
  double wrong = 0.0;
  for (int i = threadIdx.x; i < s.plan.rows; i += blockDim.x) wrong += std::isfinite(x[i]) ? 0.0 : 1.0;
  wrong = gpu::block_sum(wrong, scratch);
  const double cost = cost_at(s, s.amounts.fixed ? At::kCurrent : At::kTrial, scratch);
  if (threadIdx.x > 0) return;
  const bool singular = wrong > 0.0 || *info != 0;
  if (s.amounts.fixed) {
    state.cost = cost;
    take(state, s.opt, singular);
  } else {
    accept_or_refuse(state, s.opt, singular, cost);
  }
}

constexpr int kDecideThreads = 256;

}  // namespace

template <typename F>
void gather(const System<F>& system, At at, double* values, double* dense, double* right, std::intptr_t stream) {
  gpu::launch("baselines", baseline_kernel<F>, dim3(gpu::blocks(system.P.F, 64)), 64, 0, stream, system, at);
  gpu::launch("gather", gather_kernel<F>, dim3(static_cast<unsigned>(system.plan.parts)), kThreads, 0, stream, system,
              at, values, dense, right);
}

template <typename F>
void begin(const System<F>& system, std::intptr_t stream) {
  gpu::launch("begin", begin_kernel<F>, dim3(1), kDecideThreads, 0, stream, system);
}

template <typename F>
void decide(const System<F>& system, const double* x, const int32_t* info, std::intptr_t stream) {
  gpu::launch("decide", decide_kernel<F>, dim3(1), kDecideThreads, 0, stream, system, x, info);
}

template void gather(const System<float>&, At, double*, double*, double*, std::intptr_t);
template void gather(const System<double>&, At, double*, double*, double*, std::intptr_t);
template void begin(const System<float>&, std::intptr_t);
template void begin(const System<double>&, std::intptr_t);
template void decide(const System<float>&, const double*, const int32_t*, std::intptr_t);
template void decide(const System<double>&, const double*, const int32_t*, std::intptr_t);

}  // namespace droid::cuda
