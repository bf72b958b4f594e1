// The module lietorch._lietorch_cuda.
#include <nanobind/nanobind.h>

#include <lietorch/gpu_device.h>

NB_MODULE(GPU_MODULE, m) { m.def("device_count", &gpu::device_count); }
