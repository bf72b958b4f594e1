// Lookup in stored correlations. A block takes 64 neighbouring pixels: its threads first bring the cells of all their
// windows to shared memory, a row of a window at a time, so that lanes beside each other read numbers beside each
// other; then they blend and write, lanes beside each other for pixels beside each other.
#include <lietorch/gpu.h>

#include "lookup.h"

namespace droid::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kPixels = 64;

template <typename T, int R>
__device__ void load_cells(const LookupSize& size, const Windows<Computed<T>, R, kPixels>& windows, const T* maps) {
  constexpr int n = WindowSize<R>::kCells;
#pragma unroll 4
  for (int item = threadIdx.x; item < kPixels * n * n; item += kThreads) {
    const int t = item / (n * n), j = item % (n * n) / n, i = item % n;
    const auto& at = windows.places[t];
    const int64_t cell = t * size.cells() + static_cast<int64_t>(at.y + j) * size.wk + at.x + i;
    windows.cells_of(t)[j * n + i] = windows.inside(at, i, j, size) ? number(maps[cell]) : Computed<T>();
  }
}

// The place of a block among those of all edges.
struct Place {
  int64_t edge;
  PixelRun<kPixels> pixels;
  __device__ Place(const LookupSize& size, int blocks)
      : edge(blockIdx.x / blocks), pixels{static_cast<int64_t>(blockIdx.x % blocks) * kPixels, size.pixels()} {}
  __device__ int64_t maps(const LookupSize& size) const { return (edge * size.pixels() + pixels.first) * size.cells(); }
};

template <typename T, int R>
__global__ void __launch_bounds__(kThreads)
    volume_kernel(LookupSize size, const T* volume, const Computed<T>* coords, int blocks, T* out) {
  GPU_DYNAMIC_SHARED(unsigned char, shared);
  const Windows<Computed<T>, R, kPixels> windows(shared);
  const Place place(size, blocks);
  place_windows(size, windows, place.pixels, coords, place.edge);
  __syncthreads();
  load_cells(size, windows, volume + place.maps(size));
  __syncthreads();
  write_entries<T>(size, windows, place.pixels, place.edge, out);
}

template <typename S, int R>
__global__ void __launch_bounds__(kThreads)
    volume_backward_kernel(LookupSize size, const S* volume, const S* coords, const S* grad_out, int blocks,
                           S* grad_volume, S* grad_coords) {
  GPU_DYNAMIC_SHARED(unsigned char, shared);
  const Windows<S, R, kPixels> windows(shared);
  const Place place(size, blocks);
  place_windows(size, windows, place.pixels, coords, place.edge);
  __syncthreads();
  if (grad_coords) {
    load_cells(size, windows, volume + place.maps(size));
    __syncthreads();
    add_slopes(size, windows, place.pixels, place.edge, grad_out, grad_coords);
    __syncthreads();
  }
  if (!grad_volume) return;
  gradients_of_cells(size, windows, place.pixels, place.edge, grad_out);
  __syncthreads();
  constexpr int n = WindowSize<R>::kCells;
  for (int item = threadIdx.x; item < kPixels * n * n; item += kThreads) {
    const int t = item / (n * n), j = item % (n * n) / n, i = item % n;
    const auto& at = windows.places[t];
    if (!windows.inside(at, i, j, size)) continue;
    const int64_t cell = t * size.cells() + static_cast<int64_t>(at.y + j) * size.wk + at.x + i;
    grad_volume[place.maps(size) + cell] += windows.cells_of(t)[j * n + i];
  }
}

}  // namespace

template <typename T>
void lookup_volume(const LookupSize& size, const T* volume, const Computed<T>* coords, T* out, std::intptr_t stream) {
  const unsigned blocks = gpu::blocks(size.pixels(), kPixels);
  with_radius(size.radius, [&](auto radius) {
    constexpr int R = decltype(radius)::value;
    gpu::launch("lookup_volume", volume_kernel<T, R>, dim3(blocks * size.E), kThreads,
                Windows<Computed<T>, R, kPixels>::kBytes, stream, size, volume, coords, blocks, out);
  });
}

template <typename T>
void lookup_volume_backward(const LookupSize& size, const T* volume, const T* coords, const T* grad_out, T* grad_volume,
                            T* grad_coords, std::intptr_t stream) {
  const unsigned blocks = gpu::blocks(size.pixels(), kPixels);
  with_radius(size.radius, [&](auto radius) {
    constexpr int R = decltype(radius)::value;
    gpu::launch("lookup_volume_backward", volume_backward_kernel<T, R>, dim3(blocks * size.E), kThreads,
                Windows<T, R, kPixels>::kBytes, stream, size, volume, coords, grad_out, blocks, grad_volume,
                grad_coords);
  });
}

#define INSTANTIATE(T) template void lookup_volume(const LookupSize&, const T*, const Computed<T>*, T*, std::intptr_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(Brain)
#undef INSTANTIATE
template void lookup_volume_backward(const LookupSize&, const float*, const float*, const float*, float*, float*,
                                     std::intptr_t);
template void lookup_volume_backward(const LookupSize&, const double*, const double*, const double*, double*, double*,
                                     std::intptr_t);

}  // namespace droid::cuda
