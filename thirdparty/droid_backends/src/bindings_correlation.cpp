// Bindings of the correlation lookup; metric_slam/correspondence/droid/correlation.py is the documented surface.
#include <nanobind/stl/optional.h>

#include "correlation_arrays.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace droid {

namespace {

template <typename T>
using Volume = Cpu<T, nb::shape<-1, -1, -1, -1, -1>>;
template <typename T>
using Features = Cpu<T, nb::shape<-1, -1, -1, -1>>;
template <typename T>
using Coords = Cpu<T, nb::shape<-1, -1, -1, 2>>;
template <typename T>
using Output = Cpu<T, nb::shape<-1, -1, -1, -1>>;

template <typename T>
void bind_volume(nb::module_& m) {
  m.def(
      "lookup_volume",
      [](Volume<const T> volume, Coords<const T> coords, Output<T> out, int level, int radius) {
        const LookupSize size = volume_size(volume, coords, out, level, radius);
        nb::gil_scoped_release release;
        lookup_volume<T>(size, volume.data(), coords.data(), out.data());
      },
      "volume"_a.noconvert(), "coords"_a.noconvert(), "out"_a.noconvert(), nb::kw_only(), "level"_a, "radius"_a);
  m.def(
      "lookup_volume_backward",
      [](Volume<const T> volume, Coords<const T> coords, Output<const T> grad_out, std::optional<Volume<T>> grad_volume,
         std::optional<Coords<T>> grad_coords, int level, int radius) {
        const LookupSize size = volume_size(volume, coords, grad_out, level, radius);
        T* to_volume = gradient_of<T>(grad_volume, volume, "grad_volume must have the shape of volume");
        T* to_coords = gradient_of<T>(grad_coords, coords, "grad_coords must have the shape of coords");
        nb::gil_scoped_release release;
        lookup_volume_backward<T>(size, volume.data(), coords.data(), grad_out.data(), to_volume, to_coords);
      },
      "volume"_a.noconvert(), "coords"_a.noconvert(), "grad_out"_a.noconvert(),
      "grad_volume"_a.noconvert() = nb::none(), "grad_coords"_a.noconvert() = nb::none(), nb::kw_only(), "level"_a,
      "radius"_a);
}

template <typename T>
EdgeFeatures<T> checked_edges(const Features<const T>& features_source, const Features<const T>& features_target,
                              const Indices& source, const Indices& target, const Coords<const T>& coords) {
  const auto edges = edge_features<T>(features_source, features_target, source, target, coords);
  require_keyframes(source, features_source.shape(0), "source names features outside 0..N-1");
  require_keyframes(target, features_target.shape(0), "target names features outside 0..N-1");
  return edges;
}

template <typename T>
void bind_features(nb::module_& m) {
  m.def(
      "lookup_features",
      [](Features<const T> features_source, Features<const T> features_target, Indices source, Indices target,
         Coords<const T> coords, Output<T> out, int level, int radius) {
        const auto edges = checked_edges<T>(features_source, features_target, source, target, coords);
        const LookupSize size =
            lookup_size(coords, out, features_target.shape(1), features_target.shape(2), level, radius);
        nb::gil_scoped_release release;
        lookup_features<T>(size, edges, coords.data(), out.data());
      },
      "features_source"_a.noconvert(), "features_target"_a.noconvert(), "source"_a.noconvert(), "target"_a.noconvert(),
      "coords"_a.noconvert(), "out"_a.noconvert(), nb::kw_only(), "level"_a, "radius"_a);
  m.def(
      "lookup_features_backward",
      [](Features<const T> features_source, Features<const T> features_target, Indices source, Indices target,
         Coords<const T> coords, Output<const T> grad_out, std::optional<Features<T>> grad_source,
         std::optional<Features<T>> grad_target, std::optional<Coords<T>> grad_coords, int level, int radius) {
        const auto edges = checked_edges<T>(features_source, features_target, source, target, coords);
        const LookupSize size =
            lookup_size(coords, grad_out, features_target.shape(1), features_target.shape(2), level, radius);
        T* to_source = gradient_of<T>(grad_source, features_source, "grad_source must be like features_source");
        T* to_target = gradient_of<T>(grad_target, features_target, "grad_target must be like features_target");
        T* to_coords = gradient_of<T>(grad_coords, coords, "grad_coords must have the shape of coords");
        nb::gil_scoped_release release;
        lookup_features_backward<T>(size, edges, coords.data(), grad_out.data(), to_source, to_target, to_coords);
      },
      "features_source"_a.noconvert(), "features_target"_a.noconvert(), "source"_a.noconvert(), "target"_a.noconvert(),
      "coords"_a.noconvert(), "grad_out"_a.noconvert(), "grad_source"_a.noconvert() = nb::none(),
      "grad_target"_a.noconvert() = nb::none(), "grad_coords"_a.noconvert() = nb::none(), nb::kw_only(), "level"_a,
      "radius"_a);
}

}  // namespace

void bind_correlation(nb::module_& m) {
  bind_volume<float>(m);
  bind_volume<double>(m);
  bind_features<float>(m);
  bind_features<double>(m);
}

}  // namespace droid
