// Bindings of the dense bundle adjustment; metric_slam/optimization/cuda/dense_ba.py queues the calls of a solve.
#include <lietorch/gpu_device.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "bindings.h"
#include "dense_ba.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace droid::cuda {

// A namespace for each of the two modules: types of one name that Python sees would be taken for the same.
namespace GPU_MODULE {

using Numbers = Array<const int32_t, nb::shape<-1>>;
using LongNumbers = Array<const int64_t, nb::shape<-1>>;
using Scalars = Array<double, nb::shape<-1>>;
using Measurements = nb::ndarray<nb::ro, nb::c_contig, Where, nb::shape<-1, -1, -1, 2>>;

// The plan of a graph, and the arrays that it points to.
struct PlanArrays {
  Numbers source_keyframe, source_begin, edge_at, pair_source, pair_first, pair_second, pose_row, scale_row, part_row,
      part_column, part_shape, part_begin, from, row_keyframe;
  LongNumbers sums_begin, local_begin;
  ConstScalars part_constant;
  std::vector<Batch> batches;
  WorkSizes sizes;  // all but the baselines
  int rows = 0;

  Plan plan() const {
    Plan p;
    p.sources = static_cast<int>(source_keyframe.shape(0));
    p.parts = static_cast<int>(part_row.shape(0));
    p.rows = rows;
    p.source_keyframe = source_keyframe.data(), p.source_begin = source_begin.data(), p.edge_at = edge_at.data();
    p.sums_begin = sums_begin.data(), p.local_begin = local_begin.data();
    p.pair_source = pair_source.data(), p.pair_first = pair_first.data(), p.pair_second = pair_second.data();
    p.pose_row = pose_row.data(), p.scale_row = scale_row.data();
    p.part_row = part_row.data(), p.part_column = part_column.data(), p.part_shape = part_shape.data();
    p.part_constant = part_constant.data(), p.part_begin = part_begin.data(), p.from = from.data();
    p.row_keyframe = row_keyframe.data();
    return p;
  }
};

// One solve. Python keeps the arrays alive that it points to.
struct Solver {
  System<double> system;  // of measurements in float: all but `measured`
  Measured<float> measured;
  bool single = false;
  int device = 0;
  const std::vector<Batch>* batches = nullptr;  // of the plan, which is kept alive

  // Calls run with the system of the type of the measurements.
  template <typename Run>
  void with(Run run) const {
    gpu::use_device(device);
    if (!single) return run(system);
    run(System<float>{system.P, measured, system.plan, system.work, system.opt, system.amounts});
  }
};

const double* maps_or_null(const std::optional<ConstMaps>& maps, const Problem& P, const char* message) {
  if (!maps) return nullptr;
  require(static_cast<int>(maps->shape(0)) == P.N && static_cast<int>(maps->shape(1)) == P.h &&
              static_cast<int>(maps->shape(2)) == P.w,
          message);
  return maps->data();
}

void set_measured(Solver& solver, const Measurements& flow_target, const Measurements& confidence) {
  const Problem& P = solver.system.P;
  for (const Measurements* array : {&flow_target, &confidence})
    require(static_cast<int>(array->shape(0)) == P.E && static_cast<int>(array->shape(1)) == P.h &&
                static_cast<int>(array->shape(2)) == P.w,
            "flow_target and confidence must be [E, h, w, 2]");
  require(flow_target.dtype() == confidence.dtype(), "flow_target and confidence must be of one type");
  solver.single = flow_target.dtype() == nb::dtype<float>();
  require(solver.single || flow_target.dtype() == nb::dtype<double>(), "flow_target must be float32 or float64");
  if (solver.single)
    solver.measured = {static_cast<const float*>(flow_target.data()), static_cast<const float*>(confidence.data())};
  else
    solver.system.measured = {static_cast<const double*>(flow_target.data()),
                              static_cast<const double*>(confidence.data())};
}

void bind_plan(nb::module_& m) {
  nb::class_<PlanArrays>(m, "DenseBaPlan", "The structure of one graph; see Plan in dense_ba.h.")
      .def(
          "__init__",
          [](PlanArrays* self, Numbers source_keyframe, Numbers source_begin, Numbers edge_at, Numbers pair_source,
             Numbers pair_first, Numbers pair_second, Numbers pose_row, Numbers scale_row, Numbers part_row,
             Numbers part_column, Numbers part_shape, Numbers part_begin, Numbers from_, Numbers row_keyframe,
             LongNumbers sums_begin, LongNumbers local_begin, ConstScalars part_constant,
             HostArray<const int32_t, nb::shape<-1, 5>> batches, int rows, int pixels, int64_t raw, int64_t local) {
            new (self) PlanArrays{source_keyframe, source_begin,  edge_at,   pair_source,  pair_first,
                                  pair_second,     pose_row,      scale_row, part_row,     part_column,
                                  part_shape,      part_begin,    from_,     row_keyframe, sums_begin,
                                  local_begin,     part_constant, {},        {},           rows};
            WorkSizes& sizes = self->sizes;
            sizes.edges = static_cast<int64_t>(edge_at.shape(0));
            sizes.sources = static_cast<int64_t>(source_keyframe.shape(0));
            sizes.pixels = pixels, sizes.raw = raw, sizes.local = local;
            int places = static_cast<int>(sizes.edges);
            for (size_t i = batches.shape(0); i-- > 0;) {  // from the last one: its places end with the edges
              const int32_t* b = batches.data() + 5 * i;
              self->batches.insert(self->batches.begin(), Batch{b[0], b[1], b[2], b[3], b[4]});
              sizes.places_at_once = std::max<int64_t>(sizes.places_at_once, places - b[2]);
              sizes.sources_at_once = std::max<int64_t>(sizes.sources_at_once, b[1] - b[0]);
              places = b[2];
            }
          },
          nb::kw_only(), "source_keyframe"_a.noconvert(), "source_begin"_a.noconvert(), "edge_at"_a.noconvert(),
          "pair_source"_a.noconvert(), "pair_first"_a.noconvert(), "pair_second"_a.noconvert(),
          "pose_row"_a.noconvert(), "scale_row"_a.noconvert(), "part_row"_a.noconvert(), "part_column"_a.noconvert(),
          "part_shape"_a.noconvert(), "part_begin"_a.noconvert(), "from_"_a.noconvert(), "row_keyframe"_a.noconvert(),
          "sums_begin"_a.noconvert(), "local_begin"_a.noconvert(), "part_constant"_a.noconvert(),
          "batches"_a.noconvert(), "rows"_a, "pixels"_a, "raw"_a, "local"_a)
      .def(
          "workspace_doubles",
          [](const PlanArrays& self, int baselines) {
            WorkSizes sizes = self.sizes;
            sizes.baselines = baselines;
            Work nowhere;
            return share_out(sizes, nullptr, nowhere);
          },
          "baselines"_a);
}

using StatePoses = Array<double, nb::shape<2, -1, 7>>;
using StateMaps = Array<double, nb::shape<2, -1, -1, -1>>;
using StateScalars = Array<double, nb::shape<2, -1>>;
using Flags = Array<const bool, nb::shape<-1>>;
using Pairs = Array<const int32_t, nb::shape<-1, 2>>;

Solver make_solver(const PlanArrays& plan, const StatePoses& poses, const StateMaps& inv_depth,
                   const StateScalars& scales, const HostIntrinsics& intrinsics, const Numbers& source,
                   const Numbers& target, const Measurements& flow_target, const Measurements& confidence,
                   const Flags& depth_free, const Numbers& scale_previous, const Scalars& state,
                   const Scalars& workspace, const DenseBaOptions& options,
                   const std::optional<ConstMaps>& depth_damping, const std::optional<ConstMaps>& prior_depth,
                   const std::optional<ConstMaps>& prior_weight, const std::optional<ConstScalars>& scale_anchor,
                   const std::optional<Pairs>& baseline_pair, const std::optional<ConstScalars>& baseline_length,
                   const std::optional<ConstScalars>& baseline_sigma,
                   const std::optional<std::pair<double, double>>& ridge_and_damping) {
  Solver solver{};
  solver.device = poses.device_id();
  Problem& P = solver.system.P;
  P.N = static_cast<int>(poses.shape(1)), P.E = static_cast<int>(source.shape(0));
  P.h = static_cast<int>(inv_depth.shape(2)), P.w = static_cast<int>(inv_depth.shape(3));
  const size_t N = P.N;
  require(inv_depth.shape(1) == N && scales.shape(1) == N && depth_free.shape(0) == N && scale_previous.shape(0) == N,
          "poses, inv_depth, scales, depth_free and scale_previous must be of N keyframes");
  require(plan.pose_row.shape(0) == N && plan.scale_row.shape(0) == N, "the plan is of another number of keyframes");
  require(target.shape(0) == source.shape(0) && plan.sizes.edges == P.E && plan.sizes.pixels == P.pixels(),
          "the plan is of other edges or another grid");
  require(state.shape(0) == SolverState::kNumbers, "the state has another size");
  P.K = intrinsics_of(intrinsics);
  P.poses = {poses.data(), 7 * static_cast<int64_t>(P.N)};
  P.inv_depth = {inv_depth.data(), static_cast<int64_t>(P.N) * P.pixels()};
  P.scales = {scales.data(), P.N};
  P.source = source.data(), P.target = target.data();
  set_measured(solver, flow_target, confidence);
  P.depth_damping = maps_or_null(depth_damping, P, "depth_damping must be [N, h, w]");
  P.prior_depth = maps_or_null(prior_depth, P, "prior_depth must be [N, h, w]");
  P.prior_weight = maps_or_null(prior_weight, P, "prior_weight must be [N, h, w]");
  require(options.prior_mode != PriorMode::kMetric || !P.prior_depth || P.prior_weight,
          "prior_mode METRIC needs prior_weight beside prior_depth");
  require(!scale_anchor || scale_anchor->shape(0) == N, "scale_anchor must have length N");
  P.scale_anchor = scale_anchor ? scale_anchor->data() : nullptr;
  P.scale_previous = scale_previous.data();
  P.depth_free = depth_free.data();
  if (baseline_pair) {
    P.F = static_cast<int>(baseline_pair->shape(0));
    require(baseline_length && baseline_sigma && static_cast<int>(baseline_length->shape(0)) == P.F &&
                static_cast<int>(baseline_sigma->shape(0)) == P.F,
            "baseline_length and baseline_sigma must have one entry per baseline_pair");
    P.baseline_pair = baseline_pair->data();
    P.baseline_length = baseline_length->data(), P.baseline_sigma = baseline_sigma->data();
  }
  P.state = reinterpret_cast<SolverState*>(state.data());
  WorkSizes sizes = plan.sizes;
  sizes.baselines = P.F;
  require(share_out(sizes, workspace.data(), solver.system.work) <= static_cast<int64_t>(workspace.shape(0)),
          "the workspace is too small");
  solver.system.plan = plan.plan();
  solver.system.opt = options;
  solver.system.amounts.ridge = options.ridge;
  if (ridge_and_damping) solver.system.amounts = {true, ridge_and_damping->first, ridge_and_damping->second, 0.0};
  solver.batches = &plan.batches;
  return solver;
}

}  // namespace GPU_MODULE

void bind_dense_ba(nb::module_& m) {
  using namespace GPU_MODULE;
  static_assert(sizeof(SolverState) == SolverState::kNumbers * sizeof(double), "the state is an array of doubles");
  m.attr("STATE_NAMES") = nb::make_tuple("status", "iterations", "trials", "cost_initial", "cost", "lambda", "current",
                                         "stale", "solvable", "predicted");  // as in SolverState
  m.attr("RUNNING") = SolverState::kRunning;
  bind_plan(m);
  nb::class_<Solver>(m, "DenseBaSolver",
                     "One solve. Its calls only queue kernels; whoever makes it keeps all arrays alive until they ran.")
      .def(
          "__init__",
          [](Solver* self, PlanArrays& plan, StatePoses poses, StateMaps inv_depth, StateScalars scales,
             HostIntrinsics intrinsics, Numbers source, Numbers target, Measurements flow_target,
             Measurements confidence, Flags depth_free, Numbers scale_previous, Scalars state, Scalars workspace,
             const DenseBaOptions& options, std::optional<ConstMaps> depth_damping,
             std::optional<ConstMaps> prior_depth, std::optional<ConstMaps> prior_weight,
             std::optional<ConstScalars> scale_anchor, std::optional<Pairs> baseline_pair,
             std::optional<ConstScalars> baseline_length, std::optional<ConstScalars> baseline_sigma,
             std::optional<std::pair<double, double>> ridge_and_damping) {
            new (self) Solver(make_solver(plan, poses, inv_depth, scales, intrinsics, source, target, flow_target,
                                          confidence, depth_free, scale_previous, state, workspace, options,
                                          depth_damping, prior_depth, prior_weight, scale_anchor, baseline_pair,
                                          baseline_length, baseline_sigma, ridge_and_damping));
          },
          nb::keep_alive<1, 2>(), "plan"_a, nb::kw_only(), "poses"_a.noconvert(), "inv_depth"_a.noconvert(),
          "scales"_a.noconvert(), "intrinsics"_a.noconvert(), "source"_a.noconvert(), "target"_a.noconvert(),
          "flow_target"_a.noconvert(), "confidence"_a.noconvert(), "depth_free"_a.noconvert(),
          "scale_previous"_a.noconvert(), "state"_a.noconvert(), "workspace"_a.noconvert(), "options"_a,
          "depth_damping"_a.noconvert() = nb::none(), "prior_depth"_a.noconvert() = nb::none(),
          "prior_weight"_a.noconvert() = nb::none(), "scale_anchor"_a.noconvert() = nb::none(),
          "baseline_pair"_a.noconvert() = nb::none(), "baseline_length"_a.noconvert() = nb::none(),
          "baseline_sigma"_a.noconvert() = nb::none(), "ridge_and_damping"_a = nb::none())
      .def(
          "assemble",
          [](const Solver& self, bool trial, Array<double, nb::shape<-1, 36>> values,
             std::optional<Array<double, nb::shape<-1, -1>>> dense, Scalars right, std::intptr_t stream) {
            const size_t rows = self.system.plan.rows;
            require(static_cast<int>(values.shape(0)) == self.system.plan.parts, "values must be [parts, 36]");
            require(right.shape(0) == rows, "right must be [rows]");
            require(!dense || (dense->shape(0) == rows && dense->shape(1) == rows), "dense must be [rows, rows]");
            double* matrix = dense ? dense->data() : nullptr;
            self.with([&](const auto& system) {
              assemble(system, trial ? At::kTrial : At::kCurrent, self.batches->data(),
                       static_cast<int>(self.batches->size()), values.data(), matrix, right.data(), stream);
            });
          },
          "trial"_a, "values"_a.noconvert(), "dense"_a.noconvert().none(), "right"_a.noconvert(), nb::kw_only(),
          "stream"_a)
      .def(
          "begin",
          [](const Solver& self, std::intptr_t stream) {
            self.with([&](const auto& system) { begin(system, stream); });
          },
          nb::kw_only(), "stream"_a)
      .def(
          "step",
          [](const Solver& self, ConstScalars x, ConstScalars right, std::intptr_t stream) {
            const size_t rows = self.system.plan.rows;
            require(x.shape(0) == rows && right.shape(0) == rows, "x and right must be [rows]");
            self.with([&](const auto& system) { step(system, x.data(), right.data(), stream); });
          },
          "x"_a.noconvert(), "right"_a.noconvert(), nb::kw_only(), "stream"_a)
      .def(
          "decide",
          [](const Solver& self, ConstScalars x, Array<const int32_t> info, std::intptr_t stream) {
            require(static_cast<int>(x.shape(0)) == self.system.plan.rows && info.size() == 1,
                    "x must be [rows] and info one number");
            self.with([&](const auto& system) { decide(system, x.data(), info.data(), stream); });
          },
          "x"_a.noconvert(), "info"_a.noconvert(), nb::kw_only(), "stream"_a);
}

}  // namespace droid::cuda
