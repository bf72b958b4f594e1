#include <lietorch/gpu_device.h>

#include "bindings.h"
#include "view_pairs.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace droid::cuda {

namespace {

Views views_of(const ConstPoses& poses, const ConstMaps& inv_depth, const HostIntrinsics& intrinsics) {
  require(inv_depth.shape(0) == poses.shape(0), "inv_depth and poses must have the same leading size N");
  Views views;
  views.N = static_cast<int>(poses.shape(0));
  views.h = static_cast<int>(inv_depth.shape(1));
  views.w = static_cast<int>(inv_depth.shape(2));
  views.K = intrinsics_of(intrinsics);
  views.poses = poses.data();
  views.inv_depth = inv_depth.data();
  return views;
}

ViewPairs pairs_of(const Indices& source, const Indices& target) {
  require(target.shape(0) == source.shape(0), "source and target must have the same length P");
  return {static_cast<int64_t>(source.shape(0)), source.data(), target.data()};
}

}  // namespace

void bind_view_pairs(nb::module_& m) {
  m.def(
      "frame_distance",
      [](ConstPoses poses, ConstMaps inv_depth, HostIntrinsics intrinsics, Indices source, Indices target,
         Array<double, nb::shape<-1>> distance, double translation_weight, bool bidirectional, std::intptr_t stream) {
        require(distance.shape(0) == source.shape(0), "distance must have the length P of the pairs");
        require(translation_weight >= 0.0 && translation_weight <= 1.0, "translation_weight must be 0..1");
        gpu::use_device(poses.device_id());
        frame_distance(views_of(poses, inv_depth, intrinsics), pairs_of(source, target), translation_weight,
                       bidirectional, distance.data(), stream);
      },
      "poses"_a.noconvert(), "inv_depth"_a.noconvert(), "intrinsics"_a.noconvert(), "source"_a.noconvert(),
      "target"_a.noconvert(), "distance"_a.noconvert(), nb::kw_only(), "translation_weight"_a, "bidirectional"_a,
      "stream"_a);
  m.def(
      "depth_filter",
      [](ConstPoses poses, ConstMaps inv_depth, HostIntrinsics intrinsics, Indices keyframes, Indices row_begin,
         Indices target, ConstScalars max_depth_error, Array<int32_t, nb::shape<-1, -1, -1>> count, bool relative,
         std::intptr_t stream) {
        const size_t K = keyframes.shape(0);
        require(row_begin.shape(0) == K + 1, "row_begin must have one entry more than keyframes");
        require(max_depth_error.shape(0) == K, "max_depth_error must have one entry per keyframe");
        require(count.shape(0) == K && count.shape(1) == inv_depth.shape(1) && count.shape(2) == inv_depth.shape(2),
                "count must be [K, h, w]");
        gpu::use_device(poses.device_id());
        depth_filter(views_of(poses, inv_depth, intrinsics),
                     {static_cast<int64_t>(K), keyframes.data(), row_begin.data(), target.data()},
                     max_depth_error.data(), relative, count.data(), stream);
      },
      "poses"_a.noconvert(), "inv_depth"_a.noconvert(), "intrinsics"_a.noconvert(), "keyframes"_a.noconvert(),
      "row_begin"_a.noconvert(), "target"_a.noconvert(), "max_depth_error"_a.noconvert(), "count"_a.noconvert(),
      nb::kw_only(), "relative"_a = false, "stream"_a);
  m.def(
      "reproject",
      [](ConstPoses poses, ConstMaps inv_depth, HostIntrinsics intrinsics, Indices source, Indices target,
         Array<double, nb::shape<-1, -1, -1, 2>> coords, Array<double, nb::shape<-1, -1, -1>> inv_depth_target,
         Array<bool, nb::shape<-1, -1, -1>> valid, std::intptr_t stream) {
        const Views views = views_of(poses, inv_depth, intrinsics);
        const ViewPairs edges = pairs_of(source, target);
        const size_t count = static_cast<size_t>(edges.P) * views.pixels();
        require(coords.size() == 2 * count && inv_depth_target.size() == count && valid.size() == count,
                "outputs must be [E, h, w, 2], [E, h, w] and [E, h, w]");
        gpu::use_device(poses.device_id());
        reproject(views, edges, coords.data(), inv_depth_target.data(), valid.data(), stream);
      },
      "poses"_a.noconvert(), "inv_depth"_a.noconvert(), "intrinsics"_a.noconvert(), "source"_a.noconvert(),
      "target"_a.noconvert(), "coords"_a.noconvert(), "inv_depth_target"_a.noconvert(), "valid"_a.noconvert(),
      nb::kw_only(), "stream"_a);
  m.def(
      "reproject_jacobians",
      [](ConstPoses poses, ConstMaps inv_depth, HostIntrinsics intrinsics, Indices source, Indices target,
         Array<double, nb::shape<-1, -1, -1, 2, 6>> Ji, Array<double, nb::shape<-1, -1, -1, 2, 6>> Jj,
         Array<double, nb::shape<-1, -1, -1, 2>> Jz, std::intptr_t stream) {
        const Views views = views_of(poses, inv_depth, intrinsics);
        const ViewPairs edges = pairs_of(source, target);
        const size_t count = static_cast<size_t>(edges.P) * views.pixels();
        require(Ji.size() == 12 * count && Jj.size() == 12 * count && Jz.size() == 2 * count,
                "outputs must be [E, h, w, 2, 6], [E, h, w, 2, 6] and [E, h, w, 2]");
        gpu::use_device(poses.device_id());
        reproject_jacobians(views, edges, Ji.data(), Jj.data(), Jz.data(), stream);
      },
      "poses"_a.noconvert(), "inv_depth"_a.noconvert(), "intrinsics"_a.noconvert(), "source"_a.noconvert(),
      "target"_a.noconvert(), "Ji"_a.noconvert(), "Jj"_a.noconvert(), "Jz"_a.noconvert(), nb::kw_only(), "stream"_a);
}

}  // namespace droid::cuda
