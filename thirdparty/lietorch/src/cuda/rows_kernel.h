// One thread computes one row. Rows are 3 to 8 numbers wide, so that lanes which read their rows from the memory of the
// device would scatter over it: a warp fetches the 32 rows of its lanes as one piece into shared memory, each lane
// works there, and the results go back the same way. Warps do not wait for each other.
#pragma once

#include <lietorch/gpu.h>

#include "rows.h"

namespace lie::cuda {

constexpr int kThreads = 128;

// Numbers from one row to the next in shared memory: an odd count, for then lanes that read the same column of their
// rows are all on different banks.
constexpr int stride_of(int width) { return width | 1; }

// Where the rows of a warp begin that `numbers` numbers of other rows precede.
constexpr int room_of(int width) { return gpu::kWarp * stride_of(width); }

// Place in shared memory of a number of the piece that a warp fetches; neighbours stay neighbours within a row.
template <int WIDTH>
__device__ inline int place_of(int number) {
  if constexpr (stride_of(WIDTH) == WIDTH) return number;
  return number + number / WIDTH;
}

// Rows from the device into shared memory, `count` numbers; all are asked for before the first is waited for.
template <int WIDTH, typename S>
__device__ inline void fetch(const S* __restrict__ from, int count, int lane, S* own) {
  S held[WIDTH];
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    const int number = i * gpu::kWarp + lane;
    held[i] = number < count ? from[number] : S(0);
  }
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) own[place_of<WIDTH>(i * gpu::kWarp + lane)] = held[i];
}

template <int WIDTH, typename S>
__device__ inline void put_back(const S* own, int count, int lane, S* __restrict__ to) {
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    const int number = i * gpu::kWarp + lane;
    if (number < count) to[number] = own[place_of<WIDTH>(number)];
  }
}

template <typename Op, typename S>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(std::int64_t rows, const S* __restrict__ a, const S* __restrict__ b, S* __restrict__ out) {
  constexpr int kInputs = room_of(Op::A) + (Op::B > 0 ? room_of(Op::B) : 0), kOutput = room_of(Op::OUT);
  constexpr int kOfWarp = kInputs > kOutput ? kInputs : kOutput;
  GPU_SHARED(S, shared, kOfWarp * (kThreads / gpu::kWarp));
  const int lane = threadIdx.x % gpu::kWarp, warp = threadIdx.x / gpu::kWarp;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kThreads + warp * gpu::kWarp;
  const std::int64_t left = rows - first;
  const int here = static_cast<int>(left < 0 ? 0 : left < gpu::kWarp ? left : gpu::kWarp);
  S* own = shared + warp * kOfWarp;

  fetch<Op::A>(a + first * Op::A, here * Op::A, lane, own);
  if constexpr (Op::B > 0) fetch<Op::B>(b + first * Op::B, here * Op::B, lane, own + room_of(Op::A));
  __syncwarp();
  S row[Op::OUT];
  if (lane < here) Op::run(own + lane * stride_of(Op::A), own + room_of(Op::A) + lane * stride_of(Op::B), row);
  __syncwarp();  // the results go where the inputs were
  if (lane < here) {
#pragma unroll
    for (int k = 0; k < Op::OUT; ++k) own[lane * stride_of(Op::OUT) + k] = row[k];
  }
  __syncwarp();
  put_back<Op::OUT>(own, here * Op::OUT, lane, out + first * Op::OUT);
}

template <typename Op, typename S>
void launch_rows(std::int64_t rows, const S* a, const S* b, S* out, std::intptr_t stream) {
  gpu::launch("lietorch", rows_kernel<Op, S>, dim3(gpu::blocks(rows, kThreads)), kThreads, 0, stream, rows, a, b, out);
}

template <typename G, template <typename> class... OPS>
Launch<typename G::Scalar> launch_among(OperationList<OPS...>, int operation) {
  constexpr Launch<typename G::Scalar> all[] = {&launch_rows<OPS<G>, typename G::Scalar>...};
  return all[operation];
}

template <typename G>
Launch<typename G::Scalar> launch_of(int operation) {
  return launch_among<G>(Operations{}, operation);
}

}  // namespace lie::cuda
