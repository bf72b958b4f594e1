// Products of small matrices by a warp on the tensor units of a GPU: D += A B, A [16, 16], B [16, 8], D [16, 8], of
// Half or Brain, added up in float. Lane 4 g + t holds, as PTX has it for mma.m16n8k16,
//
//   a[0] A(g, 2t..)   a[1] A(g + 8, 2t..)   a[2] A(g, 2t + 8..)   a[3] A(g + 8, 2t + 8..)   pairs, the first one low
//   b[0] B(2t.., g)   b[1] B(2t + 8.., g)
//   d[0] D(g, 2t)     d[1] D(g, 2t + 1)     d[2] D(g + 8, 2t)     d[3] D(g + 8, 2t + 1)
#pragma once

#include <type_traits>

#include "lookup.h"

namespace droid::cuda {

// Two numbers in one register.
__device__ __forceinline__ uint32_t pair_of(uint16_t first, uint16_t second) {
  return static_cast<uint32_t>(first) | static_cast<uint32_t>(second) << 16;
}

#if defined(__CUDACC__)

__device__ __forceinline__ uint32_t half_pair(float first, float second) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

template <typename T>
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if (std::is_same<T, Half>::value)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

inline uint32_t half_pair(float first, float second) {
  Half low, high;
  store_number(first, &low);
  store_number(second, &high);
  return pair_of(low.bits, high.bits);
}

// Every lane shows its parts and reads the row of A and the columns of B that its results need.
template <typename T>
void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  gpu::emulation::Block& block = *gpu::emulation::block;
  const int lane = gpu::emulation::lane(), g = lane / 4, t = lane % 4;
  const auto numbers = [](uint32_t pair, float* to) {
    to[0] = number(T{static_cast<uint16_t>(pair)});
    to[1] = number(T{static_cast<uint16_t>(pair >> 16)});
  };
  uint32_t parts[4];
  float A[2][16], B[2][16];  // rows g and g + 8, columns 2t and 2t + 1
  std::memcpy(block.slot(lane), a, sizeof(a));
  block.wait_for_warp();
  for (int q = 0; q < 4; ++q) {
    std::memcpy(parts, block.slot(4 * g + q), sizeof(a));
    for (int i = 0; i < 4; ++i) numbers(parts[i], &A[i % 2][2 * q + 8 * (i / 2)]);
  }
  block.next_exchange();
  std::memcpy(block.slot(lane), b, sizeof(b));
  block.wait_for_warp();
  for (int q = 0; q < 8; ++q) {
    std::memcpy(parts, block.slot(4 * (2 * t + q / 4) + q % 4), sizeof(b));
    for (int i = 0; i < 2; ++i) numbers(parts[i], &B[q / 4][2 * (q % 4) + 8 * i]);
  }
  block.next_exchange();
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 16; ++k) d[i] += A[i / 2][k] * B[i % 2][k];
}

#endif

}  // namespace droid::cuda
