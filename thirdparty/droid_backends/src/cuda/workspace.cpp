#include "dense_ba.h"

namespace droid::cuda {

int64_t share_out(const WorkSizes& sizes, double* memory, Work& work) {
  constexpr int64_t kAligned = 16;  // doubles: rows begin where a GPU's memory transactions do
  static_assert(sizeof(EdgeGeometry) == 48 * sizeof(double), "an EdgeGeometry is an array of doubles");
  int64_t used = 0;
  const auto share = [&](int64_t count) {
    double* begin = memory ? memory + used : nullptr;
    used += (count + kAligned - 1) / kAligned * kAligned;
    return begin;
  };
  const int64_t warps = (sizes.pixels + 31) / 32;
  work.geometry = reinterpret_cast<EdgeGeometry*>(share(2 * 48 * sizes.edges));
  work.jacobians = share(6 * sizes.places_at_once * sizes.pixels);
  work.scale_jacobian = share(sizes.sources_at_once * sizes.pixels);
  work.depth_inverse = share(sizes.sources_at_once * sizes.pixels);
  work.depth_right = share(sizes.sources_at_once * sizes.pixels);
  work.edge_parts = share(32 * sizes.places_at_once * warps);
  work.source_parts = share(4 * sizes.sources_at_once * warps);
  work.edge_sums = share(32 * sizes.edges);
  work.raw = share(sizes.raw);
  work.raw_right = share(6 * sizes.edges + sizes.sources);
  work.local_H = share(sizes.local);
  work.local_G = share(sizes.local);
  work.local_right = share(2 * (6 * sizes.edges + 7 * sizes.sources));
  work.source_cost = share(sizes.sources);
  work.depth_decrease = share(sizes.sources);
  work.baselines = share(16 * sizes.baselines);
  work.edge_steps = share(6 * sizes.edges);
  return used;
}

}  // namespace droid::cuda
