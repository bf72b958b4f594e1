// Correlation lookup in the memory of a GPU; what it computes stands in droid_backends/correlation.h. All pointers are
// of the device, `stream` is a CUDA stream. Keyframe numbers of edges are trusted.
//
// Numbers are stored as T: float or double, as on the CPU, or Half or Brain, 16 bits each. What is computed with 16
// bits in is computed, and added up, in float; positions are float then.
#pragma once

#include <cstdint>

#include <droid_backends/correlation.h>

namespace droid::cuda {

struct Half {  // IEEE binary16
  uint16_t bits;
};
struct Brain {  // bfloat16: the upper half of a float
  uint16_t bits;
};

template <typename T>
struct ComputedAs {
  using type = T;
};
template <>
struct ComputedAs<Half> {
  using type = float;
};
template <>
struct ComputedAs<Brain> {
  using type = float;
};
template <typename T>
using Computed = typename ComputedAs<T>::type;

// As droid::lookup_volume; T of any type.
template <typename T>
void lookup_volume(const LookupSize& size, const T* volume, const Computed<T>* coords, T* out, std::intptr_t stream);

// As droid::lookup_volume_backward; T float or double, here and below.
template <typename T>
void lookup_volume_backward(const LookupSize& size, const T* volume, const T* coords, const T* grad_out, T* grad_volume,
                            T* grad_coords, std::intptr_t stream);

// As droid::lookup_features; T of any type.
template <typename T>
void lookup_features(const LookupSize& size, const EdgeFeatures<T>& edges, const Computed<T>* coords, T* out,
                     std::intptr_t stream);

// As droid::lookup_features_backward. Edges add to the gradient of a feature in their order: the same bits every time.
template <typename T>
void lookup_features_backward(const LookupSize& size, const EdgeFeatures<T>& edges, const T* coords, const T* grad_out,
                              T* grad_source, T* grad_target, T* grad_coords, std::intptr_t stream);

}  // namespace droid::cuda
