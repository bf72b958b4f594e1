// frame_distance and depth_filter in the memory of a GPU; the formulas stand in droid_backends/view_pairs.h.
#pragma once

#include <cstdint>

#include <droid_backends/view_pairs.h>

namespace droid::cuda {

// As droid::frame_distance; all pointers but those inside Views::K are of the device, `stream` is a CUDA stream.
void frame_distance(const Views& views, const ViewPairs& pairs, double translation_weight, bool bidirectional,
                    double* distance, std::intptr_t stream);

}  // namespace droid::cuda
