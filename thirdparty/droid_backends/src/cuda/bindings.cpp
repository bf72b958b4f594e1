// The module droid_backends._droid_backends_cuda: the kernels on a GPU, each call on a stream of torch's. Private:
// metric_slam/optimization/cuda/kernels.py is the way to it. Names and arguments are those of the module for the CPU,
// and `stream`.
#include "bindings.h"

#include <lietorch/gpu_device.h>
#include <nanobind/stl/string.h>

namespace droid::cuda {

NB_MODULE(GPU_MODULE, m) {
  m.def("device_count", &gpu::device_count, "CUDA devices; 0 without a driver.");
  m.def("why_not", &gpu::why_not, nanobind::arg("device"), "Why a CUDA device is not usable; empty: it is.");
  bind_correlation(m);
  bind_dense_ba(m);
  bind_view_pairs(m);
}

}  // namespace droid::cuda
