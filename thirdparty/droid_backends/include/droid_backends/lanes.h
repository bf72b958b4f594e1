// Numbers that come one by one (double: GPU threads, tests) or four at a time (Lanes: the CPU loops). Formulas written
// as templates over S with these functions serve both.
#pragma once

#include <lietorch/se3.h>

#include <cmath>
#include <cstddef>
#include <new>

namespace droid {

LIE_HD double select(bool condition, double yes, double no) { return condition ? yes : no; }
LIE_HD bool all(bool condition) { return condition; }
LIE_HD double square_root(double x) { return sqrt(x); }
LIE_HD double log_one_plus(double x) { return log1p(x); }
LIE_HD double logarithm(double x) { return log(x); }

// Before a loop over a small array: its elements shall become registers.
#if defined(__CUDACC__)
#define DROID_UNROLL _Pragma("unroll")
#else
#define DROID_UNROLL _Pragma("GCC unroll 8")
#endif

#if !defined(__CUDACC__)

// GCC and clang turn operations on this type into vector instructions of whatever width the target has.
constexpr int kLanes = 4;
using Lanes = double __attribute__((vector_size(kLanes * sizeof(double))));
using LaneMask = decltype(Lanes{} < Lanes{});

#define DROID_INLINE inline __attribute__((always_inline))

DROID_INLINE Lanes select(const LaneMask& condition, const Lanes& yes, const Lanes& no) { return condition ? yes : no; }
DROID_INLINE bool any(const LaneMask& m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
DROID_INLINE bool all(const LaneMask& m) { return !any(~m); }
DROID_INLINE Lanes square_root(const Lanes& x) {
  return Lanes{__builtin_sqrt(x[0]), __builtin_sqrt(x[1]), __builtin_sqrt(x[2]), __builtin_sqrt(x[3])};
}
DROID_INLINE Lanes log_one_plus(const Lanes& x) {
  return Lanes{std::log1p(x[0]), std::log1p(x[1]), std::log1p(x[2]), std::log1p(x[3])};
}
DROID_INLINE Lanes logarithm(const Lanes& x) {
  return Lanes{std::log(x[0]), std::log(x[1]), std::log(x[2]), std::log(x[3])};
}
DROID_INLINE double sum(const Lanes& x) { return (x[0] + x[1]) + (x[2] + x[3]); }

// An array of zeros; std::vector does not align such elements.
class LaneArray {
 public:
  explicit LaneArray(std::size_t count)
      : data_(static_cast<Lanes*>(::operator new(count * sizeof(Lanes), kAlignment))) {
    for (std::size_t i = 0; i < count; ++i) data_[i] = Lanes();
  }
  ~LaneArray() { ::operator delete(data_, kAlignment); }
  LaneArray(const LaneArray&) = delete;
  LaneArray& operator=(const LaneArray&) = delete;
  Lanes& operator[](std::size_t i) { return data_[i]; }
  const Lanes& operator[](std::size_t i) const { return data_[i]; }

 private:
  static constexpr std::align_val_t kAlignment{sizeof(Lanes)};
  Lanes* data_;
};

// count (1..4) values; the rest is filled up.
DROID_INLINE Lanes load_lanes(const double* p, int count, double fill) {
  if (count >= kLanes) return Lanes{p[0], p[1], p[2], p[3]};
  return Lanes{p[0], count > 1 ? p[1] : fill, count > 2 ? p[2] : fill, fill};
}

// count pairs (x, y)
DROID_INLINE void load_pairs(const double* p, int count, Lanes& x, Lanes& y) {
  if (count >= kLanes) {
    x = Lanes{p[0], p[2], p[4], p[6]};
    y = Lanes{p[1], p[3], p[5], p[7]};
  } else {
    x = Lanes{p[0], count > 1 ? p[2] : 0.0, count > 2 ? p[4] : 0.0, 0.0};
    y = Lanes{p[1], count > 1 ? p[3] : 0.0, count > 2 ? p[5] : 0.0, 0.0};
  }
}

// Compiles a loop twice, for any x86-64 and for one with AVX2 and FMA; the loader picks. `flatten` inlines all calls.
// Not needed where the whole file is compiled for AVX2 (METRIC_SLAM_NATIVE).
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12 && !defined(__AVX2__)
#define DROID_HOT_LOOP __attribute__((flatten, target_clones("default", "arch=x86-64-v3")))
#else
#define DROID_HOT_LOOP
#endif

#endif  // !__CUDACC__

}  // namespace droid
