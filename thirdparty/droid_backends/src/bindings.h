// What the binding files share. Every array is .noconvert(): a silent copy of an in-place output would lose the result.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>

namespace droid {

template <typename T, typename... Extra>
using Cpu = nanobind::ndarray<T, nanobind::c_contig, nanobind::device::cpu, Extra...>;
using Indices = Cpu<const int64_t, nanobind::shape<-1>>;
using ConstScalars = Cpu<const double, nanobind::shape<-1>>;
using ConstMaps = Cpu<const double, nanobind::shape<-1, -1, -1>>;

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Every one of an array of keyframe numbers must be one of N.
inline void require_keyframes(const Indices& keyframes, size_t N, const char* message) {
  for (size_t i = 0; i < keyframes.shape(0); ++i)
    require(keyframes.data()[i] >= 0 && static_cast<size_t>(keyframes.data()[i]) < N, message);
}

void bind_correlation(nanobind::module_& m);
void bind_view_pairs(nanobind::module_& m);

}  // namespace droid
