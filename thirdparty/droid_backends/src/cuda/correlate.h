// Scalar products of the features of pixels with those of the cells of their windows.
//
// A window has (2R+2)^2 cells of C channels, so that reading every cell for every pixel would be limited by the 128
// bytes that a multiprocessor brings from its cache to registers in a clock: four multiplications need one number of
// the target. Neighbours look at nearly the same cells. Hence a quad of 2 x 2 pixels is the work of eight lanes: each
// keeps its share of the channels of the four pixels in registers, reads the same share of one cell after the other, in
// pieces of 16 bytes that make a full line of the cache with those of the other lanes, and multiplies it with all four.
// The cells are those of the rectangle around the four windows, (2R+3)^2 of a smooth flow; where windows lie apart, each
// has a turn of its own. The shares are added up crosswise: of eight sums, over 8 lanes, each lane receives one.
#pragma once

#include "lookup.h"

namespace droid::cuda {

constexpr int kQuad = 4;       // pixels, 2 x 2
constexpr int kQuadLanes = 8;
constexpr int kTileWidth = 16, kTileHeight = 4;  // pixels of a block, 8 x 2 of a warp
constexpr int kCorrelateThreads = 128;
constexpr int kPieceBytes = 16;

using CorrelateTile = PixelTile<kTileWidth, kTileHeight>;
template <typename S, int R>
using TileWindows = Windows<S, R, kTileWidth * kTileHeight>;

// Channels of a pixel that a lane keeps, 64 bytes, and that all lanes of a quad do.
template <typename S>
constexpr int kShare = 64 / static_cast<int>(sizeof(S));
template <typename S>
constexpr int kChannelsAtOnce = kQuadLanes * kShare<S>;
template <typename T>
constexpr int kPiece = kPieceBytes / static_cast<int>(sizeof(T));

template <typename T>
struct alignas(kPieceBytes) Piece {
  T part[kPiece<T>];
};

// A lane's share of the channels first ... of a pixel or cell. kWhole: there are as many channels as a quad takes at
// once, and pieces are aligned.
template <typename T, bool kWhole>
__device__ __forceinline__ void load_share(const T* from, int first, int C, int lane,
                                           Computed<T> (&share)[kShare<Computed<T>>]) {
  constexpr int pieces = kShare<Computed<T>> / kPiece<T>;
#pragma unroll
  for (int k = 0; k < pieces; ++k) {
    const int c = first + (k * kQuadLanes + lane) * kPiece<T>;
    if (kWhole) {
      const Piece<T> piece = *reinterpret_cast<const Piece<T>*>(from + c);
#pragma unroll
      for (int i = 0; i < kPiece<T>; ++i) share[k * kPiece<T> + i] = number(piece.part[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kPiece<T>; ++i) share[k * kPiece<T> + i] = c + i < C ? number(from[c + i]) : Computed<T>();
    }
  }
}

// sums [8] of each of the eight lanes of a quad -> the total over these lanes of the one that has the lane's number.
template <typename S>
__device__ __forceinline__ S crosswise_sum(S (&sums)[kQuadLanes], int lane) {
#pragma unroll
  for (int half = kQuadLanes / 2; half > 0; half /= 2) {
    const bool upper = (lane & half) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const S kept = upper ? sums[i + half] : sums[i], given = upper ? sums[i] : sums[i + half];
      sums[i] = kept + gpu::shuffle_xor(given, half);
    }
  }
  return sums[0];
}

// Cells of the map, row by row.
struct CellBox {
  int x = 0, y = 0, x_end = 0, y_end = 0;

  template <typename S>
  __device__ static CellBox of_window(const Window<S>& at, int side, const LookupSize& size) {
    if (!at.seen) return {};
    return {max_of(at.x, 0), max_of(at.y, 0), min_of(at.x + side, size.wk), min_of(at.y + side, size.hk)};
  }
  __device__ int count() const { return x < x_end && y < y_end ? (x_end - x) * (y_end - y) : 0; }
  __device__ void enclose(const CellBox& other) {
    if (other.count() == 0) return;
    if (count() == 0) *this = other;
    x = min_of(x, other.x), y = min_of(y, other.y);
    x_end = max_of(x_end, other.x_end), y_end = max_of(y_end, other.y_end);
  }
  __device__ static int min_of(int a, int b) { return a < b ? a : b; }
  __device__ static int max_of(int a, int b) { return a > b ? a : b; }
};

__device__ inline int largest_of_warp(int value) {
  for (int lanes = gpu::kWarp / 2; lanes > 0; lanes /= 2)
    value = CellBox::max_of(value, gpu::shuffle_xor(value, lanes));
  return value;
}

// Where a lane stands: its quad, and the pixel of it whose products it receives.
struct QuadLane {
  int lane, x, y;  // x, y of the quad's first pixel in the tile
  __device__ QuadLane() {
    const int warp = threadIdx.x / gpu::kWarp, in_warp = threadIdx.x % gpu::kWarp;
    lane = in_warp % kQuadLanes;
    x = warp % 2 * 8 + in_warp / kQuadLanes * 2;
    y = warp / 2 * 2;
  }
  __device__ int pixel_of_tile(int k) const { return (y + k / 2) * kTileWidth + x + k % 2; }
};

// The cells in `box` with all pixels of the quad; products of cells in the window of the lane's pixel go to `to`, those
// of the pixels whose turn it is not nowhere (null).
template <typename T, int R, bool kWhole>
__device__ __forceinline__ void correlate_box(const LookupSize& size, const T* target, int C, int first, int lane,
                                              const CellBox& box, const Window<Computed<T>>& own,
                                              const Computed<T> (&source)[kQuad][kShare<Computed<T>>],
                                              Computed<T>* to) {
  using S = Computed<T>;
  constexpr int side = WindowSize<R>::kCells;
  const int count = box.count(), most = largest_of_warp(count);
  const int next_row = size.wk - (box.x_end - box.x) + 1;  // from the last cell of a row to the first of the next
  int x = box.x, y = box.y, at = y * size.wk + x;
  for (int n = 0; n < most; n += 2) {
    S sums[2 * kQuad];
    int i = 0, j = 0;  // of the cell whose products the lane receives, in its own window
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      S cell[kShare<S>];
      load_share<T, kWhole>(target + static_cast<int64_t>(at) * C, first, C, lane, cell);
#pragma unroll
      for (int k = 0; k < kQuad; ++k) {
        S sum = S();
#pragma unroll
        for (int c = 0; c < kShare<S>; ++c) sum += source[k][c] * cell[c];
        sums[b * kQuad + k] = sum;
      }
      if (lane / kQuad == b) i = x - own.x, j = y - own.y;
      const bool more = n + b + 1 < count;  // else it reads the last one again, for nothing
      const bool wraps = ++x == box.x_end;
      at += !more ? 0 : wraps ? next_row : 1;
      if (wraps) x = box.x, ++y;
    }
    const S product = crosswise_sum(sums, lane);
    const bool mine = n + lane / kQuad < count && i >= 0 && i < side && j >= 0 && j < side;
    if (to == nullptr || !mine) continue;
    S* cell = to + j * side + i;
    *cell = first == 0 ? product : *cell + product;
  }
}

// The block fills the cells of its windows, which are placed. All threads of the block take part.
template <typename T, int R, bool kWhole>
__device__ void correlate(const LookupSize& size, const EdgeFeatures<T>& edges, int64_t edge, const CorrelateTile& tile,
                          const TileWindows<Computed<T>, R>& windows) {
  using S = Computed<T>;
  constexpr int side = WindowSize<R>::kCells;
  for (int n = threadIdx.x; n < windows.kPixels * windows.kPitch; n += kCorrelateThreads) windows.cells[n] = S();
  __syncthreads();

  const QuadLane quad;
  const int mine = quad.pixel_of_tile(quad.lane % kQuad);
  const Window<S> own = windows.places[mine];
  CellBox around;
  int apart = 0;  // cells that four turns take
  for (int k = 0; k < kQuad; ++k) {
    const auto box = CellBox::of_window(windows.places[quad.pixel_of_tile(k)], side, size);
    around.enclose(box);
    apart += box.count();
  }
  const bool together = around.count() <= apart;
  const int turns = largest_of_warp(together ? 1 : kQuad);

  const int C = kWhole ? kChannelsAtOnce<S> : edges.C;
  const T* target = edges.features_target + edges.target[edge] * size.cells() * C;
  const T* features = edges.features_source + edges.source[edge] * size.pixels() * C;
  for (int first = 0; first < C; first += kChannelsAtOnce<S>) {
    S source[kQuad][kShare<S>];
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {  // a pixel outside borrows the features of one inside and uses no product
      const int u = CellBox::min_of(tile.x + quad.x + k % 2, size.w - 1);
      const int v = CellBox::min_of(tile.y + quad.y + k / 2, size.h - 1);
      load_share<T, kWhole>(features + (static_cast<int64_t>(v) * size.w + u) * C, first, C, quad.lane, source[k]);
    }
    for (int turn = 0; turn < turns; ++turn) {
      CellBox box = around;
      if (!together) box = CellBox::of_window(windows.places[quad.pixel_of_tile(turn)], side, size);
      if (together && turn > 0) box = {};
      const bool receives = own.seen && (together || turn == quad.lane % kQuad);
      correlate_box<T, R, kWhole>(size, target, C, first, quad.lane, box, own, source,
                                  receives ? windows.cells_of(mine) : nullptr);
    }
  }
  __syncthreads();
}

// The tile of a block among those of all edges.
struct TilePlace {
  int64_t edge;
  CorrelateTile tile;
  __device__ TilePlace(const LookupSize& size, int across, int tiles)
      : edge(blockIdx.x / tiles),
        tile{static_cast<int>(blockIdx.x % tiles % across) * kTileWidth,
             static_cast<int>(blockIdx.x % tiles / across) * kTileHeight, size.w, size.h} {}
};

// Can lanes read whole pieces, without asking for each whether it exists? So with the 128 channels of the network.
template <typename T>
bool are_whole(const EdgeFeatures<T>& edges) {
  const auto aligned = [](const T* p) { return reinterpret_cast<std::uintptr_t>(p) % kPieceBytes == 0; };
  return edges.C == kChannelsAtOnce<Computed<T>> && aligned(edges.features_source) &&
         aligned(edges.features_target);
}

}  // namespace droid::cuda
