// Lookup in stored correlations. Each pixel reads and changes only its own map, so pixels are independent.
#include "strips.h"

namespace droid {

namespace {

template <typename T, int R>
DROID_INLINE void load_cells(const LookupSize& size, const T* maps, const Strip<T, R>& strip, Pack<T>* cells) {
  constexpr int n = WindowSize<R>::kCells;
  for (int c = 0; c < n * n; ++c) cells[c] = Pack<T>();
  for (int l = 0; l < strip.count; ++l)
    strip.rows_inside(l, size, [&](int j, int y, int begin, int end) {
      const int64_t row = l * size.cells() + static_cast<int64_t>(y) * size.wk + strip.windows[l].x;
      for (int i = begin; i < end; ++i) cells[j * n + i][l] = maps[row + i];
    });
}

template <typename T, int R>
DROID_HOT_LOOP void forward(const LookupSize size, const T* volume, const T* coords, T* out, int64_t edge,
                            int64_t begin, int64_t end) {
  Pack<T> cells[WindowSize<R>::kCells * WindowSize<R>::kCells];
  for (int64_t first = begin; first < end; first += kPack<T>) {
    const Strip<T, R> strip(size, coords, edge, first);
    load_cells(size, volume + (edge * size.pixels() + first) * size.cells(), strip, cells);
    T* to = out + (edge * size.channels + size.first_channel()) * size.pixels() + first;
    blend_window<R>(cells, strip.fx, strip.fy, [&](int entry, const Pack<T>& value) {
      store_pack(value, to + entry * size.pixels(), strip.count);
    });
  }
}

template <typename T, int R>
DROID_HOT_LOOP void backward(const LookupSize size, const T* volume, const T* coords, const T* grad_out, T* grad_volume,
                             T* grad_coords, int64_t edge, int64_t begin, int64_t end) {
  constexpr int n = WindowSize<R>::kCells;
  Pack<T> cells[n * n];
  for (int64_t first = begin; first < end; first += kPack<T>) {
    const Strip<T, R> strip(size, coords, edge, first);
    const int64_t maps = (edge * size.pixels() + first) * size.cells();
    const T* from = grad_out + (edge * size.channels + size.first_channel()) * size.pixels() + first;
    const auto load = [&](int entry) { return load_pack(from + entry * size.pixels(), strip.count); };
    if (grad_coords) {
      load_cells(size, volume + maps, strip, cells);
      strip.add_slopes(size, cells, load, grad_coords + 2 * (edge * size.pixels() + first));
    }
    if (!grad_volume) continue;
    blend_window_transposed<R>(load, strip.fx, strip.fy, cells);
    for (int l = 0; l < strip.count; ++l)
      strip.rows_inside(l, size, [&](int j, int y, int i_begin, int i_end) {
        const int64_t row = maps + l * size.cells() + static_cast<int64_t>(y) * size.wk + strip.windows[l].x;
        for (int i = i_begin; i < i_end; ++i) grad_volume[row + i] += cells[j * n + i][l];
      });
  }
}

}  // namespace

template <typename T>
void lookup_volume(const LookupSize& size, const T* volume, const T* coords, T* out) {
  with_radius(size.radius, [&](auto radius) {
    for_pixel_blocks<T>(size, [&](int64_t edge, int64_t begin, int64_t end) {
      forward<T, radius.value>(size, volume, coords, out, edge, begin, end);
    });
  });
}

template <typename T>
void lookup_volume_backward(const LookupSize& size, const T* volume, const T* coords, const T* grad_out, T* grad_volume,
                            T* grad_coords) {
  with_radius(size.radius, [&](auto radius) {
    for_pixel_blocks<T>(size, [&](int64_t edge, int64_t begin, int64_t end) {
      backward<T, radius.value>(size, volume, coords, grad_out, grad_volume, grad_coords, edge, begin, end);
    });
  });
}

template void lookup_volume(const LookupSize&, const float*, const float*, float*);
template void lookup_volume(const LookupSize&, const double*, const double*, double*);
template void lookup_volume_backward(const LookupSize&, const float*, const float*, const float*, float*, float*);
template void lookup_volume_backward(const LookupSize&, const double*, const double*, const double*, double*, double*);

}  // namespace droid
