// Gradients of the lookup that computes its correlations. Several edges add to the same features; whoever owns a
// feature gathers what concerns it, edge by edge in their order, so that nothing depends on who comes first. The edges
// of a keyframe are found by looking through all of them: there are few.
#include <lietorch/gpu.h>

#include "correlate.h"

namespace droid::cuda {

namespace {

// ---- positions

template <typename S, int R, bool kWhole>
__global__ void __launch_bounds__(kCorrelateThreads<S>)
    features_coords_kernel(LookupSize size, EdgeFeatures<S> edges, const S* coords, const S* grad_out, S* grad_coords) {
  GPU_DYNAMIC_SHARED(unsigned char, shared);
  const TileWindows<S, R> windows(shared);
  const auto tile = tile_of_block<S>(size);
  place_windows(size, windows, tile, coords, blockIdx.z);
  correlate<S, R, kWhole>(size, edges, blockIdx.z, tile, windows);
  add_slopes(size, windows, tile, blockIdx.z, grad_out, grad_coords);
}

// ---- features of the source: a block owns 32 pixels of a keyframe, a warp one of them at a time, lanes share channels

constexpr int kSourceThreads = 128;
constexpr int kSourcePixels = 32;

template <typename S, int R>
__device__ void add_of_pixel(const LookupSize& size, const Window<S>& at, const S* cells, const S* target, int C,
                             S* grad) {
  constexpr int side = WindowSize<R>::kCells;
  const CellBox box = CellBox::of_window(at, side, size);
  if (box.count() == 0) return;
  for (int c = threadIdx.x % gpu::kWarp; c < C; c += gpu::kWarp) {
    S sum = S();
    for (int y = box.y; y < box.y_end; ++y)
      for (int x = box.x; x < box.x_end; ++x)
        sum += cells[(y - at.y) * side + x - at.x] * target[(static_cast<int64_t>(y) * size.wk + x) * C + c];
    grad[c] += sum;
  }
}

template <typename S, int R>
__global__ void __launch_bounds__(kSourceThreads)
    features_source_kernel(LookupSize size, EdgeFeatures<S> edges, const S* coords, const S* grad_out, int blocks,
                           S* grad_source) {
  GPU_DYNAMIC_SHARED(unsigned char, shared);
  const Windows<S, R, kSourcePixels> windows(shared);
  const int64_t keyframe = blockIdx.x / blocks;
  const PixelRun<kSourcePixels> pixels{static_cast<int64_t>(blockIdx.x % blocks) * kSourcePixels, size.pixels()};
  for (int64_t edge = 0; edge < size.E; ++edge) {
    if (edges.source[edge] != keyframe) continue;
    place_windows(size, windows, pixels, coords, edge);
    gradients_of_cells(size, windows, pixels, edge, grad_out);  // by the thread that placed the window
    __syncthreads();
    const S* target = edges.features_target + edges.target[edge] * size.cells() * edges.C;
    for (int t = threadIdx.x / gpu::kWarp; t < kSourcePixels; t += kSourceThreads / gpu::kWarp) {
      const int64_t p = pixels.pixel(t);
      if (p < 0) continue;
      add_of_pixel<S, R>(size, windows.places[t], windows.cells_of(t), target, edges.C,
                         grad_source + (keyframe * size.pixels() + p) * edges.C);
    }
    __syncthreads();
  }
}

// ---- features of the target: a block owns 8 x 4 cells of some channels of a keyframe, a thread all cells of its
// channel. Who looks at the cells is found by placing all windows of an edge, as many at a time as there are threads.

constexpr int kTargetThreads = 64;
constexpr int kCellsWide = 8, kCellsHigh = 4, kOwnCells = kCellsWide * kCellsHigh;
constexpr int kSharePitch = kOwnCells + 4;  // keeps rows aligned to 16 bytes and off the same banks

template <typename S>
constexpr int kOwnChannels = 8 / static_cast<int>(sizeof(S));  // registers for the sums

template <typename S, int R>
constexpr std::size_t kTargetBytes =
    Windows<S, R, kTargetThreads>::kBytes + kTargetThreads * (kSharePitch * sizeof(S) + sizeof(int));

// The gradients of the owned cells from one window, 0 for those it does not see.
template <int R, typename S>
__device__ void share_cells(const Window<S>& at, const S* cells, int x, int y, S* share) {
  constexpr int side = WindowSize<R>::kCells;
  for (int c = 0; c < kOwnCells; ++c) {
    const int i = x + c % kCellsWide - at.x, j = y + c / kCellsWide - at.y;
    share[c] = i >= 0 && i < side && j >= 0 && j < side ? cells[j * side + i] : S();
  }
}

template <typename S, int R>
__global__ void __launch_bounds__(kTargetThreads, 6)
    features_target_kernel(LookupSize size, EdgeFeatures<S> edges, const S* coords, const S* grad_out, int across,
                           int tiles, int channel_blocks, S* grad_target) {
  constexpr int side = WindowSize<R>::kCells, own = kOwnChannels<S>;
  GPU_DYNAMIC_SHARED(unsigned char, shared);
  GPU_SHARED(int, seen_of_warp, kTargetThreads / gpu::kWarp);
  const Windows<S, R, kTargetThreads> windows(shared);
  S* shares = reinterpret_cast<S*>(shared + windows.kBytes);
  int* seen = reinterpret_cast<int*>(shares + kTargetThreads * kSharePitch);

  const int t = threadIdx.x, C = edges.C;
  const int channel = static_cast<int>(blockIdx.x % channel_blocks) * kTargetThreads * own + t;
  const int tile = static_cast<int>(blockIdx.x / channel_blocks % tiles);
  const int64_t keyframe = blockIdx.x / channel_blocks / tiles;
  const int x = tile % across * kCellsWide, y = tile / across * kCellsHigh;
  S sums[own][kOwnCells] = {};

  for (int64_t edge = 0; edge < size.E; ++edge) {
    if (edges.target[edge] != keyframe) continue;
    const S* features = edges.features_source + edges.source[edge] * size.pixels() * C;
    for (int64_t first = 0; first < size.pixels(); first += kTargetThreads) {
      const PixelRun<kTargetThreads> pixels{first, size.pixels()};
      place_windows(size, windows, pixels, coords, edge);
      const Window<S> at = windows.places[t];
      const bool sees = at.seen && at.x < x + kCellsWide && at.x + side > x && at.y < y + kCellsHigh && at.y + side > y;
      seen[t] = sees;
      if (sees) {
        blend_window_transposed<R>(EntryGradients<S>(size, grad_out, edge, first + t), at.fx, at.fy,
                                   windows.cells_of(t));
        share_cells<R>(at, windows.cells_of(t), x, y, shares + t * kSharePitch);
      }
      const int count = gpu::warp_sum(sees ? 1 : 0);
      if (t % gpu::kWarp == 0) seen_of_warp[t / gpu::kWarp] = count;
      __syncthreads();
      for (int other = 0; other < kTargetThreads; ++other) {
        if (other % gpu::kWarp == 0 && seen_of_warp[other / gpu::kWarp] == 0) {
          other += gpu::kWarp - 1;
          continue;
        }
        if (!seen[other]) continue;
        const S* share = shares + other * kSharePitch;
#pragma unroll
        for (int k = 0; k < own; ++k) {
          const int c = channel + k * kTargetThreads;
          const S feature = c < C ? features[(first + other) * C + c] : S();
#pragma unroll
          for (int cell = 0; cell < kOwnCells; ++cell) sums[k][cell] += share[cell] * feature;
        }
      }
      __syncthreads();
    }
  }
#pragma unroll
  for (int k = 0; k < own; ++k)
#pragma unroll
    for (int cell = 0; cell < kOwnCells; ++cell) {
      const int u = x + cell % kCellsWide, v = y + cell / kCellsWide, c = channel + k * kTargetThreads;
      if (u < size.wk && v < size.hk && c < C)
        grad_target[((keyframe * size.hk + v) * size.wk + u) * C + c] += sums[k][cell];
    }
}

template <typename S, int R>
void launch_coords(const LookupSize& size, const EdgeFeatures<S>& edges, const S* coords, const S* grad_out,
                   S* grad_coords, std::intptr_t stream) {
  const auto kernel =
      are_whole(edges) ? features_coords_kernel<S, R, kHasWhole<S, R>> : features_coords_kernel<S, R, false>;
  gpu::launch("lookup_features_backward", kernel, tiles_of<S>(size), kCorrelateThreads<S>, TileWindows<S, R>::kBytes,
              stream, size, edges, coords, grad_out, grad_coords);
}

template <typename S, int R>
void launch_target(const LookupSize& size, const EdgeFeatures<S>& edges, const S* coords, const S* grad_out,
                   S* grad_target, std::intptr_t stream) {
  const unsigned across = gpu::blocks(size.wk, kCellsWide), tiles = across * gpu::blocks(size.hk, kCellsHigh);
  const unsigned channel_blocks = gpu::blocks(edges.C, kTargetThreads * kOwnChannels<S>);
  gpu::launch("lookup_features_backward", features_target_kernel<S, R>, dim3(channel_blocks * tiles * edges.N_target),
              kTargetThreads, kTargetBytes<S, R>, stream, size, edges, coords, grad_out, across, tiles, channel_blocks,
              grad_target);
}

}  // namespace

template <typename T>
void lookup_features_backward(const LookupSize& size, const EdgeFeatures<T>& edges, const T* coords, const T* grad_out,
                              T* grad_source, T* grad_target, T* grad_coords, std::intptr_t stream) {
  with_radius(size.radius, [&](auto radius) {
    constexpr int R = decltype(radius)::value;
    if (grad_source) {
      const unsigned blocks = gpu::blocks(size.pixels(), kSourcePixels);
      gpu::launch("lookup_features_backward", features_source_kernel<T, R>, dim3(blocks * edges.N_source),
                  kSourceThreads, Windows<T, R, kSourcePixels>::kBytes, stream, size, edges, coords, grad_out, blocks,
                  grad_source);
    }
    if (grad_target) launch_target<T, R>(size, edges, coords, grad_out, grad_target, stream);
    if (grad_coords) launch_coords<T, R>(size, edges, coords, grad_out, grad_coords, stream);
  });
}

template void lookup_features_backward(const LookupSize&, const EdgeFeatures<float>&, const float*, const float*,
                                       float*, float*, float*, std::intptr_t);
template void lookup_features_backward(const LookupSize&, const EdgeFeatures<double>&, const double*, const double*,
                                       double*, double*, double*, std::intptr_t);

}  // namespace droid::cuda
