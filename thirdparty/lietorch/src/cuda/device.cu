// The device that launches go to.
#include <lietorch/gpu.h>

#if defined(__CUDACC__)

namespace gpu {

void use_device(int device) { check(cudaSetDevice(device), "choosing the device"); }

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // no driver or no device: not an error of what comes next
  return 0;
}

}  // namespace gpu

#endif
