// Pixels four at a time, in strips that fit the first-level cache, in chunks that are spread over the threads. The sums
// of a chunk do not depend on which thread makes them and are added in order, so results do not depend on the threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "pixel_terms.h"

namespace droid {

namespace {

constexpr int kStrip = 16;  // Lanes in a strip
constexpr int kChunkPixels = 16 * kStrip * kLanes;

struct Chunk {
  int block, begin, end;  // pixels begin .. end-1 of the block's keyframe
};

std::vector<Chunk> make_chunks(const std::vector<SourceBlock>& blocks, int pixels) {
  std::vector<Chunk> chunks;
  for (int s = 0; s < static_cast<int>(blocks.size()); ++s)
    for (int begin = 0; begin < pixels; begin += kChunkPixels)
      chunks.push_back({s, begin, std::min(begin + kChunkPixels, pixels)});
  return chunks;
}

double log_scale(const DenseBaProblem& P, int keyframe) { return P.scales ? P.scales[keyframe] : 0.0; }

bool has_scale(const Pass& pass) { return pass.opt.prior_mode == PriorMode::kMetric && pass.P.prior_depth; }

// Sums of one chunk, each still spread over lanes. Columns come in groups of three: two for an edge, and one for the
// scale, whose other two are zero.
struct ChunkSums {
  int edges, groups;       // no groups where the depths are fixed
  LaneArray H, v;          // [edges, 21] upper triangles, [edges, 6]
  LaneArray G, g;          // [groups, groups, 3, 3] upper blocks, [groups, 3]
  LaneArray E;             // [3 groups, kStrip] of the present strip
  std::vector<char> used;  // [groups]: is there anything in E?
  Lanes Hss{}, vs{}, cost{}, depth_decrease{};

  ChunkSums(int n, bool depths, bool scale)
      : edges(n),
        groups(depths ? 2 * n + (scale ? 1 : 0) : 0),
        H(kUpper6 * n),
        v(6 * n),
        G(9 * groups * groups),
        g(3 * groups),
        E(3 * groups * kStrip),
        used(groups) {}
};

// out [3, 3] += sum over the strip of a_i b_j
DROID_INLINE void add_outer(const Lanes* a, const Lanes* b, Lanes* out) {
  Lanes sum[9] = {};
  for (int l = 0; l < kStrip; ++l)
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) sum[3 * i + j] += a[i * kStrip + l] * b[j * kStrip + l];
  for (int i = 0; i < 9; ++i) out[i] += sum[i];
}

// G += E Q E^T, g += E Q b
DROID_INLINE void add_eliminated(const Lanes* Q, const Lanes* b, ChunkSums& sums) {
  for (int i = 0; i < sums.groups; ++i) {
    if (!sums.used[i]) continue;
    const Lanes* E = &sums.E[3 * i * kStrip];
    Lanes scaled[3 * kStrip];
    for (int a = 0; a < 3; ++a)
      for (int l = 0; l < kStrip; ++l) {
        scaled[a * kStrip + l] = Q[l] * E[a * kStrip + l];
        sums.g[3 * i + a] += scaled[a * kStrip + l] * b[l];
      }
    for (int j = i; j < sums.groups; ++j)
      if (sums.used[j]) add_outer(scaled, &sums.E[3 * j * kStrip], &sums.G[9 * (i * sums.groups + j)]);
  }
}

DROID_INLINE void linearise_strip(const Pass& pass, const SourceBlock& block, int begin, int end, ChunkSums& sums) {
  const bool depths = sums.groups > 0;
  const int lanes = (end - begin + kLanes - 1) / kLanes, k = block.keyframe;
  const double scale = log_scale(pass.P, k);
  Pixels px[kStrip];
  Lanes C[kStrip] = {}, b[kStrip] = {}, Q[kStrip] = {};
  std::fill(sums.used.begin(), sums.used.end(), 0);
  for (int l = 0; l < lanes; ++l) {
    px[l] = load_pixels(pass, k, begin + l * kLanes, end);
    Prior prior = {};
    const bool any_prior = prior_terms(pass, k, scale, px[l], prior);
    C[l] = prior.C, b[l] = prior.b;
    sums.Hss += prior.H, sums.vs += prior.v, sums.cost += prior.cost;
    if (sums.groups <= 2 * sums.edges) continue;  // no scale, or no depths to eliminate
    sums.E[6 * sums.edges * kStrip + l] = prior.E;
    if (any_prior) sums.used[2 * sums.edges] = 1;
  }
  for (int s = 0; s < sums.edges; ++s)
    for (int l = 0; l < lanes; ++l) {
      Flow f;
      if (!flow_terms<true>(pass, block.edges[s], px[l], f)) {
        for (int a = 0; a < 6 && depths; ++a) sums.E[(6 * s + a) * kStrip + l] = Lanes();
        continue;
      }
      sums.cost += f.cost;
      add_pose<Lanes>(f, &sums.H[kUpper6 * s], &sums.v[6 * s]);
      if (!depths) continue;
      const Lanes wx = f.wx * f.J.Jz[0], wy = f.wy * f.J.Jz[1];
#pragma GCC unroll 6
      for (int a = 0; a < 6; ++a) sums.E[(6 * s + a) * kStrip + l] = times_column<Lanes>(wx, wy, f.J, a);
      C[l] += wx * f.J.Jz[0] + wy * f.J.Jz[1];
      b[l] += wx * f.rx + wy * f.ry;
      sums.used[2 * s] = sums.used[2 * s + 1] = 1;
    }
  if (!depths) return;
  for (int l = 0; l < lanes; ++l) {
    Q[l] = damped_inverse(pass, k, px[l], C[l]);
    sums.depth_decrease += depth_decrease<Lanes>(pass.opt, px[l].d, Q[l], b[l]);
  }
  add_eliminated(Q, b, sums);
}

DROID_HOT_LOOP void linearise_chunk(const Pass pass, const SourceBlock& block, const Chunk& chunk, ChunkSums& sums) {
  for (int begin = chunk.begin; begin < chunk.end; begin += kStrip * kLanes)
    linearise_strip(pass, block, begin, std::min(begin + kStrip * kLanes, chunk.end), sums);
}

DROID_HOT_LOOP double chunk_cost(const Pass pass, const SourceBlock& block, const Chunk& chunk) {
  const double scale = log_scale(pass.P, block.keyframe);
  Lanes cost = {};
  for (int first = chunk.begin; first < chunk.end; first += kLanes) {
    const Pixels px = load_pixels(pass, block.keyframe, first, chunk.end);
    Prior prior;
    Flow f;
    if (prior_terms(pass, block.keyframe, scale, px, prior)) cost += prior.cost;
    for (int edge : block.edges)
      if (flow_terms<false>(pass, edge, px, f)) cost += f.cost;
  }
  return sum(cost);
}

// b - E^T step is summed edge by edge: Jz W (r - Jj step).
DROID_HOT_LOOP void substitute_chunk(const Pass pass, const SourceBlock& block, const Chunk& chunk, const double* step,
                                     bool clamp) {
  const int n = static_cast<int>(block.edges.size());
  const double scale = log_scale(pass.P, block.keyframe);
  double* d = pass.P.inv_depth + static_cast<int64_t>(block.keyframe) * pass.pixels();
  for (int first = chunk.begin; first < chunk.end; first += kLanes) {
    const Pixels px = load_pixels(pass, block.keyframe, first, chunk.end);
    Lanes C = {}, right = {};
    Prior prior;
    if (prior_terms(pass, block.keyframe, scale, px, prior))
      C = prior.C, right = prior.b - prior.E * step[block.scale_column()];
    for (int s = 0; s < n; ++s) {
      Flow f;
      if (!flow_terms<true>(pass, block.edges[s], px, f)) continue;
      f.rx -= f.J.Jj[0][0] * step[6 * s], f.ry -= f.J.Jj[1][1] * step[6 * s + 1];
      for (int a = 2; a < 6; ++a) f.rx -= f.J.Jj[0][a] * step[6 * s + a], f.ry -= f.J.Jj[1][a] * step[6 * s + a];
      const Lanes wx = f.wx * f.J.Jz[0], wy = f.wy * f.J.Jz[1];
      C += wx * f.J.Jz[0] + wy * f.J.Jz[1];
      right += wx * f.rx + wy * f.ry;
    }
    const Lanes moved = px.d + damped_inverse(pass, block.keyframe, px, C) * right;
    for (int l = 0; l < px.count; ++l)
      d[first + l] = clamp ? std::clamp(moved[l], pass.opt.min_inv_depth, pass.opt.max_inv_depth) : moved[l];
  }
}

// Column of the block that element a of a group stands for, or -1.
int column_of(const ChunkSums& sums, int group, int a) {
  const int column = 3 * group + a;
  return column <= 6 * sums.edges ? column : -1;
}

SourceSums zero_sums(int columns) {
  const size_t m = columns;
  return {
      std::vector<double>(m * m), std::vector<double>(m), std::vector<double>(m * m), std::vector<double>(m), 0.0, 0.0};
}

// The sums over lanes, in the order of the block's columns.
SourceSums gathered(const ChunkSums& sums, int m) {
  SourceSums out = zero_sums(m);
  for (int s = 0; s < sums.edges; ++s) {
    const Lanes* H = &sums.H[kUpper6 * s];
    for (int a = 0; a < 6; ++a) {
      out.v[6 * s + a] = sum(sums.v[6 * s + a]);
      for (int b = a; b < 6; ++b)
        out.H[(6 * s + a) * m + 6 * s + b] = out.H[(6 * s + b) * m + 6 * s + a] = sum(H[upper6(a, b)]);
    }
  }
  out.H[m * m - 1] = sum(sums.Hss);
  out.v[m - 1] = sum(sums.vs);
  out.cost = sum(sums.cost);
  out.depth_decrease = sum(sums.depth_decrease);
  for (int i = 0; i < 3 * sums.groups; ++i) {
    const int row = column_of(sums, i / 3, i % 3);
    if (row < 0) continue;
    out.g[row] = sum(sums.g[i]);
    for (int j = 3 * (i / 3); j < 3 * sums.groups; ++j) {
      const int column = column_of(sums, j / 3, j % 3);
      if (column < 0) continue;
      const double value = sum(sums.G[9 * (i / 3 * sums.groups + j / 3) + 3 * (i % 3) + j % 3]);
      out.G[row * m + column] = out.G[column * m + row] = value;
    }
  }
  return out;
}

void add(const SourceSums& part, SourceSums& total) {
  const auto plus = [](const std::vector<double>& from, std::vector<double>& to) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  };
  plus(part.H, total.H), plus(part.v, total.v), plus(part.G, total.G), plus(part.g, total.g);
  total.cost += part.cost;
  total.depth_decrease += part.depth_decrease;
}

}  // namespace

std::vector<SourceBlock> make_blocks(const DenseBaProblem& P) {
  std::vector<std::vector<int>> edges(P.N);
  for (int e = 0; e < P.E; ++e) edges[P.source[e]].push_back(e);
  std::vector<SourceBlock> blocks;
  for (int k = 0; k < P.N; ++k)
    if (!edges[k].empty()) blocks.push_back({k, std::move(edges[k]), {}});
  return blocks;
}

double pixel_cost(const DenseBaProblem& P, const DenseBaOptions& opt, const std::vector<EdgeGeometry>& geometry,
                  const std::vector<SourceBlock>& blocks) {
  const Rays rays(P);
  const Pass pass(P, opt, geometry, rays, 0.0);
  const auto chunks = make_chunks(blocks, pass.pixels());
  std::vector<double> costs(chunks.size());
#pragma omp parallel for schedule(dynamic, 1)
  for (int c = 0; c < static_cast<int>(chunks.size()); ++c)
    costs[c] = chunk_cost(pass, blocks[chunks[c].block], chunks[c]);
  double cost = 0.0;
  for (double part : costs) cost += part;
  return cost;
}

void eliminate_depths(const DenseBaProblem& P, const DenseBaOptions& opt, const std::vector<EdgeGeometry>& geometry,
                      double damping, std::vector<SourceBlock>& blocks) {
  const Rays rays(P);
  const Pass pass(P, opt, geometry, rays, damping);
  const auto chunks = make_chunks(blocks, pass.pixels());
  std::vector<SourceSums> parts(chunks.size());
  std::vector<std::atomic<int>> missing(blocks.size());  // chunks of each block that are not done
  for (const Chunk& chunk : chunks) ++missing[chunk.block];
#pragma omp parallel for schedule(dynamic, 1)
  for (int c = 0; c < static_cast<int>(chunks.size()); ++c) {
    SourceBlock& block = blocks[chunks[c].block];
    ChunkSums sums(static_cast<int>(block.edges.size()), P.depth_free[block.keyframe], has_scale(pass));
    linearise_chunk(pass, block, chunks[c], sums);
    parts[c] = gathered(sums, block.columns());
    if (--missing[chunks[c].block] > 0) continue;
    block.sums = zero_sums(block.columns());  // whoever comes last adds up, in order
    const int per_block = static_cast<int>(chunks.size() / blocks.size()), first = chunks[c].block * per_block;
    for (int part = first; part < first + per_block; ++part) add(std::exchange(parts[part], {}), block.sums);
  }
}

void substitute_depths(const DenseBaProblem& P, const DenseBaOptions& opt, const std::vector<EdgeGeometry>& geometry,
                       double damping, const std::vector<SourceBlock>& blocks,
                       const std::vector<std::vector<double>>& steps, bool clamp) {
  const Rays rays(P);
  const Pass pass(P, opt, geometry, rays, damping);
  const auto chunks = make_chunks(blocks, pass.pixels());
#pragma omp parallel for schedule(dynamic, 1)
  for (int c = 0; c < static_cast<int>(chunks.size()); ++c) {
    const SourceBlock& block = blocks[chunks[c].block];
    if (P.depth_free[block.keyframe]) substitute_chunk(pass, block, chunks[c], steps[chunks[c].block].data(), clamp);
  }
}

}  // namespace droid
