// The device that launches go to.
#include <lietorch/gpu.h>

#if defined(__CUDACC__)

namespace gpu {

void use_device(int device) { check(cudaSetDevice(device), "choosing the device"); }

namespace {

__global__ void probe_kernel() {}

}  // namespace

std::string why_not(int device) {
  cudaError_t error = cudaSetDevice(device);
  cudaFuncAttributes attributes;
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, probe_kernel);  // is there code for this GPU?
  cudaGetLastError();  // not an error of what comes next
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // no driver or no device: not an error of what comes next
  return 0;
}

}  // namespace gpu

#endif
