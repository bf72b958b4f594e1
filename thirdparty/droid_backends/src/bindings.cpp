// Thin Python bindings; private: metric_slam/optimization/bundle_adjustment.py is the documented surface.
#include "bindings.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>

#include <droid_backends/dense_ba.h>
#include <droid_backends/envelope.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using droid::ConstMaps;
using droid::ConstScalars;
using droid::Cpu;
using droid::Indices;
using droid::require;
using Poses = Cpu<double, nb::shape<-1, 7>>;
using Maps = Cpu<double, nb::shape<-1, -1, -1>>;
using ConstFlow = Cpu<const double, nb::shape<-1, -1, -1, 2>>;
using Mask = Cpu<const bool, nb::shape<-1>>;
using Scalars = Cpu<double, nb::shape<-1>>;

// Shapes and indices of one problem, checked once; the views keep the memory alive during the call.
droid::DenseBaProblem geometry_problem(Poses& poses, Maps& inv_depth, const ConstScalars& intrinsics,
                                       const Indices& source, const Indices& target) {
  droid::DenseBaProblem P;
  P.N = static_cast<int>(poses.shape(0));
  P.h = static_cast<int>(inv_depth.shape(1));
  P.w = static_cast<int>(inv_depth.shape(2));
  P.E = static_cast<int>(source.shape(0));
  require(inv_depth.shape(0) == poses.shape(0), "inv_depth and poses must have the same leading size N");
  require(intrinsics.shape(0) == 4, "intrinsics must be fx, fy, cx, cy");
  require(target.shape(0) == source.shape(0), "source and target must have the same length E");
  for (int e = 0; e < P.E; ++e)
    require(source.data()[e] >= 0 && source.data()[e] < P.N && target.data()[e] >= 0 && target.data()[e] < P.N,
            "an edge names a keyframe outside 0..N-1");
  P.K = {intrinsics.data()[0], intrinsics.data()[1], intrinsics.data()[2], intrinsics.data()[3]};
  P.poses = poses.data();
  P.inv_depth = inv_depth.data();
  P.source = source.data();
  P.target = target.data();
  return P;
}

struct ProblemArrays {
  Poses poses;
  Maps inv_depth;
  Scalars scales;
  ConstScalars intrinsics;
  Indices source, target;
  ConstFlow flow_target, confidence;
  Mask pose_free, depth_free;
  std::optional<ConstMaps> depth_damping, prior_depth, prior_weight;
  std::optional<ConstScalars> scale_anchor, baseline_length, baseline_sigma;
  std::optional<Cpu<const int64_t, nb::shape<-1, 2>>> baseline_pair;
  std::optional<Indices> scale_previous;
};

const double* maps_or_null(const std::optional<ConstMaps>& maps, const droid::DenseBaProblem& P, const char* message) {
  if (!maps) return nullptr;
  require(static_cast<int>(maps->shape(0)) == P.N && static_cast<int>(maps->shape(1)) == P.h &&
              static_cast<int>(maps->shape(2)) == P.w,
          message);
  return maps->data();
}

droid::DenseBaProblem make_problem(ProblemArrays& a) {
  droid::DenseBaProblem P = geometry_problem(a.poses, a.inv_depth, a.intrinsics, a.source, a.target);
  const size_t N = P.N, E = P.E, h = P.h, w = P.w;
  require(a.scales.shape(0) == N && a.pose_free.shape(0) == N && a.depth_free.shape(0) == N,
          "scales, pose_free and depth_free must have length N");
  for (const ConstFlow* flow : {&a.flow_target, &a.confidence})
    require(flow->shape(0) == E && flow->shape(1) == h && flow->shape(2) == w,
            "flow_target and confidence must be [E, h, w, 2]");
  P.scales = a.scales.data();
  P.flow_target = a.flow_target.data();
  P.confidence = a.confidence.data();
  P.pose_free = a.pose_free.data();
  P.depth_free = a.depth_free.data();
  P.depth_damping = maps_or_null(a.depth_damping, P, "depth_damping must be [N, h, w]");
  P.prior_depth = maps_or_null(a.prior_depth, P, "prior_depth must be [N, h, w]");
  P.prior_weight = maps_or_null(a.prior_weight, P, "prior_weight must be [N, h, w]");
  require(!a.scale_anchor || a.scale_anchor->shape(0) == N, "scale_anchor must have length N");
  P.scale_anchor = a.scale_anchor ? a.scale_anchor->data() : nullptr;
  require(!a.scale_previous || a.scale_previous->shape(0) == N, "scale_previous must have length N");
  P.scale_previous = a.scale_previous ? a.scale_previous->data() : nullptr;
  for (int k = 0; k < P.N && P.scale_previous; ++k)
    require(P.scale_previous[k] >= -1 && P.scale_previous[k] < P.N && P.scale_previous[k] != k,
            "scale_previous names a keyframe outside -1..N-1, or the keyframe itself");
  if (a.baseline_pair) {
    P.F = static_cast<int>(a.baseline_pair->shape(0));
    require(a.baseline_length && a.baseline_sigma && static_cast<int>(a.baseline_length->shape(0)) == P.F &&
                static_cast<int>(a.baseline_sigma->shape(0)) == P.F,
            "baseline_length and baseline_sigma must have one entry per baseline_pair");
    for (int f = 0; f < 2 * P.F; ++f)
      require(a.baseline_pair->data()[f] >= 0 && a.baseline_pair->data()[f] < P.N,
              "a baseline names a keyframe outside 0..N-1");
    P.baseline_pair = a.baseline_pair->data();
    P.baseline_length = a.baseline_length->data();
    P.baseline_sigma = a.baseline_sigma->data();
  }
  return P;
}

// The arrays that the options require.
droid::DenseBaProblem make_problem(ProblemArrays& arrays, const droid::DenseBaOptions& options) {
  const auto P = make_problem(arrays);
  require(options.prior_mode != droid::PriorMode::kMetric || !P.prior_depth || P.prior_weight,
          "prior_mode METRIC needs prior_weight beside prior_depth");
  return P;
}

}  // namespace

NB_MODULE(_droid_backends, m) {
  droid::bind_correlation(m);
  droid::bind_view_pairs(m);
  nb::enum_<droid::Loss>(m, "Loss")
      .value("NONE", droid::Loss::kNone)
      .value("HUBER", droid::Loss::kHuber)
      .value("GEMAN_MCCLURE", droid::Loss::kGemanMcClure)
      .value("CAUCHY", droid::Loss::kCauchy);
  nb::enum_<droid::PriorMode>(m, "PriorMode")
      .value("NONE", droid::PriorMode::kNone)
      .value("METRIC", droid::PriorMode::kMetric)
      .value("DROID", droid::PriorMode::kDroid);
  nb::enum_<droid::Damping>(m, "Damping")
      .value("BEFORE_SCHUR", droid::Damping::kBeforeSchur)
      .value("AFTER_SCHUR", droid::Damping::kAfterSchur)
      .value("EVERY_BLOCK", droid::Damping::kEveryBlock);
  nb::enum_<droid::Status>(m, "Status")
      .value("CONVERGED", droid::Status::kConverged)
      .value("MAX_ITERATIONS", droid::Status::kMaxIterations)
      .value("NOT_POSITIVE_DEFINITE", droid::Status::kNotPositiveDefinite)
      .value("NO_PROGRESS", droid::Status::kNoProgress)
      .value("NOTHING_TO_DO", droid::Status::kNothingToDo);

  nb::class_<droid::RobustLoss>(m, "RobustLoss")
      .def(
          "__init__",
          [](droid::RobustLoss* self, droid::Loss kind, double width) { new (self) droid::RobustLoss{kind, width}; },
          "kind"_a, "width"_a = 1.0)
      .def_rw("kind", &droid::RobustLoss::kind)
      .def_rw("width", &droid::RobustLoss::width)
      .def("cost", &droid::RobustLoss::cost, "n"_a)
      .def("weight", &droid::RobustLoss::weight, "n"_a);
  nb::class_<droid::DenseBaOptions>(m, "DenseBaOptions")
      .def(nb::init<>())
      .def_rw("iterations", &droid::DenseBaOptions::iterations)
      .def_rw("prior_mode", &droid::DenseBaOptions::prior_mode)
      .def_rw("flow_loss", &droid::DenseBaOptions::flow_loss)
      .def_rw("prior_loss", &droid::DenseBaOptions::prior_loss)
      .def_rw("baseline_loss", &droid::DenseBaOptions::baseline_loss)
      .def_rw("flow_weight", &droid::DenseBaOptions::flow_weight)
      .def_rw("droid_alpha", &droid::DenseBaOptions::droid_alpha)
      .def_rw("scale_sigma", &droid::DenseBaOptions::scale_sigma)
      .def_rw("scale_step_sigma", &droid::DenseBaOptions::scale_step_sigma)
      .def_rw("min_inv_depth", &droid::DenseBaOptions::min_inv_depth)
      .def_rw("max_inv_depth", &droid::DenseBaOptions::max_inv_depth)
      .def_rw("initial_damping", &droid::DenseBaOptions::initial_damping)
      .def_rw("ridge", &droid::DenseBaOptions::ridge)
      .def_rw("min_relative_decrease", &droid::DenseBaOptions::min_relative_decrease)
      .def_rw("invalid_residual", &droid::DenseBaOptions::invalid_residual)
      .def_rw("damping", &droid::DenseBaOptions::damping);
  nb::class_<droid::DenseBaReport>(m, "DenseBaReport")
      .def_ro("status", &droid::DenseBaReport::status)
      .def_ro("iterations", &droid::DenseBaReport::iterations)
      .def_ro("trials", &droid::DenseBaReport::trials)
      .def_ro("cost_initial", &droid::DenseBaReport::cost_initial)
      .def_ro("cost_final", &droid::DenseBaReport::cost_final);

  nb::class_<ProblemArrays>(m, "DenseBaProblem")
      .def(
          "__init__",
          [](ProblemArrays* self, Poses poses, Maps inv_depth, Scalars scales, ConstScalars intrinsics, Indices source,
             Indices target, ConstFlow flow_target, ConstFlow confidence, Mask pose_free, Mask depth_free,
             std::optional<ConstMaps> depth_damping, std::optional<ConstMaps> prior_depth,
             std::optional<ConstMaps> prior_weight, std::optional<ConstScalars> scale_anchor,
             std::optional<Cpu<const int64_t, nb::shape<-1, 2>>> baseline_pair,
             std::optional<ConstScalars> baseline_length, std::optional<ConstScalars> baseline_sigma,
             std::optional<Indices> scale_previous) {
            new (self) ProblemArrays{poses,          inv_depth,     scales,        intrinsics,   source,
                                     target,         flow_target,   confidence,    pose_free,    depth_free,
                                     depth_damping,  prior_depth,   prior_weight,  scale_anchor, baseline_length,
                                     baseline_sigma, baseline_pair, scale_previous};
            make_problem(*self);
          },
          nb::kw_only(), "poses"_a.noconvert(), "inv_depth"_a.noconvert(), "scales"_a.noconvert(),
          "intrinsics"_a.noconvert(), "source"_a.noconvert(), "target"_a.noconvert(), "flow_target"_a.noconvert(),
          "confidence"_a.noconvert(), "pose_free"_a.noconvert(), "depth_free"_a.noconvert(),
          "depth_damping"_a.noconvert() = nb::none(), "prior_depth"_a.noconvert() = nb::none(),
          "prior_weight"_a.noconvert() = nb::none(), "scale_anchor"_a.noconvert() = nb::none(),
          "baseline_pair"_a.noconvert() = nb::none(), "baseline_length"_a.noconvert() = nb::none(),
          "baseline_sigma"_a.noconvert() = nb::none(), "scale_previous"_a.noconvert() = nb::none());

  m.def(
      "solve_dense_ba",
      [](ProblemArrays& arrays, const droid::DenseBaOptions& options) {
        const auto P = make_problem(arrays, options);
        nb::gil_scoped_release release;
        return droid::solve_dense_ba(P, options);
      },
      "problem"_a, "options"_a);
  m.def(
      "dense_ba_step",
      [](ProblemArrays& arrays, const droid::DenseBaOptions& options, double ridge, double damping) {
        return droid::dense_ba_step(make_problem(arrays, options), options, ridge, damping);
      },
      "problem"_a, "options"_a, nb::kw_only(), "ridge"_a, "damping"_a);
  m.def(
      "dense_ba_cost",
      [](ProblemArrays& arrays, const droid::DenseBaOptions& options) {
        return droid::dense_ba_cost(make_problem(arrays, options), options);
      },
      "problem"_a, "options"_a);
  m.def(
      "reproject",
      [](Poses poses, Maps inv_depth, ConstScalars intrinsics, Indices source, Indices target,
         Cpu<double, nb::shape<-1, -1, -1, 2>> coords, Maps inv_depth_target, Cpu<bool, nb::shape<-1, -1, -1>> valid) {
        const auto P = geometry_problem(poses, inv_depth, intrinsics, source, target);
        require(coords.size() == size_t(2) * P.E * P.h * P.w && inv_depth_target.size() == size_t(P.E) * P.h * P.w &&
                    valid.size() == size_t(P.E) * P.h * P.w,
                "outputs must be [E, h, w, 2], [E, h, w] and [E, h, w]");
        droid::reproject(P, coords.data(), inv_depth_target.data(), valid.data());
      },
      "poses"_a.noconvert(), "inv_depth"_a.noconvert(), "intrinsics"_a.noconvert(), "source"_a.noconvert(),
      "target"_a.noconvert(), "coords"_a.noconvert(), "inv_depth_target"_a.noconvert(), "valid"_a.noconvert());
  m.def(
      "reproject_jacobians",
      [](Poses poses, Maps inv_depth, ConstScalars intrinsics, Indices source, Indices target,
         Cpu<double, nb::shape<-1, -1, -1, 2, 6>> Ji, Cpu<double, nb::shape<-1, -1, -1, 2, 6>> Jj,
         Cpu<double, nb::shape<-1, -1, -1, 2>> Jz) {
        const auto P = geometry_problem(poses, inv_depth, intrinsics, source, target);
        const size_t count = size_t(P.E) * P.h * P.w;
        require(Ji.size() == 12 * count && Jj.size() == 12 * count && Jz.size() == 2 * count,
                "outputs must be [E, h, w, 2, 6], [E, h, w, 2, 6] and [E, h, w, 2]");
        droid::reproject_jacobians(P, Ji.data(), Jj.data(), Jz.data());
      },
      "poses"_a.noconvert(), "inv_depth"_a.noconvert(), "intrinsics"_a.noconvert(), "source"_a.noconvert(),
      "target"_a.noconvert(), "Ji"_a.noconvert(), "Jj"_a.noconvert(), "Jz"_a.noconvert());
  // A system given by its parts, each [rows, columns] in a row of 36 numbers, on or below the diagonal; b becomes x.
  m.def(
      "solve_parts",
      [](Cpu<const int32_t, nb::shape<-1>> row, Cpu<const int32_t, nb::shape<-1>> column,
         Cpu<const int32_t, nb::shape<-1>> shape, Cpu<const double, nb::shape<-1, 36>> values, Scalars b) {
        const size_t parts = row.shape(0);
        require(column.shape(0) == parts && shape.shape(0) == parts && values.shape(0) == parts,
                "row, column, shape and values must have one entry per part");
        const int n = static_cast<int>(b.shape(0));
        std::vector<int> first(n);
        for (int i = 0; i < n; ++i) first[i] = i;
        for (size_t p = 0; p < parts; ++p) {
          const int begin = row.data()[p], end = begin + shape.data()[p] / 10, from = column.data()[p];
          require(begin >= 0 && end <= n && from >= 0 && from <= begin, "a part lies outside the lower triangle");
          for (int i = begin; i < end; ++i) first[i] = std::min(first[i], from);
        }
        nb::gil_scoped_release release;
        droid::EnvelopeMatrix matrix(first);
        for (size_t p = 0; p < parts; ++p) {
          const int rows = shape.data()[p] / 10, columns = shape.data()[p] % 10;
          matrix.add(row.data()[p], column.data()[p], rows, columns, values.data() + 36 * p, columns, 1.0);
        }
        return matrix.solve(b.data());
      },
      "row"_a.noconvert(), "column"_a.noconvert(), "shape"_a.noconvert(), "values"_a.noconvert(), "b"_a.noconvert());
  // For tests: solves A x = b with the envelope of A's own zeros; b becomes x, A is left as it is.
  m.def(
      "envelope_solve",
      [](Cpu<const double, nb::shape<-1, -1>> A, Scalars b) {
        const int n = static_cast<int>(A.shape(0));
        require(A.shape(1) == A.shape(0) && b.shape(0) == A.shape(0), "A must be [n, n] and b [n]");
        std::vector<int> first(n, 0);
        for (int i = 0; i < n; ++i)
          while (first[i] < i && A.data()[size_t(i) * n + first[i]] == 0.0) ++first[i];
        droid::EnvelopeMatrix matrix(first);
        for (int i = 0; i < n; ++i)
          matrix.add(i, first[i], 1, i - first[i] + 1, A.data() + size_t(i) * n + first[i], n, 1.0);
        return matrix.solve(b.data());
      },
      "A"_a.noconvert(), "b"_a.noconvert());
}
