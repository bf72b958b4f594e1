// Lookup that computes the correlations it needs: the scalar products of a pixel's features with those of the cells of
// its window, one row of the window at a time, so that each load of the pixel's features serves a whole row.
#include <vector>

#include "strips.h"

namespace droid {

namespace {

template <typename T>
DROID_INLINE T sum_of(const Pack<T>& pack) {
  T parts[kPack<T>];
  std::memcpy(parts, &pack, sizeof(pack));
  for (int half = kPack<T> / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) parts[l] += parts[l + half];
  return parts[0];
}

// products[i] = a . cell[i], each of C numbers
template <typename T, int n>
DROID_INLINE void scalar_products(const T* a, const T* const* cell, int C, T* products) {
  Pack<T> sums[n] = {};
  int c = 0;
  for (; c + kPack<T> <= C; c += kPack<T>) {
    const Pack<T> from_a = load_pack(a + c);
#pragma GCC unroll 10
    for (int i = 0; i < n; ++i) sums[i] += from_a * load_pack(cell[i] + c);
  }
#pragma GCC unroll 10
  for (int i = 0; i < n; ++i) products[i] = sum_of<T>(sums[i]);
  for (; c < C; ++c)
    for (int i = 0; i < n; ++i) products[i] += a[c] * cell[i][c];
}

template <typename T, int R>
DROID_INLINE void correlate(const LookupSize& size, const T* features, const T* target, int C, const Strip<T, R>& strip,
                            Pack<T>* cells) {
  constexpr int n = WindowSize<R>::kCells;
  for (int c = 0; c < n * n; ++c) cells[c] = Pack<T>();
  for (int l = 0; l < strip.count; ++l)
    strip.rows_inside(l, size, [&](int j, int y, int begin, int end) {
      const T* row[n];
      T products[n];
      for (int i = 0; i < n; ++i) {  // a cell outside lends one inside, whose product is not used
        const int inside = std::clamp(i, begin, end - 1);
        row[i] = target + (static_cast<int64_t>(y) * size.wk + strip.windows[l].x + inside) * C;
      }
      scalar_products<T, n>(features + (strip.first + l) * C, row, C, products);
      for (int i = begin; i < end; ++i) cells[j * n + i][l] = products[i];
    });
}

template <typename T>
DROID_INLINE const T* source_map(const LookupSize& size, const EdgeFeatures<T>& edges, int64_t edge) {
  return edges.features_source + edges.source[edge] * size.pixels() * edges.C;
}

template <typename T>
DROID_INLINE const T* target_map(const LookupSize& size, const EdgeFeatures<T>& edges, int64_t edge) {
  return edges.features_target + edges.target[edge] * size.cells() * edges.C;
}

template <typename T, int R>
DROID_HOT_LOOP void forward(const LookupSize size, const EdgeFeatures<T> edges, const T* coords, T* out, int64_t edge,
                            int64_t begin, int64_t end) {
  Pack<T> cells[WindowSize<R>::kCells * WindowSize<R>::kCells];
  const T *features = source_map(size, edges, edge), *target = target_map(size, edges, edge);
  for (int64_t first = begin; first < end; first += kPack<T>) {
    const Strip<T, R> strip(size, coords, edge, first);
    correlate(size, features, target, edges.C, strip, cells);
    T* to = out + (edge * size.channels + size.first_channel()) * size.pixels() + first;
    blend_window<R>(cells, strip.fx, strip.fy, [&](int entry, const Pack<T>& value) {
      store_pack(value, to + entry * size.pixels(), strip.count);
    });
  }
}

template <typename T>
DROID_INLINE void add_scaled(T factor, const T* __restrict from, T* __restrict to, int begin, int end) {
  for (int c = begin; c < end; ++c) to[c] += factor * from[c];
}

// Calls visit(pixel, cell of the target map, gradient of their correlation) for all that the strips of an edge read.
template <typename T, int R, typename Visit>
DROID_INLINE void visit_gradients(const LookupSize& size, const T* coords, const T* grad_out, int64_t edge,
                                  int64_t begin, int64_t end, Visit visit) {
  constexpr int n = WindowSize<R>::kCells;
  Pack<T> grad_cells[n * n];
  for (int64_t first = begin; first < end; first += kPack<T>) {
    const Strip<T, R> strip(size, coords, edge, first);
    const T* from = grad_out + (edge * size.channels + size.first_channel()) * size.pixels() + first;
    const auto load = [&](int entry) { return load_pack(from + entry * size.pixels(), strip.count); };
    blend_window_transposed<R>(load, strip.fx, strip.fy, grad_cells);
    for (int l = 0; l < strip.count; ++l)
      strip.rows_inside(l, size, [&](int j, int y, int i_begin, int i_end) {
        const int64_t row = static_cast<int64_t>(y) * size.wk + strip.windows[l].x;
        for (int i = i_begin; i < i_end; ++i) visit(first + l, row + i, grad_cells[j * n + i][l]);
      });
  }
}

template <typename T, int R>
DROID_HOT_LOOP void backward_source(const LookupSize size, const EdgeFeatures<T> edges, const T* coords,
                                    const T* grad_out, T* grad_source, int64_t edge, int64_t begin, int64_t end) {
  const T* target = target_map(size, edges, edge);
  T* grad = grad_source + edges.source[edge] * size.pixels() * edges.C;
  visit_gradients<T, R>(size, coords, grad_out, edge, begin, end, [&](int64_t pixel, int64_t cell, T factor) {
    add_scaled(factor, target + cell * edges.C, grad + pixel * edges.C, 0, edges.C);
  });
}

template <typename T, int R>
DROID_HOT_LOOP void backward_target(const LookupSize size, const EdgeFeatures<T> edges, const T* coords,
                                    const T* grad_out, T* grad_target, int64_t edge, int c_begin, int c_end) {
  const T* features = source_map(size, edges, edge);
  T* grad = grad_target + edges.target[edge] * size.cells() * edges.C;
  visit_gradients<T, R>(size, coords, grad_out, edge, 0, size.pixels(), [&](int64_t pixel, int64_t cell, T factor) {
    add_scaled(factor, features + pixel * edges.C, grad + cell * edges.C, c_begin, c_end);
  });
}

template <typename T, int R>
DROID_HOT_LOOP void backward_coords(const LookupSize size, const EdgeFeatures<T> edges, const T* coords,
                                    const T* grad_out, T* grad_coords, int64_t edge, int64_t begin, int64_t end) {
  Pack<T> cells[WindowSize<R>::kCells * WindowSize<R>::kCells];
  const T *features = source_map(size, edges, edge), *target = target_map(size, edges, edge);
  for (int64_t first = begin; first < end; first += kPack<T>) {
    const Strip<T, R> strip(size, coords, edge, first);
    correlate(size, features, target, edges.C, strip, cells);
    const T* from = grad_out + (edge * size.channels + size.first_channel()) * size.pixels() + first;
    const auto load = [&](int entry) { return load_pack(from + entry * size.pixels(), strip.count); };
    strip.add_slopes(size, cells, load, grad_coords + 2 * (edge * size.pixels() + first));
  }
}

// Edges of each of N keyframes at one of their ends.
std::vector<std::vector<int64_t>> edges_by_end(const int64_t* end, int E, int N) {
  std::vector<std::vector<int64_t>> groups(N);
  for (int64_t e = 0; e < E; ++e) groups[end[e]].push_back(e);
  return groups;
}

// Several edges add to the same features. A thread owns the pixels, or the channels, that it adds to and takes the
// edges in order, so sums do not depend on the threads.
template <typename T, int R>
void gradients_of_source(const LookupSize& size, const EdgeFeatures<T>& edges, const T* coords, const T* grad_out,
                         T* grad_source) {
  const auto groups = edges_by_end(edges.source, size.E, edges.N_source);
  const int64_t block = kStripsPerTask * kPack<T>, blocks = (size.pixels() + block - 1) / block;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t task = 0; task < edges.N_source * blocks; ++task) {
    const int64_t begin = task % blocks * block, end = std::min(begin + block, size.pixels());
    for (int64_t edge : groups[task / blocks])
      backward_source<T, R>(size, edges, coords, grad_out, grad_source, edge, begin, end);
  }
}

template <typename T, int R>
void gradients_of_target(const LookupSize& size, const EdgeFeatures<T>& edges, const T* coords, const T* grad_out,
                         T* grad_target) {
  constexpr int kChannels = 32;
  const auto groups = edges_by_end(edges.target, size.E, edges.N_target);
  const int blocks = (edges.C + kChannels - 1) / kChannels;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t task = 0; task < static_cast<int64_t>(edges.N_target) * blocks; ++task) {
    const int begin = static_cast<int>(task % blocks) * kChannels, end = std::min(begin + kChannels, edges.C);
    for (int64_t edge : groups[task / blocks])
      backward_target<T, R>(size, edges, coords, grad_out, grad_target, edge, begin, end);
  }
}

}  // namespace

template <typename T>
void lookup_features(const LookupSize& size, const EdgeFeatures<T>& edges, const T* coords, T* out) {
  with_radius(size.radius, [&](auto radius) {
    for_pixel_blocks<T>(size, [&](int64_t edge, int64_t begin, int64_t end) {
      forward<T, radius.value>(size, edges, coords, out, edge, begin, end);
    });
  });
}

template <typename T>
void lookup_features_backward(const LookupSize& size, const EdgeFeatures<T>& edges, const T* coords, const T* grad_out,
                              T* grad_source, T* grad_target, T* grad_coords) {
  with_radius(size.radius, [&](auto radius) {
    constexpr int R = radius.value;
    if (grad_source) gradients_of_source<T, R>(size, edges, coords, grad_out, grad_source);
    if (grad_target) gradients_of_target<T, R>(size, edges, coords, grad_out, grad_target);
    if (!grad_coords) return;
    for_pixel_blocks<T>(size, [&](int64_t edge, int64_t begin, int64_t end) {
      backward_coords<T, R>(size, edges, coords, grad_out, grad_coords, edge, begin, end);
    });
  });
}

template void lookup_features(const LookupSize&, const EdgeFeatures<float>&, const float*, float*);
template void lookup_features(const LookupSize&, const EdgeFeatures<double>&, const double*, double*);
template void lookup_features_backward(const LookupSize&, const EdgeFeatures<float>&, const float*, const float*,
                                       float*, float*, float*);
template void lookup_features_backward(const LookupSize&, const EdgeFeatures<double>&, const double*, const double*,
                                       double*, double*, double*);

}  // namespace droid
