// Lookup that computes the correlations it needs (correlate.h).
#include <lietorch/gpu.h>

#include "correlate.h"

namespace droid::cuda {

namespace {

// Blocks of a multiprocessor: four leave 128 registers to a thread, which is just enough without guards of channels.
template <typename T, bool kWhole>
constexpr int kBlocksAtOnce = kWhole && sizeof(T) <= sizeof(float) ? 4 : 3;

template <typename T, int R, bool kWhole>
__global__ void __launch_bounds__(kCorrelateThreads, kBlocksAtOnce<T, kWhole>)
    forward_kernel(LookupSize size, EdgeFeatures<T> edges, const Computed<T>* coords, int across, int tiles, T* out) {
  GPU_DYNAMIC_SHARED(unsigned char, shared);
  const TileWindows<Computed<T>, R> windows(shared);
  const TilePlace place(size, across, tiles);
  place_windows(size, windows, place.tile, coords, place.edge);
  correlate<T, R, kWhole>(size, edges, place.edge, place.tile, windows);
  write_entries<T>(size, windows, place.tile, place.edge, out);
}

template <typename T>
void forward(const LookupSize& size, const EdgeFeatures<T>& edges, const Computed<T>* coords, T* out,
             std::intptr_t stream) {
  const unsigned across = gpu::blocks(size.w, kTileWidth), tiles = across * gpu::blocks(size.h, kTileHeight);
  with_radius(size.radius, [&](auto radius) {
    constexpr int R = decltype(radius)::value;
    const auto kernel = are_whole(edges) ? forward_kernel<T, R, true> : forward_kernel<T, R, false>;
    gpu::launch("lookup_features", kernel, dim3(tiles * size.E), kCorrelateThreads,
                TileWindows<Computed<T>, R>::kBytes, stream, size, edges, coords, across, tiles, out);
  });
}

}  // namespace

template <typename T>
void lookup_features(const LookupSize& size, const EdgeFeatures<T>& edges, const Computed<T>* coords, T* out,
                     std::intptr_t stream) {
  forward(size, edges, coords, out, stream);
}

#define INSTANTIATE(T) \
  template void lookup_features(const LookupSize&, const EdgeFeatures<T>&, const Computed<T>*, T*, std::intptr_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(Brain)
#undef INSTANTIATE

}  // namespace droid::cuda
