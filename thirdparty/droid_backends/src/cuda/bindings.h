// What the binding files of the GPU module share. They are compiled twice: for CUDA arrays, and for the emulation,
// whose "device" is the CPU. Every array is .noconvert(), as in ../bindings.h.
//
// Keyframe numbers of edges and pairs are in the memory of the device and are not checked there: whoever makes them
// checks them on the host (metric_slam/optimization/cuda/kernels.py).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>

#include <droid_backends/pixel.h>

namespace droid::cuda {

#if defined(METRIC_SLAM_EMULATED)
using Where = nanobind::device::cpu;
#else
using Where = nanobind::device::cuda;
#endif

// An array on the device, and a small one on the host.
template <typename T, typename... Extra>
using Array = nanobind::ndarray<T, nanobind::c_contig, Where, Extra...>;
template <typename T, typename... Extra>
using HostArray = nanobind::ndarray<T, nanobind::c_contig, nanobind::device::cpu, Extra...>;

using Indices = Array<const int64_t, nanobind::shape<-1>>;
using ConstPoses = Array<const double, nanobind::shape<-1, 7>>;
using ConstScalars = Array<const double, nanobind::shape<-1>>;
using ConstMaps = Array<const double, nanobind::shape<-1, -1, -1>>;
using HostIntrinsics = HostArray<const double, nanobind::shape<4>>;

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

inline Intrinsics intrinsics_of(const HostIntrinsics& K) {
  return {K.data()[0], K.data()[1], K.data()[2], K.data()[3]};
}

void bind_correlation(nanobind::module_& m);
void bind_dense_ba(nanobind::module_& m);
void bind_view_pairs(nanobind::module_& m);

}  // namespace droid::cuda
