// Bindings of the correlation lookup; metric_slam/correspondence/droid/correlation.py is the documented surface.
#include "bindings.h"

#include <nanobind/stl/optional.h>

#include <optional>

#include <droid_backends/correlation.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace droid {

namespace {

constexpr int kMaxLevel = 15;

template <typename T>
using Volume = Cpu<T, nb::shape<-1, -1, -1, -1, -1>>;
template <typename T>
using Features = Cpu<T, nb::shape<-1, -1, -1, -1>>;
template <typename T>
using Coords = Cpu<T, nb::shape<-1, -1, -1, 2>>;
template <typename T>
using Output = Cpu<T, nb::shape<-1, -1, -1, -1>>;

// Sizes and checks that both forms share; `out` is the output or its gradient.
template <typename T, typename Out>
LookupSize lookup_size(const Coords<const T>& coords, const Out& out, size_t hk, size_t wk, int level, int radius) {
  require(radius >= 1 && radius <= kMaxLookupRadius, "radius must be 1, 2, 3 or 4");
  require(level >= 0 && level <= kMaxLevel, "level must be 0..15");
  LookupSize size;
  size.E = static_cast<int>(coords.shape(0));
  size.h = static_cast<int>(coords.shape(1));
  size.w = static_cast<int>(coords.shape(2));
  size.hk = static_cast<int>(hk);
  size.wk = static_cast<int>(wk);
  size.level = level;
  size.radius = radius;
  size.channels = static_cast<int>(out.shape(1));
  require(out.shape(0) == coords.shape(0) && out.shape(2) == coords.shape(1) && out.shape(3) == coords.shape(2) &&
              size.channels >= size.first_channel() + (2 * radius + 1) * (2 * radius + 1),
          "the output must be [E, channels, h, w] with (2 radius + 1)^2 channels for each level up to this one");
  return size;
}

template <typename T, typename Gradient, typename Like>
T* gradient_of(std::optional<Gradient>& gradient, const Like& like, const char* message) {
  if (!gradient) return nullptr;
  for (size_t axis = 0; axis < like.ndim(); ++axis) require(gradient->shape(axis) == like.shape(axis), message);
  return gradient->data();
}

template <typename T, typename Out>
LookupSize volume_size(const Volume<const T>& volume, const Coords<const T>& coords, const Out& out, int level,
                       int radius) {
  for (int axis = 0; axis < 3; ++axis)
    require(volume.shape(axis) == coords.shape(axis), "volume and coords must begin with the same E, h, w");
  return lookup_size<T>(coords, out, volume.shape(3), volume.shape(4), level, radius);
}

template <typename T>
void bind_volume(nb::module_& m) {
  m.def(
      "lookup_volume",
      [](Volume<const T> volume, Coords<const T> coords, Output<T> out, int level, int radius) {
        const LookupSize size = volume_size<T>(volume, coords, out, level, radius);
        nb::gil_scoped_release release;
        lookup_volume<T>(size, volume.data(), coords.data(), out.data());
      },
      "volume"_a.noconvert(), "coords"_a.noconvert(), "out"_a.noconvert(), nb::kw_only(), "level"_a, "radius"_a);
  m.def(
      "lookup_volume_backward",
      [](Volume<const T> volume, Coords<const T> coords, Output<const T> grad_out, std::optional<Volume<T>> grad_volume,
         std::optional<Coords<T>> grad_coords, int level, int radius) {
        const LookupSize size = volume_size<T>(volume, coords, grad_out, level, radius);
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
EdgeFeatures<T> edge_features(const Features<const T>& features_source, const Features<const T>& features_target,
                              const Indices& source, const Indices& target, const Coords<const T>& coords) {
  require(features_source.shape(1) == coords.shape(1) && features_source.shape(2) == coords.shape(2),
          "features_source must be [N, h, w, C] on the grid of coords");
  require(features_source.shape(3) == features_target.shape(3), "both features must have the same count of channels C");
  require(source.shape(0) == coords.shape(0) && target.shape(0) == coords.shape(0),
          "source and target must have the length E of coords");
  require_keyframes(source, features_source.shape(0), "source names features outside 0..N-1");
  require_keyframes(target, features_target.shape(0), "target names features outside 0..N-1");
  EdgeFeatures<T> edges;
  edges.N_source = static_cast<int>(features_source.shape(0));
  edges.N_target = static_cast<int>(features_target.shape(0));
  edges.C = static_cast<int>(features_source.shape(3));
  edges.features_source = features_source.data();
  edges.features_target = features_target.data();
  edges.source = source.data();
  edges.target = target.data();
  return edges;
}

template <typename T>
void bind_features(nb::module_& m) {
  m.def(
      "lookup_features",
      [](Features<const T> features_source, Features<const T> features_target, Indices source, Indices target,
         Coords<const T> coords, Output<T> out, int level, int radius) {
        const auto edges = edge_features<T>(features_source, features_target, source, target, coords);
        const LookupSize size =
            lookup_size<T>(coords, out, features_target.shape(1), features_target.shape(2), level, radius);
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
        const auto edges = edge_features<T>(features_source, features_target, source, target, coords);
        const LookupSize size =
            lookup_size<T>(coords, grad_out, features_target.shape(1), features_target.shape(2), level, radius);
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
