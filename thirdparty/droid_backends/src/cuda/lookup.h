// What the kernels of both forms of the lookup share: numbers of any type, and the windows of the pixels of a block.
#pragma once

#include <cstring>

#include <lietorch/gpu.h>

#include <droid_backends/correlation_window.h>

#include "correlation.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace droid::cuda {

// ---- numbers as they are computed with

__device__ inline float number(float x) { return x; }
__device__ inline double number(double x) { return x; }

__device__ inline float number(Brain x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

__device__ inline void store_number(float x, float* to) { *to = x; }
__device__ inline void store_number(double x, double* to) { *to = x; }

__device__ inline void store_number(float x, Brain* to) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to the nearest, ties to even
  to->bits = static_cast<uint16_t>(x == x ? rounded : 0x7fc0u);
}

#if defined(__CUDACC__)
__device__ inline float number(Half x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline void store_number(float x, Half* to) { to->bits = __half_as_ushort(__float2half_rn(x)); }
#else
inline float number(Half x) {
  _Float16 half;
  std::memcpy(&half, &x, sizeof(half));
  return static_cast<float>(half);
}
inline void store_number(float x, Half* to) {
  const _Float16 half = static_cast<_Float16>(x);
  std::memcpy(to, &half, sizeof(half));
}
#endif

// ---- the windows of some pixels of an edge, in shared memory

template <typename S, int R, int kPixelCount>
struct Windows {
  static constexpr int kPixels = kPixelCount;
  static constexpr int kSide = WindowSize<R>::kCells;
  static constexpr int kPitch = (kSide * kSide) | 1;  // odd, so that threads for neighbouring pixels use all banks
  static constexpr std::size_t kBytes = kPixels * (kPitch * sizeof(S) + sizeof(Window<S>));

  S* cells;           // [kPixels, kPitch], of each the cells [kSide, kSide]
  Window<S>* places;  // [kPixels]

  __device__ explicit Windows(unsigned char* shared)
      : cells(reinterpret_cast<S*>(shared)),
        places(reinterpret_cast<Window<S>*>(shared + kPixels * kPitch * sizeof(S))) {}

  __device__ S* cells_of(int t) const { return cells + t * kPitch; }

  __device__ void place(int t, const LookupSize& size, const S* coords, int64_t edge, int64_t pixel) const {
    const S* xy = coords + 2 * (edge * size.pixels() + pixel);
    const S scale = size.scale<S>();
    places[t] = window_at<R>(scale * xy[0], scale * xy[1], size.hk, size.wk);
  }

  __device__ void place_nowhere(int t) const { places[t] = Window<S>(); }

  // Is cell (i, j) of a window a cell of the map?
  __device__ static bool inside(const Window<S>& at, int i, int j, const LookupSize& size) {
    return at.seen && at.x + i >= 0 && at.x + i < size.wk && at.y + j >= 0 && at.y + j < size.hk;
  }
};

// Neighbouring pixels in the order of the output, threads beside each other for pixels beside each other; -1: none.
template <int kPixels>
struct PixelRun {
  int64_t first, pixels;
  __device__ int64_t pixel(int t) const { return first + t < pixels ? first + t : -1; }
};

// A rectangle of the grid.
template <int kWidth, int kHeight>
struct PixelTile {
  int x, y, w, h;
  __device__ int64_t pixel(int t) const {
    const int u = x + t % kWidth, v = y + t / kWidth;
    return u < w && v < h ? static_cast<int64_t>(v) * w + u : -1;
  }
};

// The block places its windows.
template <typename S, int R, int n, typename Pixels>
__device__ void place_windows(const LookupSize& size, const Windows<S, R, n>& windows, const Pixels& pixels,
                              const S* coords, int64_t edge) {
  for (int t = threadIdx.x; t < n; t += blockDim.x) {
    const int64_t p = pixels.pixel(t);
    if (p < 0)
      windows.place_nowhere(t);
    else
      windows.place(t, size, coords, edge, p);
  }
}

// The block blends the cells of its windows; a thread takes one column of a window at a time.
template <typename T, int R, int n, typename Pixels>
__device__ void write_entries(const LookupSize& size, const Windows<Computed<T>, R, n>& windows, const Pixels& pixels,
                              int64_t edge, T* out) {
  using S = Computed<T>;
  for (int item = threadIdx.x; item < n * WindowSize<R>::kEntries; item += blockDim.x) {
    const int t = item % n;
    const int64_t p = pixels.pixel(t);
    if (p < 0) continue;
    T* to = out + (edge * size.channels + size.first_channel()) * size.pixels() + p;
    blend_column<R>(item / n, windows.cells_of(t), windows.places[t].fx, windows.places[t].fy,
                    [&](int entry, const S& value) { store_number(value, to + entry * size.pixels()); });
  }
}

// Gradients of the entries of a pixel, as the formulas of correlation_window.h load them.
template <typename S>
struct EntryGradients {
  const S* from;
  int64_t pixels;
  __device__ EntryGradients(const LookupSize& size, const S* grad_out, int64_t edge, int64_t pixel)
      : from(grad_out + (edge * size.channels + size.first_channel()) * size.pixels() + pixel), pixels(size.pixels()) {}
  __device__ S operator()(int entry) const { return from[entry * pixels]; }
};

// The block adds the gradients of its positions, a thread for each pixel; its windows hold the cells.
template <typename S, int R, int n, typename Pixels>
__device__ void add_slopes(const LookupSize& size, const Windows<S, R, n>& windows, const Pixels& pixels, int64_t edge,
                           const S* grad_out, S* grad_coords) {
  for (int t = threadIdx.x; t < n; t += blockDim.x) {
    const int64_t p = pixels.pixel(t);
    if (p < 0) continue;
    S grad_x, grad_y;
    blend_window_slopes<R>(windows.cells_of(t), EntryGradients<S>(size, grad_out, edge, p), windows.places[t].fx,
                           windows.places[t].fy, grad_x, grad_y);
    S* to = grad_coords + 2 * (edge * size.pixels() + p);
    to[0] += size.scale<S>() * grad_x;
    to[1] += size.scale<S>() * grad_y;
  }
}

// The block replaces the cells of its windows by their gradients.
template <typename S, int R, int n, typename Pixels>
__device__ void gradients_of_cells(const LookupSize& size, const Windows<S, R, n>& windows, const Pixels& pixels,
                                   int64_t edge, const S* grad_out) {
  for (int t = threadIdx.x; t < n; t += blockDim.x) {
    const int64_t p = pixels.pixel(t);
    if (p >= 0)
      blend_window_transposed<R>(EntryGradients<S>(size, grad_out, edge, p), windows.places[t].fx, windows.places[t].fy,
                                 windows.cells_of(t));
  }
}

}  // namespace droid::cuda
