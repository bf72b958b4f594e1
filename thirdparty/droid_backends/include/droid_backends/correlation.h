// Correlation lookup of DROID-SLAM (Teed and Deng, 2021, section 3.2), in two forms that give the same numbers.
//
// The correlation of a source cell with a target cell is the scalar product of their features. Level k of the pyramid
// is the average over 2^k x 2^k target cells; it is read at coords / 2^k in a window of radius R, bilinearly and zero
// outside (correlation_window.h). A position that is NaN or far away reads zeros.
//
//   volume    all correlations of an edge are stored, [h, w, hk, wk]; a lookup reads (2R+2)^2 of them per pixel
//   features  nothing is stored; a lookup computes those (2R+2)^2 scalar products. Averaging features first gives the
//             averaged correlation, because the scalar product is linear. Features are channel-last.
//
// Each call does one level, and its entries become the channels level * (2R+1)^2 ... of `out`. Results do not depend on
// the number of threads. T is float or double.
#pragma once

#include <cstdint>
#include <type_traits>

#include <lietorch/common.h>

namespace droid {

constexpr int kMaxLookupRadius = 4;

struct LookupSize {
  int E = 0, h = 0, w = 0;    // edges, source grid
  int hk = 0, wk = 0;         // target grid of this level; may be 0
  int level = 0, radius = 3;  // radius 1..kMaxLookupRadius
  int channels = 0;           // of out, at least (level + 1) * (2 radius + 1)^2

  LIE_HD int64_t pixels() const { return static_cast<int64_t>(h) * w; }
  LIE_HD int64_t cells() const { return static_cast<int64_t>(hk) * wk; }
  LIE_HD int first_channel() const { return level * (2 * radius + 1) * (2 * radius + 1); }

  // From positions in cells of level 0 to those in cells of this level.
  template <typename T>
  LIE_HD T scale() const {
    return T(1) / static_cast<T>(int64_t(1) << level);
  }
};

// Calls run(std::integral_constant<int, R>) for the radius R that is only known now.
template <typename Run>
void with_radius(int radius, Run run) {
  static_assert(kMaxLookupRadius == 4, "one case for each radius");
  switch (radius) {
    case 1:
      return run(std::integral_constant<int, 1>());
    case 2:
      return run(std::integral_constant<int, 2>());
    case 3:
      return run(std::integral_constant<int, 3>());
    case 4:
      return run(std::integral_constant<int, 4>());
  }
}

// volume [E, h, w, hk, wk], coords [E, h, w, 2] (x, y) in cells of level 0, out [E, channels, h, w].
template <typename T>
void lookup_volume(const LookupSize& size, const T* volume, const T* coords, T* out);

// Adds to grad_volume and grad_coords, shaped like their inputs; either may be null.
template <typename T>
void lookup_volume_backward(const LookupSize& size, const T* volume, const T* coords, const T* grad_out, T* grad_volume,
                            T* grad_coords);

// Features of the two sides and which of them an edge joins.
template <typename T>
struct EdgeFeatures {
  int N_source = 0, N_target = 0, C = 0;
  const T* features_source = nullptr;  // [N_source, h, w, C]
  const T* features_target = nullptr;  // [N_target, hk, wk, C]
  const int64_t* source = nullptr;     // [E]
  const int64_t* target = nullptr;     // [E]
};

// coords and out as for volumes.
template <typename T>
void lookup_features(const LookupSize& size, const EdgeFeatures<T>& edges, const T* coords, T* out);

// Adds to the gradients, shaped like their inputs; any may be null.
template <typename T>
void lookup_features_backward(const LookupSize& size, const EdgeFeatures<T>& edges, const T* coords, const T* grad_out,
                              T* grad_source, T* grad_target, T* grad_coords);

}  // namespace droid
