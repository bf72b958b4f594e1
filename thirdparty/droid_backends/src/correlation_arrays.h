// Sizes, checks and views that the bindings of the correlation lookup for the CPU and for GPUs share.
#pragma once

#include "bindings.h"

#include <optional>

#include <droid_backends/correlation.h>

namespace droid {

constexpr int kMaxLevel = 15;

// Sizes and checks that both forms share; `out` [E, channels, h, w] is the output or its gradient, coords [E, h, w, 2].
template <typename Coords, typename Out>
LookupSize lookup_size(const Coords& coords, const Out& out, size_t hk, size_t wk, int level, int radius) {
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

// volume [E, h, w, hk, wk]
template <typename Volume, typename Coords, typename Out>
LookupSize volume_size(const Volume& volume, const Coords& coords, const Out& out, int level, int radius) {
  for (int axis = 0; axis < 3; ++axis)
    require(volume.shape(axis) == coords.shape(axis), "volume and coords must begin with the same E, h, w");
  return lookup_size(coords, out, volume.shape(3), volume.shape(4), level, radius);
}

// Whether source and target [E] name features is not checked here.
template <typename T, typename Features, typename Ends, typename Coords>
EdgeFeatures<T> edge_features(const Features& features_source, const Features& features_target, const Ends& source,
                              const Ends& target, const Coords& coords) {
  require(features_source.shape(1) == coords.shape(1) && features_source.shape(2) == coords.shape(2),
          "features_source must be [N, h, w, C] on the grid of coords");
  require(features_source.shape(3) == features_target.shape(3), "both features must have the same count of channels C");
  require(source.shape(0) == coords.shape(0) && target.shape(0) == coords.shape(0),
          "source and target must have the length E of coords");
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

}  // namespace droid
