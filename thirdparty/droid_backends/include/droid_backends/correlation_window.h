// Bilinear reading of a square window of a correlation map: the only place where this formula is written.
//
// A window of radius R around a position (px, py) has entries at (px + dx, py + dy), |dx|, |dy| <= R. All of them share
// the fraction of the position, so (2R + 2)^2 whole cells hold all that is needed; cells outside the map are zero:
//
//     (x0, y0) = floor(px, py) - R ,   (fx, fy) = (px, py) - floor(px, py)
//     row(y, i) = cell(y, i) + fx (cell(y, i + 1) - cell(y, i))
//     out(i, j) = row(j, i) + fy (row(j + 1, i) - row(j, i))         i = dx + R, j = dy + R
//
// Cells are stored like the map, rows of x; in the output i, that is dx, is the slow index (layout of DROID-SLAM,
// droid_slam/modules/corr.py). S is float or double, or a pack of either for several pixels at once.
#pragma once

#include <lietorch/common.h>

namespace droid {

template <int R>
struct WindowSize {
  static constexpr int kCells = 2 * R + 2, kEntries = 2 * R + 1;  // per side
};

// Where the cells of a window are.
template <typename T>
struct Window {
  int x = 0, y = 0;   // first cell
  T fx = 0, fy = 0;   // fraction
  bool seen = false;  // false where no cell can lie in the map; there all else is 0
};

template <int R, typename T>
LIE_HD Window<T> window_at(T px, T py, int height, int width) {
  const T x0 = std::floor(px), y0 = std::floor(py);
  Window<T> window;
  // comparisons with NaN are false; a position that passes is small enough to be an integer
  window.seen = x0 >= T(-R - 1) && x0 < T(width + R) && y0 >= T(-R - 1) && y0 < T(height + R);
  if (!window.seen) return window;
  window.x = static_cast<int>(x0) - R;
  window.y = static_cast<int>(y0) - R;
  window.fx = px - x0;
  window.fy = py - y0;
  return window;
}

// cells [kCells, kCells] -> store(entry, value) for the entries i * kEntries + j of one i.
template <int R, typename S, typename Store>
LIE_HD void blend_column(int i, const S* cells, const S& fx, const S& fy, Store store) {
  constexpr int n = WindowSize<R>::kCells, m = WindowSize<R>::kEntries;
  S above = cells[i] + fx * (cells[i + 1] - cells[i]);
  for (int j = 0; j < m; ++j) {
    const S* row = cells + (j + 1) * n + i;
    const S below = row[0] + fx * (row[1] - row[0]);
    store(i * m + j, above + fy * (below - above));
    above = below;
  }
}

// The same for all entries.
template <int R, typename S, typename Store>
LIE_HD void blend_window(const S* cells, const S& fx, const S& fy, Store store) {
  for (int i = 0; i < WindowSize<R>::kEntries; ++i) blend_column<R>(i, cells, fx, fy, store);
}

// The transpose: load(entry), gradients of the entries, -> gradients of the cells.
template <int R, typename S, typename Load>
LIE_HD void blend_window_transposed(Load load, const S& fx, const S& fy, S* grad_cells) {
  constexpr int n = WindowSize<R>::kCells, m = WindowSize<R>::kEntries;
  for (int c = 0; c < n * n; ++c) grad_cells[c] = S();
  for (int i = 0; i < m; ++i) {
    S from_above = S();  // what the entry above leaves for this row
    for (int j = 0; j < n; ++j) {
      S grad_row = from_above;
      if (j < m) {
        const S grad = load(i * m + j);
        from_above = fy * grad;
        grad_row += grad - from_above;
      }
      const S to_right = fx * grad_row;
      grad_cells[j * n + i] += grad_row - to_right;
      grad_cells[j * n + i + 1] += to_right;
    }
  }
}

// Gradient of the position: the slopes of the entries times their gradients.
template <int R, typename S, typename Load>
LIE_HD void blend_window_slopes(const S* cells, Load load, const S& fx, const S& fy, S& grad_x, S& grad_y) {
  constexpr int n = WindowSize<R>::kCells, m = WindowSize<R>::kEntries;
  grad_x = grad_y = S();
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < m; ++j) {
      const S* c = cells + j * n + i;
      const S above = c[1] - c[0], below = c[n + 1] - c[n], left = c[n] - c[0], right = c[n + 1] - c[1];
      const S grad = load(i * m + j);
      grad_x += grad * (above + fy * (below - above));
      grad_y += grad * (left + fx * (right - left));
    }
}

}  // namespace droid
