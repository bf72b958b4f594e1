// Bindings of frame_distance and depth_filter; the documented surfaces are metric_slam/optimization/frame_distance.py
// and metric_slam/optimization/view_consistency.py.
#include "bindings.h"

#include <vector>

#include <droid_backends/view_pairs.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace droid {

namespace {

using ConstPoses = Cpu<const double, nb::shape<-1, 7>>;

Views views_of(const ConstPoses& poses, const ConstMaps& inv_depth, const ConstScalars& intrinsics) {
  require(inv_depth.shape(0) == poses.shape(0), "inv_depth and poses must have the same leading size N");
  require(intrinsics.shape(0) == 4, "intrinsics must be fx, fy, cx, cy");
  Views views;
  views.N = static_cast<int>(poses.shape(0));
  views.h = static_cast<int>(inv_depth.shape(1));
  views.w = static_cast<int>(inv_depth.shape(2));
  views.K = {intrinsics.data()[0], intrinsics.data()[1], intrinsics.data()[2], intrinsics.data()[3]};
  views.poses = poses.data();
  views.inv_depth = inv_depth.data();
  return views;
}

ViewPairs pairs_of(const Indices& source, const Indices& target, int N) {
  require(target.shape(0) == source.shape(0), "source and target must have the same length P");
  require_keyframes(source, N, "a pair names a keyframe outside 0..N-1");
  require_keyframes(target, N, "a pair names a keyframe outside 0..N-1");
  return {static_cast<int64_t>(source.shape(0)), source.data(), target.data()};
}

// Row of the counts that each pair belongs to.
std::vector<int64_t> rows_of(const Indices& keyframes, const ViewPairs& pairs, int N) {
  std::vector<int64_t> row_of(N, -1), rows;
  require_keyframes(keyframes, N, "keyframes names one outside 0..N-1");
  for (size_t k = 0; k < keyframes.shape(0); ++k) {
    require(row_of[keyframes.data()[k]] < 0, "keyframes names one twice");
    row_of[keyframes.data()[k]] = static_cast<int64_t>(k);
  }
  for (int64_t p = 0; p < pairs.P; ++p) {
    rows.push_back(row_of[pairs.source[p]]);
    require(rows.back() >= 0, "a pair starts at a keyframe that is not among keyframes");
  }
  return rows;
}

}  // namespace

void bind_view_pairs(nb::module_& m) {
  m.def(
      "frame_distance",
      [](ConstPoses poses, ConstMaps inv_depth, ConstScalars intrinsics, Indices source, Indices target,
         Cpu<double, nb::shape<-1>> distance, double translation_weight, bool bidirectional) {
        const Views views = views_of(poses, inv_depth, intrinsics);
        const ViewPairs pairs = pairs_of(source, target, views.N);
        require(distance.shape(0) == source.shape(0), "distance must have the length P of the pairs");
        require(translation_weight >= 0.0 && translation_weight <= 1.0, "translation_weight must be 0..1");
        nb::gil_scoped_release release;
        frame_distance(views, pairs, translation_weight, bidirectional, distance.data());
      },
      "poses"_a.noconvert(), "inv_depth"_a.noconvert(), "intrinsics"_a.noconvert(), "source"_a.noconvert(),
      "target"_a.noconvert(), "distance"_a.noconvert(), nb::kw_only(), "translation_weight"_a, "bidirectional"_a);
  m.def(
      "depth_filter",
      [](ConstPoses poses, ConstMaps inv_depth, ConstScalars intrinsics, Indices keyframes, Indices source,
         Indices target, ConstScalars max_depth_error, Cpu<int32_t, nb::shape<-1, -1, -1>> count, bool relative) {
        const Views views = views_of(poses, inv_depth, intrinsics);
        const ViewPairs pairs = pairs_of(source, target, views.N);
        const std::vector<int64_t> rows = rows_of(keyframes, pairs, views.N);
        const size_t K = keyframes.shape(0);
        require(max_depth_error.shape(0) == K, "max_depth_error must have one entry per keyframe");
        require(count.shape(0) == K && count.shape(1) == inv_depth.shape(1) && count.shape(2) == inv_depth.shape(2),
                "count must be [K, h, w]");
        nb::gil_scoped_release release;
        depth_filter(views, pairs, rows.data(), max_depth_error.data(), relative, static_cast<int64_t>(K),
                     count.data());
      },
      "poses"_a.noconvert(), "inv_depth"_a.noconvert(), "intrinsics"_a.noconvert(), "keyframes"_a.noconvert(),
      "source"_a.noconvert(), "target"_a.noconvert(), "max_depth_error"_a.noconvert(), "count"_a.noconvert(),
      nb::kw_only(), "relative"_a = false);
}

}  // namespace droid
