// Scalar products of the features of pixels with those of the cells of their windows.
//
// A window has (2R+2)^2 cells of C channels. Read by each pixel for itself, they would ask for four bytes from the
// cache with each multiplication, and a multiprocessor has registers filled with 128 bytes in a clock. But neighbours
// look at nearly the same cells. So a warp takes 4 x 4 pixels with all cells of the rectangle around their windows,
// (2R+5)^2 of a smooth flow, eight at a time, as a product of matrices [16, C] [C, 8] on the tensor units. The pixels'
// features stay in registers; each lane reads its share of a cell in pieces of 16 bytes. Where windows lie apart, quads
// of pixels, or single ones, have rectangles of their own.
//
// The units know 16 bits. A float is split into two Half, x = high + low, which keeps 22 of its 24 bits, or what is
// above 3e-8, and
//     x y = high high + high low + low high
// to as much; beyond 65504, where Half ends, the product is NaN. Half and Brain need no such thing. In double
// precision, for tests, threads multiply number by number.
#pragma once

#include "tensor_units.h"

namespace droid::cuda {

constexpr int kTileWidth = 16;  // pixels of a block, of which a warp has 4 x 4
template <typename S>
constexpr int kTileHeight = sizeof(S) == sizeof(double) ? 4 : 8;  // their windows take 100 KB at most
template <typename S>
constexpr int kCorrelateThreads = kTileWidth * kTileHeight<S> * gpu::kWarp / 16;
constexpr int kRows = 16, kColumns = 8, kDepth = 16;  // pixels, cells and channels of one product
constexpr int kChannelsAtOnce = 128, kSteps = kChannelsAtOnce / kDepth;
constexpr int kPieceBytes = 16;
template <typename T>
constexpr int kPiece = kPieceBytes / static_cast<int>(sizeof(T));

template <typename S>
using CorrelateTile = PixelTile<kTileWidth, kTileHeight<S>>;
template <typename S, int R>
using TileWindows = Windows<S, R, kTileWidth * kTileHeight<S>>;

// Do the tensor units multiply such numbers?
template <typename T>
constexpr bool kHasUnits = !std::is_same<T, double>::value;

// Is there an instance without guards of channels? Only for the radius of the network, or compiling would take twice as
// long.
template <typename T, int R>
constexpr bool kHasWhole = kHasUnits<T> && R == 3;

template <typename T>
struct alignas(kPieceBytes) Piece {
  T part[kPiece<T>];
};

// As pairs for the tensor units: those of the numbers, and for float what they leave.
template <typename T>
struct Parts {
  using Unit = T;
  static constexpr int kCount = 1;
  __device__ static void split(const T& first, const T& second, uint32_t (&pairs)[1]) {
    pairs[0] = pair_of(first.bits, second.bits);
  }
};
template <>
struct Parts<float> {
  using Unit = Half;
  static constexpr int kCount = 2;
  __device__ __forceinline__ static void split(float first, float second, uint32_t (&pairs)[2]) {
    pairs[0] = half_pair(first, second);
    pairs[1] = half_pair(first - number(Half{static_cast<uint16_t>(pairs[0])}),
                         second - number(Half{static_cast<uint16_t>(pairs[0] >> 16)}));
  }
};

// Of each product's 16 channels a lane t holds four, as two pairs. Which ones does not matter as long as it is the same
// for pixels and cells: those that it reads in one piece. This calls take(pair's number, pairs) for all of a pixel or
// cell. kWhole: there are kChannelsAtOnce channels, and pieces are aligned.
template <typename T, bool kWhole, typename Take>
__device__ __forceinline__ void take_pairs(const T* from, int first, int C, int t, Take take) {
#pragma unroll
  for (int k = 0; k < kChannelsAtOnce / 4 / kPiece<T>; ++k) {
    const int c = first + (k * 4 + t) * kPiece<T>;
    Piece<T> piece;
    if (kWhole) {
      piece = *reinterpret_cast<const Piece<T>*>(from + c);
    } else {
#pragma unroll
      for (int i = 0; i < kPiece<T>; ++i) piece.part[i] = c + i < C ? from[c + i] : T{};
    }
#pragma unroll
    for (int i = 0; i < kPiece<T>; i += 2) {
      uint32_t pairs[Parts<T>::kCount];
      Parts<T>::split(piece.part[i], piece.part[i + 1], pairs);
      take((k * kPiece<T> + i) / 2, pairs);
    }
  }
}

// Cells of the map, row by row.
struct CellBox {
  int x = 0, y = 0, x_end = 0, y_end = 0;

  template <typename S>
  __device__ static CellBox of_window(const Window<S>& at, int side, const LookupSize& size) {
    if (!at.seen) return {};
    return {max_of(at.x, 0), max_of(at.y, 0), min_of(at.x + side, size.wk), min_of(at.y + side, size.hk)};
  }
  __device__ int width() const { return x_end - x; }
  __device__ int count() const { return x < x_end && y < y_end ? width() * (y_end - y) : 0; }
  __device__ CellBox around(const CellBox& other) const {
    if (other.count() == 0) return *this;
    if (count() == 0) return other;
    return {min_of(x, other.x), min_of(y, other.y), max_of(x_end, other.x_end), max_of(y_end, other.y_end)};
  }
  __device__ CellBox of_lane(int lane) const {
    return {gpu::shuffle(x, lane), gpu::shuffle(y, lane), gpu::shuffle(x_end, lane), gpu::shuffle(y_end, lane)};
  }
  __device__ static int min_of(int a, int b) { return a < b ? a : b; }
  __device__ static int max_of(int a, int b) { return a > b ? a : b; }
};

// Row r of a warp's product is a pixel of the tile; four rows from a multiple of four on are a quad, 2 x 2.
struct TilePixel {
  int x, y;
  __device__ explicit TilePixel(int r)
      : x(warp() % 4 * 4 + r % 2 + r / 4 % 2 * 2), y(warp() / 4 * 4 + r / 2 % 2 + r / 8 * 2) {}
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / gpu::kWarp; }
  __device__ int number() const { return y * kTileWidth + x; }
};

// How the pixels of a warp share rectangles: 2^`log_rows` at a time, 16, 4 or 1.
struct Sharing {
  int log_rows;
  CellBox box;  // of the lane's row, lane % 16, and those with which it shares

  __device__ explicit Sharing(const CellBox& own) {
    CellBox quad = own;
    for (int lanes = 1; lanes < 4; lanes *= 2) quad = quad.around(beside(quad, lanes));
    CellBox all = quad;
    for (int lanes = 4; lanes < kRows; lanes *= 2) all = all.around(beside(all, lanes));
    const int apart = gpu::warp_sum(own.count()) / 2, in_quads = gpu::warp_sum(quad.count()) / 8;
    const bool together = all.count() <= in_quads && all.count() <= apart;
    log_rows = together ? 4 : in_quads <= apart ? 2 : 0;
    box = together ? all : in_quads <= apart ? quad : own;
  }
  __device__ static CellBox beside(const CellBox& box, int lanes) {
    return {gpu::shuffle_xor(box.x, lanes), gpu::shuffle_xor(box.y, lanes), gpu::shuffle_xor(box.x_end, lanes),
            gpu::shuffle_xor(box.y_end, lanes)};
  }
};

// Where the products of a pixel go.
struct Receiver {
  static constexpr int kNowhere = -(1 << 24);  // no window begins there

  int first = 0, x = kNowhere, y = 0;  // cell (0, 0) of its window, and where in the map that is

  template <int side>
  __device__ __forceinline__ void take(int cell_x, int cell_y, float product, bool add, float* cells) const {
    const int i = cell_x - x, j = cell_y - y;
    if (static_cast<unsigned>(i) >= side || static_cast<unsigned>(j) >= side) return;
    float* cell = cells + first + j * side + i;
    *cell = add ? *cell + product : product;
  }
};

// Of the two pixels whose features a lane holds, rows g and g + 8.
template <typename T>
struct SourcePairs {
  uint32_t of[Parts<T>::kCount][2][2 * kSteps];

  template <bool kWhole>
  __device__ __forceinline__ void load(int row, const T* from, int first, int C, int t) {
    take_pairs<T, kWhole>(from, first, C, t, [&](int n, const uint32_t (&pairs)[Parts<T>::kCount]) {
      for (int p = 0; p < Parts<T>::kCount; ++p) of[p][row][n] = pairs[p];
    });
  }
};

// The products of all pixels of the warp with the cells of a box, for two of them to receive, rows g and g + 8.
template <typename T, int side, bool kWhole>
__device__ __forceinline__ void multiply_box(const LookupSize& size, const T* target, int C, int first,
                                             const CellBox& box, const SourcePairs<T>& source,
                                             const Receiver (&receivers)[2], float* cells) {
  constexpr int parts = Parts<T>::kCount;
  const int lane = threadIdx.x % gpu::kWarp, g = lane / 4, t = lane % 4, count = box.count();
  if (count == 0) return;  // for all lanes
  int x = box.x + g % box.width(), y = box.y + g / box.width();
  for (int n = 0; n < count; n += kColumns) {
    float sums[parts][4] = {};                               // of the high parts, and of what they leave
    const int y_inside = CellBox::min_of(y, box.y_end - 1);  // beyond the last cell: read another, for nothing
    uint32_t cell[parts][2];
    take_pairs<T, kWhole>(target + (static_cast<int64_t>(y_inside) * size.wk + x) * C, first, C, t,
                          [&](int k, const uint32_t (&pairs)[parts]) {
                            for (int p = 0; p < parts; ++p) cell[p][k % 2] = pairs[p];
                            if (k % 2 == 0) return;
#pragma unroll
                            for (int kind = 0; kind < 2 * parts - 1; ++kind) {
                              const auto& of = source.of[kind / 2];
                              const uint32_t pixels[4] = {of[0][k - 1], of[1][k - 1], of[0][k], of[1][k]};
                              multiply_add<typename Parts<T>::Unit>(sums[kind ? parts - 1 : 0], pixels, cell[kind % 2]);
                            }
                          });
#pragma unroll
    for (int b = 0; b < 2; ++b) {  // columns 2t and 2t + 1, which other lanes have read
      const int holder = 4 * (2 * t + b);
      const int cell_x = gpu::shuffle(x, holder), cell_y = gpu::shuffle(y, holder);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float product = sums[0][2 * row + b];
        if (parts == 2) product += sums[parts - 1][2 * row + b];
        if (cell_y < box.y_end) receivers[row].template take<side>(cell_x, cell_y, product, first != 0, cells);
      }
    }
    for (x += kColumns; x >= box.x_end; x -= box.width()) ++y;
  }
}

// A warp fills the cells of the windows of its pixels.
template <typename T, int R, bool kWhole>
__device__ void multiply(const LookupSize& size, const T* features, const T* target, int channels,
                         const CorrelateTile<float>& tile, const TileWindows<float, R>& windows) {
  constexpr int side = WindowSize<R>::kCells;
  const int lane = threadIdx.x % gpu::kWarp, C = kWhole ? kChannelsAtOnce : channels;
  const Sharing sharing(CellBox::of_window(windows.places[TilePixel(lane % kRows).number()], side, size));
  for (int first = 0; first < C; first += kChannelsAtOnce) {
    SourcePairs<T> source;
#pragma unroll
    for (int row = 0; row < 2; ++row) {  // a pixel outside borrows the features of one inside and uses no product
      const TilePixel pixel(lane / 4 + 8 * row);
      const int u = CellBox::min_of(tile.x + pixel.x, size.w - 1), v = CellBox::min_of(tile.y + pixel.y, size.h - 1);
      source.template load<kWhole>(row, features + (static_cast<int64_t>(v) * size.w + u) * C, first, C, lane % 4);
    }
    for (int turn = 0; turn < kRows >> sharing.log_rows; ++turn) {
      Receiver receivers[2];
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int pixel = TilePixel(lane / 4 + 8 * row).number();
        const Window<float>& at = windows.places[pixel];
        const bool receives = at.seen && (lane / 4 + 8 * row) >> sharing.log_rows == turn;
        receivers[row] = {pixel * windows.kPitch, receives ? at.x : Receiver::kNowhere, at.y};
      }
      multiply_box<T, side, kWhole>(size, target, C, first, sharing.box.of_lane(turn << sharing.log_rows), source,
                                    receivers, windows.cells);
    }
  }
}

// The block fills the cells of its windows, which are placed by the same threads; they are there for all on return.
template <typename T, int R, bool kWhole>
__device__ void correlate(const LookupSize& size, const EdgeFeatures<T>& edges, int64_t edge,
                          const CorrelateTile<Computed<T>>& tile, const TileWindows<Computed<T>, R>& windows) {
  constexpr int side = WindowSize<R>::kCells, threads = kCorrelateThreads<Computed<T>>;
  const T* target = edges.features_target + edges.target[edge] * size.cells() * edges.C;
  const T* features = edges.features_source + edges.source[edge] * size.pixels() * edges.C;
  for (int n = threadIdx.x; n < windows.kPixels * windows.kPitch; n += threads) windows.cells[n] = Computed<T>();
  __syncthreads();
  if constexpr (!kHasUnits<T>) {
    for (int item = threadIdx.x; item < windows.kPixels * side * side; item += threads) {
      const int t = item / (side * side), j = item % (side * side) / side, i = item % side;
      const Window<double>& at = windows.places[t];
      if (!windows.inside(at, i, j, size)) continue;
      const double* cell = target + (static_cast<int64_t>(at.y + j) * size.wk + at.x + i) * edges.C;
      double sum = 0.0;
      for (int c = 0; c < edges.C; ++c) sum += features[tile.pixel(t) * edges.C + c] * cell[c];
      windows.cells_of(t)[j * side + i] = sum;
    }
  } else {
    multiply<T, R, kWhole>(size, features, target, edges.C, tile, windows);
  }
  __syncthreads();
}

// One block for each tile of each edge.
template <typename S>
dim3 tiles_of(const LookupSize& size) {
  constexpr int kMostEdges = 65535;  // of CUDA; what they read would not fit into the memory of a GPU
  if (size.E > kMostEdges) throw std::invalid_argument("a lookup takes at most 65535 edges at once");
  return dim3(gpu::blocks(size.w, kTileWidth), gpu::blocks(size.h, kTileHeight<S>), static_cast<unsigned>(size.E));
}

template <typename S>
__device__ CorrelateTile<S> tile_of_block(const LookupSize& size) {
  return {static_cast<int>(blockIdx.x) * kTileWidth, static_cast<int>(blockIdx.y) * kTileHeight<S>, size.w, size.h};
}

// Can lanes read whole pieces, without asking for each whether it exists? So with the 128 channels of the network.
template <typename T>
bool are_whole(const EdgeFeatures<T>& edges) {
  const auto aligned = [](const T* p) { return reinterpret_cast<std::uintptr_t>(p) % kPieceBytes == 0; };
  return edges.C == kChannelsAtOnce && aligned(edges.features_source) && aligned(edges.features_target);
}

}  // namespace droid::cuda
