// Lookup that computes the correlations it needs (correlate.h).
#include <lietorch/gpu.h>

#include "correlate.h"

namespace droid::cuda {

namespace {

// Blocks of a multiprocessor: two leave 128 registers to a thread, which is just enough without guards of channels.
template <bool kWhole>
constexpr int kBlocksAtOnce = kWhole ? 2 : 1;

template <typename T, int R, bool kWhole>
__global__ void __launch_bounds__(kCorrelateThreads<Computed<T>>, kBlocksAtOnce<kWhole>)
    features_kernel(LookupSize size, EdgeFeatures<T> edges, const Computed<T>* coords, T* out) {
  GPU_DYNAMIC_SHARED(unsigned char, shared);
  const TileWindows<Computed<T>, R> windows(shared);
  const auto tile = tile_of_block<Computed<T>>(size);
  place_windows(size, windows, tile, coords, blockIdx.z);
  correlate<T, R, kWhole>(size, edges, blockIdx.z, tile, windows);
  write_entries<T>(size, windows, tile, blockIdx.z, out);
}

}  // namespace

template <typename T>
void lookup_features(const LookupSize& size, const EdgeFeatures<T>& edges, const Computed<T>* coords, T* out,
                     std::intptr_t stream) {
  with_radius(size.radius, [&](auto radius) {
    constexpr int R = decltype(radius)::value;
    const auto kernel = are_whole(edges) ? features_kernel<T, R, kHasWhole<T, R>> : features_kernel<T, R, false>;
    gpu::launch("lookup_features", kernel, tiles_of<Computed<T>>(size), kCorrelateThreads<Computed<T>>,
                TileWindows<Computed<T>, R>::kBytes, stream, size, edges, coords, out);
  });
}

#define INSTANTIATE(T) \
  template void lookup_features(const LookupSize&, const EdgeFeatures<T>&, const Computed<T>*, T*, std::intptr_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(Brain)
#undef INSTANTIATE

}  // namespace droid::cuda
