// Distance, depth agreement and reprojection of pairs of keyframes with CUDA; formulas: droid_backends/view_pairs.h and
// pixel.h. All pointers are of the device, `stream` is a CUDA stream.
#pragma once

#include <cstdint>

#include <droid_backends/view_pairs.h>

namespace droid::cuda {

// As droid::frame_distance.
void frame_distance(const Views& views, const ViewPairs& pairs, double translation_weight, bool bidirectional,
                    double* distance, std::intptr_t stream);

// The pairs of K keyframes, sorted by keyframe: those of keyframe[k] have the targets row_begin[k] .. row_begin[k + 1].
struct KeyframePairs {
  int64_t K = 0;
  const int64_t* keyframe = nullptr;   // [K]
  const int64_t* row_begin = nullptr;  // [K + 1]
  const int64_t* target = nullptr;     // [P]
};

// As droid::depth_filter, which takes the pairs in any order; max_depth_error [K], count [K, h, w].
void depth_filter(const Views& views, const KeyframePairs& pairs, const double* max_depth_error, bool relative,
                  int32_t* count, std::intptr_t stream);

// As droid::reproject: coords [P, h, w, 2], inv_depth_target [P, h, w], valid [P, h, w].
void reproject(const Views& views, const ViewPairs& edges, double* coords, double* inv_depth_target, bool* valid,
               std::intptr_t stream);

// As droid::reproject_jacobians: Ji, Jj [P, h, w, 2, 6], Jz [P, h, w, 2].
void reproject_jacobians(const Views& views, const ViewPairs& edges, double* Ji, double* Jj, double* Jz,
                         std::intptr_t stream);

}  // namespace droid::cuda
