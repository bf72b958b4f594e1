// Levenberg-Marquardt around the linearisation: Schur complement, damping, accept or reject. See dense_ba.h.
#include <algorithm>
#include <cmath>
#include <map>

#include <droid_backends/dense_ba.h>

namespace droid {

namespace {

// Offsets of the free variables in the reduced system; -1 where a variable is fixed.
struct Layout {
  std::vector<int> pose, scale;
  int size = 0;
};

Layout make_layout(const DenseBaProblem& P, const DenseBaOptions& opt) {
  Layout layout{std::vector<int>(P.N, -1), std::vector<int>(P.N, -1), 0};
  for (int k = 0; k < P.N; ++k)
    if (P.pose_free[k]) layout.pose[k] = layout.size, layout.size += 6;
  const bool scales = opt.prior_mode == PriorMode::kMetric && opt.scale_sigma > 0 && P.scales && P.prior_depth;
  for (int k = 0; k < P.N; ++k)
    if (scales && P.depth_free[k]) layout.scale[k] = layout.size++;
  return layout;
}

std::vector<SourceBlock> make_blocks(const DenseBaProblem& P) {
  std::vector<std::vector<int>> edges(P.N);
  for (int e = 0; e < P.E; ++e) edges[P.source[e]].push_back(e);
  std::vector<SourceBlock> blocks;
  for (int k = 0; k < P.N; ++k) {
    if (edges[k].empty()) continue;  // no flow leaves it: its depths are not part of this problem
    SourceBlock block;
    block.keyframe = k;
    block.edges = edges[k];
    blocks.push_back(std::move(block));
  }
  return blocks;
}

struct System {
  std::vector<double> H, v;  // [n, n], [n]
};

// Maps the columns of a source block (target pose per edge, scale) into the reduced system. The source pose's column
// is a linear combination of the targets' ones: e_i = sum A_e e_j.
struct ColumnMap {
  std::vector<int> offset;      // reduced offset per entry
  std::vector<double> matrix;   // [entries, columns]
  int entries = 0, columns = 0;
};

ColumnMap column_map(const DenseBaProblem& P, const Layout& layout, const std::vector<EdgeGeometry>& geometry,
                     const SourceBlock& blk) {
  ColumnMap map;
  map.columns = blk.columns;
  const auto add_row = [&](int offset) {
    map.offset.push_back(offset);
    map.matrix.resize(map.matrix.size() + map.columns, 0.0);
    return map.matrix.data() + static_cast<size_t>(map.entries++) * map.columns;
  };
  const int source = layout.pose[blk.keyframe];
  for (int a = 0; a < 6 && source >= 0; ++a) {
    double* row = add_row(source + a);
    for (size_t s = 0; s < blk.edges.size(); ++s)
      for (int b = 0; b < 6; ++b) row[6 * s + b] = geometry[blk.edges[s]].A[6 * a + b];
  }
  for (size_t s = 0; s < blk.edges.size(); ++s) {
    const int target = layout.pose[P.target[blk.edges[s]]];
    for (int a = 0; a < 6 && target >= 0; ++a) add_row(target + a)[6 * s + a] = 1.0;
  }
  if (layout.scale[blk.keyframe] >= 0) add_row(layout.scale[blk.keyframe])[map.columns - 1] = 1.0;
  return map;
}

// system += sign * (M G M^T, M g) scattered to the reduced offsets
void scatter(const ColumnMap& map, const std::vector<double>& G, const std::vector<double>& g, double sign, int n,
             System& system) {
  const int m = map.columns;
  std::vector<double> MG(static_cast<size_t>(map.entries) * m, 0.0);
  for (int r = 0; r < map.entries; ++r) {
    const double* row = &map.matrix[static_cast<size_t>(r) * m];
    for (int k = 0; k < m; ++k) {
      if (row[k] == 0.0) continue;
      for (int c = 0; c < m; ++c) MG[static_cast<size_t>(r) * m + c] += row[k] * G[static_cast<size_t>(k) * m + c];
      system.v[map.offset[r]] += sign * row[k] * g[k];
    }
  }
  for (int r = 0; r < map.entries; ++r)
    for (int c = 0; c < map.entries; ++c) {
      double sum = 0.0;
      for (int k = 0; k < m; ++k) sum += MG[static_cast<size_t>(r) * m + k] * map.matrix[static_cast<size_t>(c) * m + k];
      system.H[static_cast<size_t>(map.offset[r]) * n + map.offset[c]] += sign * sum;
    }
}

// Pose-pose and scale-scale parts of the flow and prior terms: block diagonal in the edges of a source.
void add_direct_terms(const SourceBlock& blk, const ColumnMap& map, int n, System& system) {
  const int m = blk.columns;
  std::vector<double> G(static_cast<size_t>(m) * m, 0.0), g(m, 0.0);
  for (size_t s = 0; s < blk.edges.size(); ++s)
    for (int a = 0; a < 6; ++a) {
      for (int b = 0; b < 6; ++b) G[(6 * s + a) * m + 6 * s + b] = blk.Hjj[36 * s + 6 * a + b];
      g[6 * s + a] = blk.vj[6 * s + a];
    }
  G[static_cast<size_t>(m) * m - 1] = blk.Hss;
  g[m - 1] = blk.vs;
  scatter(map, G, g, 1.0, n, system);
}

struct BaselineTerm {
  double r, J[6], inverse_variance;  // J w.r.t. the pose of the second keyframe
};

BaselineTerm baseline_term(const DenseBaProblem& P, int f, EdgeGeometry* geometry) {
  DenseBaProblem one = P;
  one.E = 1;
  one.source = P.baseline_pair + 2 * f;
  one.target = P.baseline_pair + 2 * f + 1;
  *geometry = edge_geometry(one)[0];
  const double* t = geometry->t;
  const double length = std::max(std::sqrt(t[0] * t[0] + t[1] * t[1] + t[2] * t[2]), 1e-9);
  BaselineTerm term{};
  term.r = std::log(length / P.baseline_length[f]);
  term.inverse_variance = 1.0 / (P.baseline_sigma[f] * P.baseline_sigma[f]);
  for (int a = 0; a < 3; ++a) term.J[a] = t[a] / (length * length);  // a rotation does not change the length
  return term;
}

void add_baselines(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout, int n, System& system) {
  for (int f = 0; f < P.F; ++f) {
    EdgeGeometry g;
    const BaselineTerm term = baseline_term(P, f, &g);
    const double normalised = std::fabs(term.r) * std::sqrt(term.inverse_variance);
    const double weight = term.inverse_variance * opt.baseline_loss.weight(normalised);
    double J[2][6];
    for (int a = 0; a < 6; ++a) {
      J[1][a] = term.J[a];
      J[0][a] = 0.0;
      for (int b = 0; b < 6; ++b) J[0][a] += g.A[6 * a + b] * term.J[b];
    }
    const int offset[2] = {layout.pose[P.baseline_pair[2 * f]], layout.pose[P.baseline_pair[2 * f + 1]]};
    for (int s = 0; s < 2; ++s) {
      if (offset[s] < 0) continue;
      for (int a = 0; a < 6; ++a) {
        system.v[offset[s] + a] -= weight * J[s][a] * term.r;
        for (int t = 0; t < 2; ++t)
          for (int b = 0; b < 6 && offset[t] >= 0; ++b)
            system.H[static_cast<size_t>(offset[s] + a) * n + offset[t] + b] += weight * J[s][a] * J[t][b];
      }
    }
  }
}

double scale_at(const DenseBaProblem& P, int k) { return P.scales[k] - (P.scale_anchor ? P.scale_anchor[k] : 0.0); }

// Anchors and smoothness of the prior scales; with system == nullptr only the cost.
double add_scale_terms(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout, int n,
                       System* system) {
  double cost = 0.0;
  const double anchor = 1.0 / (opt.scale_sigma * opt.scale_sigma);
  const double smooth = opt.scale_step_sigma > 0 ? 1.0 / (opt.scale_step_sigma * opt.scale_step_sigma) : 0.0;
  for (int k = 0; k < P.N; ++k) {
    const int o = layout.scale[k];
    if (o < 0) continue;
    cost += anchor * scale_at(P, k) * scale_at(P, k);
    if (system) system->H[static_cast<size_t>(o) * n + o] += anchor, system->v[o] -= anchor * scale_at(P, k);
    if (k == 0 || smooth == 0.0) continue;
    const double step = P.scales[k] - P.scales[k - 1];
    cost += smooth * step * step;
    if (!system) continue;
    const int before = layout.scale[k - 1];
    system->H[static_cast<size_t>(o) * n + o] += smooth, system->v[o] -= smooth * step;
    if (before < 0) continue;
    system->H[static_cast<size_t>(before) * n + before] += smooth, system->v[before] += smooth * step;
    system->H[static_cast<size_t>(o) * n + before] -= smooth, system->H[static_cast<size_t>(before) * n + o] -= smooth;
  }
  return cost;
}

double total_cost(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout,
                  const std::vector<SourceBlock>& blocks) {
  double cost = 0.0;
  for (const auto& blk : blocks) cost += blk.cost;
  for (int f = 0; f < P.F; ++f) {
    EdgeGeometry g;
    const BaselineTerm term = baseline_term(P, f, &g);
    cost += opt.baseline_loss.cost(std::fabs(term.r) * std::sqrt(term.inverse_variance));
  }
  return cost + add_scale_terms(P, opt, layout, 0, nullptr);
}

void linearize_all(const DenseBaProblem& P, const DenseBaOptions& opt, const std::vector<EdgeGeometry>& geometry,
                   bool jacobians, std::vector<SourceBlock>& blocks) {
#pragma omp parallel for schedule(dynamic, 1)
  for (int s = 0; s < static_cast<int>(blocks.size()); ++s) linearize_source(P, opt, geometry, jacobians, blocks[s]);
}

double evaluate(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout,
                std::vector<SourceBlock>& scratch) {
  linearize_all(P, opt, edge_geometry(P), false, scratch);
  return total_cost(P, opt, layout, scratch);
}

// 1/C with damping; a depth nothing observes does not move.
double damped_inverse(const DenseBaProblem& P, const DenseBaOptions& opt, const SourceBlock& blk, int p,
                      double damping) {
  const int64_t index = static_cast<int64_t>(blk.keyframe) * P.h * P.w + p;
  double C = blk.C[p] * (1.0 + damping);
  const bool replaced = opt.prior_mode == PriorMode::kDroid && P.prior_depth && P.prior_depth[index] > 0.0;
  if (P.depth_damping && !replaced) C += P.depth_damping[index];
  return C > 1e-12 ? 1.0 / C : 0.0;
}

// G = sum_p e e^T / C and g = sum_p e b / C over the pixels of one source.
void schur_sums(const DenseBaProblem& P, const DenseBaOptions& opt, const SourceBlock& blk, double damping,
                std::vector<double>& G, std::vector<double>& g) {
  const int m = blk.columns, pixels = P.h * P.w;
  G.assign(static_cast<size_t>(m) * m, 0.0);
  g.assign(m, 0.0);
  for (int p = 0; p < pixels; ++p) {
    const double q = damped_inverse(P, opt, blk, p, damping);
    if (q == 0.0) continue;
    const double* e = &blk.E[static_cast<size_t>(p) * m];
    for (int a = 0; a < m; ++a) {
      if (e[a] == 0.0) continue;
      const double qe = q * e[a];
      double* row = &G[static_cast<size_t>(a) * m];
      for (int b = a; b < m; ++b) row[b] += qe * e[b];
      g[a] += qe * blk.b[p];
    }
  }
  for (int a = 0; a < m; ++a)
    for (int b = 0; b < a; ++b) G[static_cast<size_t>(a) * m + b] = G[static_cast<size_t>(b) * m + a];
}

void damp(std::vector<double>& H, int n, double ridge, double damping, Damping placement, int pose_rows) {
  const bool every_block = placement == Damping::kEveryBlock;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      const bool same_row_of_other_block = every_block && i < pose_rows && j < pose_rows && i % 6 == j % 6;
      double& element = H[static_cast<size_t>(i) * n + j];
      if (i == j || same_row_of_other_block) element += ridge + damping * element;
    }
}

struct Linearisation {
  std::vector<EdgeGeometry> geometry;
  std::vector<SourceBlock> blocks;
  std::vector<ColumnMap> maps;
  System direct;  // H and v before the elimination of depths
};

void build(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout, Linearisation& lin) {
  lin.geometry = edge_geometry(P);
  linearize_all(P, opt, lin.geometry, true, lin.blocks);
  const int n = layout.size;
  lin.direct.H.assign(static_cast<size_t>(n) * n, 0.0);
  lin.direct.v.assign(n, 0.0);
  lin.maps.clear();
  for (const auto& blk : lin.blocks) {
    lin.maps.push_back(column_map(P, layout, lin.geometry, blk));
    add_direct_terms(blk, lin.maps.back(), n, lin.direct);
  }
  add_baselines(P, opt, layout, n, lin.direct);
  add_scale_terms(P, opt, layout, n, &lin.direct);
}

// Solves the damped system; x is the step of poses and scales. False: not positive definite.
bool solve_reduced(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout, const Linearisation& lin,
                   double ridge, double damping, double depth_damping, std::vector<double>& x) {
  const int n = layout.size;
  int pose_rows = 0;
  for (int offset : layout.pose) pose_rows += offset >= 0 ? 6 : 0;
  System system = lin.direct;
  if (opt.damping == Damping::kBeforeSchur) damp(system.H, n, ridge, damping, opt.damping, pose_rows);

  std::vector<std::vector<double>> G(lin.blocks.size()), g(lin.blocks.size());
#pragma omp parallel for schedule(dynamic, 1)
  for (int s = 0; s < static_cast<int>(lin.blocks.size()); ++s)
    if (P.depth_free[lin.blocks[s].keyframe]) schur_sums(P, opt, lin.blocks[s], depth_damping, G[s], g[s]);
  for (size_t s = 0; s < lin.blocks.size(); ++s)
    if (!G[s].empty()) scatter(lin.maps[s], G[s], g[s], -1.0, n, system);

  if (opt.damping != Damping::kBeforeSchur) damp(system.H, n, ridge, damping, opt.damping, pose_rows);
  x = system.v;
  return cholesky_solve(n, system.H.data(), x.data());
}

void apply_step(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout, const Linearisation& lin,
                double depth_damping, const std::vector<double>& x) {
  const int pixels = P.h * P.w;
#pragma omp parallel for schedule(dynamic, 1)
  for (int s = 0; s < static_cast<int>(lin.blocks.size()); ++s) {
    const SourceBlock& blk = lin.blocks[s];
    if (!P.depth_free[blk.keyframe]) continue;
    std::vector<double> local(blk.columns, 0.0);  // M^T x: the step seen by the block's own columns
    for (int r = 0; r < lin.maps[s].entries; ++r)
      for (int c = 0; c < blk.columns; ++c)
        local[c] += lin.maps[s].matrix[static_cast<size_t>(r) * blk.columns + c] * x[lin.maps[s].offset[r]];
    double* d = P.inv_depth + static_cast<int64_t>(blk.keyframe) * pixels;
    for (int p = 0; p < pixels; ++p) {
      double right = blk.b[p];
      const double* e = &blk.E[static_cast<size_t>(p) * blk.columns];
      for (int c = 0; c < blk.columns; ++c) right -= e[c] * local[c];
      d[p] += damped_inverse(P, opt, blk, p, depth_damping) * right;
    }
  }
  for (int k = 0; k < P.N; ++k) {
    if (layout.pose[k] >= 0) {
      auto T = lie::SE3<double>::exp(&x[layout.pose[k]]) * lie::SE3<double>::load(P.poses + 7 * k);
      T.renormalise();  // rounding in long chains of products would otherwise grow
      T.store(P.poses + 7 * k);
    }
    if (layout.scale[k] >= 0) P.scales[k] += x[layout.scale[k]];
  }
}

void clamp_depths(const DenseBaProblem& P, const DenseBaOptions& opt, const std::vector<SourceBlock>& blocks) {
  const int pixels = P.h * P.w;
  for (const auto& blk : blocks) {
    if (!P.depth_free[blk.keyframe]) continue;
    double* d = P.inv_depth + static_cast<int64_t>(blk.keyframe) * pixels;
    for (int p = 0; p < pixels; ++p) d[p] = std::clamp(d[p], opt.min_inv_depth, opt.max_inv_depth);
  }
}

struct Snapshot {
  std::vector<double> poses, inv_depth, scales;
  explicit Snapshot(const DenseBaProblem& P)
      : poses(P.poses, P.poses + 7 * P.N),
        inv_depth(P.inv_depth, P.inv_depth + static_cast<int64_t>(P.N) * P.h * P.w),
        scales(P.scales, P.scales ? P.scales + P.N : P.scales) {}
  void restore(const DenseBaProblem& P) const {
    std::copy(poses.begin(), poses.end(), P.poses);
    std::copy(inv_depth.begin(), inv_depth.end(), P.inv_depth);
    if (P.scales) std::copy(scales.begin(), scales.end(), P.scales);
  }
};

}  // namespace

double dense_ba_cost(const DenseBaProblem& P, const DenseBaOptions& opt) {
  auto blocks = make_blocks(P);
  return evaluate(P, opt, make_layout(P, opt), blocks);
}

Status dense_ba_step(const DenseBaProblem& P, const DenseBaOptions& opt, double ridge, double damping) {
  const Layout layout = make_layout(P, opt);
  Linearisation lin;
  lin.blocks = make_blocks(P);
  if (lin.blocks.empty()) return Status::kNothingToDo;
  build(P, opt, layout, lin);
  std::vector<double> x;
  if (!solve_reduced(P, opt, layout, lin, ridge, damping, 0.0, x)) return Status::kNotPositiveDefinite;
  apply_step(P, opt, layout, lin, 0.0, x);
  return Status::kMaxIterations;
}

DenseBaReport solve_dense_ba(const DenseBaProblem& P, const DenseBaOptions& opt) {
  DenseBaReport report;
  const Layout layout = make_layout(P, opt);
  Linearisation lin;
  lin.blocks = make_blocks(P);
  bool any_depth = false;
  for (const auto& blk : lin.blocks) any_depth = any_depth || P.depth_free[blk.keyframe];
  if (lin.blocks.empty() || (layout.size == 0 && !any_depth)) return report;

  std::vector<SourceBlock> scratch = make_blocks(P);
  double lambda = opt.initial_damping;
  double cost = evaluate(P, opt, layout, scratch);
  report.cost_initial = report.cost_final = cost;
  report.status = Status::kMaxIterations;
  for (int iteration = 0; iteration < opt.iterations; ++iteration) {
    build(P, opt, layout, lin);
    ++report.iterations;
    bool accepted = false, solvable = false;
    double decrease = 0.0;
    for (int trial = 0; trial < 6 && !accepted; ++trial) {
      ++report.trials;
      std::vector<double> x;
      const Snapshot before(P);
      if (solve_reduced(P, opt, layout, lin, opt.ridge, lambda, lambda, x)) {
        solvable = true;
        apply_step(P, opt, layout, lin, lambda, x);
        clamp_depths(P, opt, lin.blocks);
        const double candidate = evaluate(P, opt, layout, scratch);
        accepted = candidate < cost;
        if (accepted) decrease = (cost - candidate) / std::max(cost, 1e-300), cost = candidate;
      }
      if (!accepted) before.restore(P);
      lambda = accepted ? std::max(lambda * 0.2, 1e-8) : std::max(lambda, 1e-6) * 10.0;
    }
    report.cost_final = cost;
    if (!accepted) {
      report.status = !solvable ? Status::kNotPositiveDefinite
                                : (report.iterations == 1 ? Status::kNoProgress : Status::kConverged);
      return report;
    }
    if (decrease < opt.min_relative_decrease) {
      report.status = Status::kConverged;
      return report;
    }
  }
  return report;
}

}  // namespace droid
