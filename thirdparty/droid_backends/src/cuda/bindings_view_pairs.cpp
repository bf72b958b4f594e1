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
}

}  // namespace droid::cuda
