// Neighbouring pixels of a lookup, as many as there are numbers in a pack: what their windows share is done for all of
// them at once, in vector registers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include <droid_backends/correlation.h>
#include <droid_backends/correlation_window.h>
#include <droid_backends/lanes.h>

namespace droid {

constexpr int kPackBytes = 32;

template <typename T>
struct PackOf;
template <>
struct PackOf<float> {
  using type = float __attribute__((vector_size(kPackBytes)));
};
template <>
struct PackOf<double> {
  using type = double __attribute__((vector_size(kPackBytes)));
};
template <typename T>
using Pack = typename PackOf<T>::type;
template <typename T>
constexpr int kPack = kPackBytes / static_cast<int>(sizeof(T));

template <typename T>
DROID_INLINE Pack<T> load_pack(const T* p) {
  Pack<T> pack;
  std::memcpy(&pack, p, sizeof(pack));
  return pack;
}

template <typename T>
DROID_INLINE Pack<T> load_pack(const T* p, int count) {
  if (count >= kPack<T>) return load_pack(p);
  Pack<T> pack = {};
  for (int l = 0; l < count; ++l) pack[l] = p[l];
  return pack;
}

template <typename T>
DROID_INLINE void store_pack(const Pack<T>& pack, T* p, int count) {
  if (count >= kPack<T>)
    std::memcpy(p, &pack, sizeof(pack));
  else
    for (int l = 0; l < count; ++l) p[l] = pack[l];
}

// Up to kPack<T> pixels of one edge.
template <typename T, int R>
struct Strip {
  static constexpr int kCells = WindowSize<R>::kCells;

  int64_t first;  // pixel of the grid
  int count;
  Window<T> windows[kPack<T>];
  Pack<T> fx = {}, fy = {};

  DROID_INLINE Strip(const LookupSize& size, const T* coords, int64_t edge, int64_t first_pixel)
      : first(first_pixel), count(static_cast<int>(std::min<int64_t>(kPack<T>, size.pixels() - first_pixel))) {
    const T scale = size.scale<T>();
    const T* xy = coords + 2 * (edge * size.pixels() + first);
    for (int l = 0; l < count; ++l) {
      windows[l] = window_at<R>(scale * xy[2 * l], scale * xy[2 * l + 1], size.hk, size.wk);
      fx[l] = windows[l].fx, fy[l] = windows[l].fy;
    }
  }

  // Calls visit(j, y, begin, end) for the rows that lie in the map: row j of the cells is row y of the map, and of its
  // cells begin .. end-1 lie in the map.
  template <typename Visit>
  DROID_INLINE void rows_inside(int l, const LookupSize& size, Visit visit) const {
    const Window<T>& window = windows[l];
    if (!window.seen) return;
    const int begin = std::max(0, -window.x), end = std::min(kCells, size.wk - window.x);
    if (begin >= end) return;
    for (int j = std::max(0, -window.y); j < std::min(kCells, size.hk - window.y); ++j)
      visit(j, window.y + j, begin, end);
  }

  // Adds the gradient of the positions to that of the coords at this strip; slopes shrink with the level's scale.
  template <typename Load>
  DROID_INLINE void add_slopes(const LookupSize& size, const Pack<T>* cells, Load load, T* grad_coords) const {
    Pack<T> grad_x, grad_y;
    blend_window_slopes<R>(cells, load, fx, fy, grad_x, grad_y);
    const T scale = size.scale<T>();
    for (int l = 0; l < count; ++l) {
      grad_coords[2 * l] += scale * grad_x[l];
      grad_coords[2 * l + 1] += scale * grad_y[l];
    }
  }
};

constexpr int kStripsPerTask = 16;

// Calls body(edge, first strip's pixel, one past the last pixel) for blocks of pixels of all edges, on all threads.
template <typename T, typename Body>
void for_pixel_blocks(const LookupSize& size, Body body) {
  const int64_t block = kStripsPerTask * kPack<T>, blocks = (size.pixels() + block - 1) / block;
#pragma omp parallel for schedule(dynamic, 4)
  for (int64_t task = 0; task < size.E * blocks; ++task) {
    const int64_t begin = task % blocks * block;
    body(task / blocks, begin, std::min(begin + block, size.pixels()));
  }
}

}  // namespace droid
