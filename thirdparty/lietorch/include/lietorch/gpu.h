// What kernels are written with. nvcc makes them run on a GPU; any other compiler makes the same text run on the CPU,
// block by block and thread by thread (gpu_emulation.h), which is how they are tested on machines without a GPU.
//
//   __global__ void scale(int n, double factor, double* x) {...threadIdx, blockIdx, blockDim, gridDim...}
//   gpu::launch("scale", scale, gpu::blocks(n, 256), 256, 0, stream, n, factor, x);
//
// Every launch is checked. Blocks have a multiple of 32 threads. A barrier or an exchange between the lanes of a warp
// is reached by all threads of the block or warp; a thread that has nothing to do must not return before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include <lietorch/common.h>
#include <lietorch/gpu_device.h>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#elif defined(METRIC_SLAM_EMULATED)
#include <lietorch/gpu_emulation.h>
#else
#error "kernels are compiled by nvcc, or with METRIC_SLAM_EMULATED defined"
#endif

namespace gpu {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// A CUDA stream as torch hands it out: torch.cuda.current_stream().cuda_stream.
using Stream = std::intptr_t;

// How many blocks of `per_block` items hold n.
inline unsigned blocks(std::int64_t n, int per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }

#if defined(__CUDACC__)

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error) + " (CUDA " +
                             std::to_string(static_cast<int>(error)) + ")");
}

constexpr std::size_t kSharedWithoutAsking = 48 * 1024;

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t shared_bytes,
            Stream stream, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;  // nothing to do; CUDA calls it an error
  if (shared_bytes > kSharedWithoutAsking)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          name);
  kernel<<<grid, threads, shared_bytes, reinterpret_cast<cudaStream_t>(stream)>>>(
      static_cast<Parameters>(arguments)...);
  check(cudaGetLastError(), name);
}

template <typename T>
__device__ inline T shuffle_xor(T value, int lanes) {
  return __shfl_xor_sync(kAllLanes, value, lanes);
}
template <typename T>
__device__ inline T shuffle(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}

// A shared array of the block, and the one whose size the launch gives; one of each name in a kernel.
#define GPU_SHARED(T, name, count) __shared__ T name[count]
#define GPU_DYNAMIC_SHARED(T, name)                           \
  extern __shared__ __align__(16) unsigned char gpu_shared[]; \
  T* name = reinterpret_cast<T*>(gpu_shared)

#endif

// Sum over a warp, in the same order every time; every lane gets it.
template <typename T>
__device__ inline T warp_sum(T value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += shuffle_xor(value, lanes);
  return value;
}

// One step of transposed_warp_sum, and those after it. Sizes are known when it is compiled, so that the values can stay
// in registers.
template <int half, typename T>
__device__ inline void halve(T (&values)[kWarp]) {
  if constexpr (half > 0) {
    const bool upper = (threadIdx.x & half) != 0;
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int i = 0; i < half; ++i) {
      const T kept = upper ? values[i + half] : values[i], sent = upper ? values[i] : values[i + half];
      values[i] = kept + shuffle_xor(sent, half);
    }
    halve<half / 2>(values);
  }
}

// values [32] of all lanes -> lane l gets the sum of values[l] over the lanes. Each exchange halves what is left: 31 of
// them, where 32 sums one by one would take 160.
template <typename T>
__device__ inline T transposed_warp_sum(T (&values)[kWarp]) {
  halve<kWarp / 2>(values);
  return values[0];
}

// Sum over a block of at most 1024 threads, in the same order every time; thread 0 gets it. `scratch` [32] is shared
// and free again after the next barrier.
template <typename T>
__device__ inline T block_sum(T value, T* scratch) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int warps = (blockDim.x + kWarp - 1) / kWarp;
  value = warp_sum(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  T total = T();
  if (warp == 0) total = warp_sum(lane < warps ? scratch[lane] : T());
  __syncthreads();
  return total;
}

}  // namespace gpu
