// The module lietorch._lietorch_cuda: the operations on a GPU, each call on a stream of torch's. Compiled once more for
// the emulation, whose "device" is the CPU.
#include <nanobind/stl/string.h>

#include "../bindings.h"

#include <lietorch/gpu_device.h>

#include "rows.h"

namespace {

struct Gpu {
#if defined(METRIC_SLAM_EMULATED)
  using Where = nanobind::device::cpu;
#else
  using Where = nanobind::device::cuda;
#endif

  template <template <typename> class OP, typename G>
  static void run(int device, std::size_t rows, lie::In<G> a, lie::In<G> b, lie::Out<G> out, std::intptr_t stream) {
    constexpr int number = lie::cuda::number_of<OP, G>(lie::Operations{});
    static_assert(number >= 0, "every operation must be one of Operations");
    gpu::use_device(device);
    lie::cuda::launch_of<G>(number)(static_cast<std::int64_t>(rows), a, b, out, stream);
  }
};

}  // namespace

NB_MODULE(GPU_MODULE, m) {
  m.def("why_not", &gpu::why_not, nanobind::arg("device"), "Why a CUDA device is not usable; empty: it is.");
  lie::Functions<Gpu, std::intptr_t>::define(m);
}
