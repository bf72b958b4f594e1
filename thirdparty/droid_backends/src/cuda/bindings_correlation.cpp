// Bindings of the correlation lookup on a GPU. Names and arguments are those for the CPU, and `stream`; whether source
// and target name features is the caller's to check.
#include <nanobind/stl/optional.h>

#include <lietorch/gpu_device.h>

#include "../correlation_arrays.h"
#include "bindings.h"
#include "correlation.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace nanobind::detail {

template <>
struct dtype_traits<droid::cuda::Half> {
  static constexpr dlpack::dtype value{static_cast<uint8_t>(dlpack::dtype_code::Float), 16, 1};
  static constexpr auto name = const_name("float16");
};
template <>
struct dtype_traits<droid::cuda::Brain> {
  static constexpr dlpack::dtype value{static_cast<uint8_t>(dlpack::dtype_code::Bfloat), 16, 1};
  static constexpr auto name = const_name("bfloat16");
};

}  // namespace nanobind::detail

namespace droid::cuda {

namespace {

template <typename T>
using Volume = Array<T, nb::shape<-1, -1, -1, -1, -1>>;
template <typename T>
using Features = Array<T, nb::shape<-1, -1, -1, -1>>;
template <typename T>
using Coords = Array<T, nb::shape<-1, -1, -1, 2>>;
template <typename T>
using Output = Array<T, nb::shape<-1, -1, -1, -1>>;

template <typename T>
void bind_forward(nb::module_& m) {
  m.def(
      "lookup_volume",
      [](Volume<const T> volume, Coords<const Computed<T>> coords, Output<T> out, int level, int radius,
         std::intptr_t stream) {
        const LookupSize size = volume_size(volume, coords, out, level, radius);
        gpu::use_device(coords.device_id());
        lookup_volume<T>(size, volume.data(), coords.data(), out.data(), stream);
      },
      "volume"_a.noconvert(), "coords"_a.noconvert(), "out"_a.noconvert(), nb::kw_only(), "level"_a, "radius"_a,
      "stream"_a);
  m.def(
      "lookup_features",
      [](Features<const T> features_source, Features<const T> features_target, Indices source, Indices target,
         Coords<const Computed<T>> coords, Output<T> out, int level, int radius, std::intptr_t stream) {
        const auto edges = edge_features<T>(features_source, features_target, source, target, coords);
        const LookupSize size =
            lookup_size(coords, out, features_target.shape(1), features_target.shape(2), level, radius);
        gpu::use_device(coords.device_id());
        lookup_features<T>(size, edges, coords.data(), out.data(), stream);
      },
      "features_source"_a.noconvert(), "features_target"_a.noconvert(), "source"_a.noconvert(), "target"_a.noconvert(),
      "coords"_a.noconvert(), "out"_a.noconvert(), nb::kw_only(), "level"_a, "radius"_a, "stream"_a);
}

template <typename T>
void bind_backward(nb::module_& m) {
  m.def(
      "lookup_volume_backward",
      [](Volume<const T> volume, Coords<const T> coords, Output<const T> grad_out, std::optional<Volume<T>> grad_volume,
         std::optional<Coords<T>> grad_coords, int level, int radius, std::intptr_t stream) {
        const LookupSize size = volume_size(volume, coords, grad_out, level, radius);
        T* to_volume = gradient_of<T>(grad_volume, volume, "grad_volume must have the shape of volume");
        T* to_coords = gradient_of<T>(grad_coords, coords, "grad_coords must have the shape of coords");
        gpu::use_device(coords.device_id());
        lookup_volume_backward<T>(size, volume.data(), coords.data(), grad_out.data(), to_volume, to_coords, stream);
      },
      "volume"_a.noconvert(), "coords"_a.noconvert(), "grad_out"_a.noconvert(),
      "grad_volume"_a.noconvert() = nb::none(), "grad_coords"_a.noconvert() = nb::none(), nb::kw_only(), "level"_a,
      "radius"_a, "stream"_a);
  m.def(
      "lookup_features_backward",
      [](Features<const T> features_source, Features<const T> features_target, Indices source, Indices target,
         Coords<const T> coords, Output<const T> grad_out, std::optional<Features<T>> grad_source,
         std::optional<Features<T>> grad_target, std::optional<Coords<T>> grad_coords, int level, int radius,
         std::intptr_t stream) {
        const auto edges = edge_features<T>(features_source, features_target, source, target, coords);
        const LookupSize size =
            lookup_size(coords, grad_out, features_target.shape(1), features_target.shape(2), level, radius);
        T* to_source = gradient_of<T>(grad_source, features_source, "grad_source must be like features_source");
        T* to_target = gradient_of<T>(grad_target, features_target, "grad_target must be like features_target");
        T* to_coords = gradient_of<T>(grad_coords, coords, "grad_coords must have the shape of coords");
        gpu::use_device(coords.device_id());
        lookup_features_backward<T>(size, edges, coords.data(), grad_out.data(), to_source, to_target, to_coords,
                                    stream);
      },
      "features_source"_a.noconvert(), "features_target"_a.noconvert(), "source"_a.noconvert(), "target"_a.noconvert(),
      "coords"_a.noconvert(), "grad_out"_a.noconvert(), "grad_source"_a.noconvert() = nb::none(),
      "grad_target"_a.noconvert() = nb::none(), "grad_coords"_a.noconvert() = nb::none(), nb::kw_only(), "level"_a,
      "radius"_a, "stream"_a);
}

}  // namespace

void bind_correlation(nb::module_& m) {
  bind_forward<float>(m);
  bind_forward<double>(m);
  bind_forward<Half>(m);
  bind_forward<Brain>(m);
  bind_backward<float>(m);
  bind_backward<double>(m);
}

}  // namespace droid::cuda
