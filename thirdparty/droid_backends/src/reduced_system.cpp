#include "reduced_system.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include <droid_backends/baseline.h>

namespace droid {

namespace {

// Everything in `rows` is coupled with everything else there; -1 is skipped.
void couple(const std::vector<int>& rows, Layout& layout) {
  int lowest = layout.size;
  for (int row : rows)
    if (row >= 0) lowest = std::min(lowest, row);
  for (int row : rows) {
    if (row < 0) continue;
    const int last = layout.component[row] == 0 ? row + 5 : row;  // a pose has six rows
    for (int i = row; i <= last; ++i) layout.first[i] = std::min(layout.first[i], lowest);
  }
}

void find_envelope(const DenseBaProblem& P, const DenseBaOptions& opt, Layout& layout) {
  const bool dense = opt.damping == Damping::kEveryBlock;  // it fills all blocks
  layout.first.assign(layout.size, dense ? 0 : layout.size);
  std::vector<std::vector<int>> around(P.N);  // of each source: its targets
  for (int e = 0; e < P.E; ++e) around[P.source[e]].push_back(layout.pose[P.target[e]]);
  for (int k = 0; k < P.N; ++k) {
    around[k].push_back(layout.pose[k]);
    around[k].push_back(layout.scale[k]);
    couple(around[k], layout);
    if (opt.scale_step_sigma > 0 && P.previous(k) >= 0) couple({layout.scale[P.previous(k)], layout.scale[k]}, layout);
  }
  for (int f = 0; f < P.F; ++f)
    couple({layout.pose[P.baseline_pair[2 * f]], layout.pose[P.baseline_pair[2 * f + 1]]}, layout);
}

// A run of columns of a block and the rows that it stands for.
struct Slot {
  int column, width, row;
};

std::vector<Slot> free_slots(const DenseBaProblem& P, const Layout& layout, const SourceBlock& block) {
  std::vector<Slot> slots;
  for (size_t s = 0; s < block.edges.size(); ++s)
    slots.push_back({static_cast<int>(6 * s), 6, layout.pose[P.target[block.edges[s]]]});
  slots.push_back({block.scale_column(), 1, layout.scale[block.keyframe]});
  slots.erase(std::remove_if(slots.begin(), slots.end(), [](const Slot& s) { return s.row < 0; }), slots.end());
  return slots;
}

// Adds sign * (K, k), symmetric over the columns of a block, to the system. The source pose's rows of K and k are
// A K and A k, where A = (A_e ...) over the edges.
void scatter(const DenseBaProblem& P, const Layout& layout, const SourceBlock& block, const std::vector<double>& K,
             const std::vector<double>& k, double sign, System& system) {
  const int m = block.columns(), n = static_cast<int>(block.edges.size());
  const auto slots = free_slots(P, layout, block);
  for (const Slot& r : slots) {
    for (int a = 0; a < r.width; ++a) system.v[r.row + a] += sign * k[r.column + a];
    for (const Slot& c : slots)
      system.S.add(r.row, c.row, r.width, c.width, &K[static_cast<size_t>(r.column) * m + c.column], m, sign);
  }
  const int source = layout.pose[block.keyframe];
  if (source < 0) return;

  std::vector<double> AK(6 * m), KA(6 * m);
  double AKA[36] = {};
  for (int a = 0; a < 6; ++a)
    for (int r = 0; r < 6 * n; ++r) {
      const double A = system.geometry[block.edges[r / 6]].A[6 * a + r % 6];
      system.v[source + a] += sign * A * k[r];
      for (int c = 0; c < m; ++c) AK[a * m + c] += A * K[static_cast<size_t>(r) * m + c];
    }
  for (int a = 0; a < 6; ++a)
    for (int c = 0; c < m; ++c) {
      KA[6 * c + a] = AK[a * m + c];
      for (int b = 0; b < 6 && c < 6 * n; ++b)
        AKA[6 * a + b] += AK[a * m + c] * system.geometry[block.edges[c / 6]].A[6 * b + c % 6];
    }
  system.S.add(source, source, 6, 6, AKA, 6, sign);
  for (const Slot& c : slots) {
    system.S.add(source, c.row, 6, c.width, &AK[c.column], m, sign);
    system.S.add(c.row, source, c.width, 6, &KA[6 * c.column], 6, sign);
  }
}

BaselineTerm baseline_term(const DenseBaProblem& P, int f) {
  const int64_t* pair = P.baseline_pair + 2 * f;
  const EdgeGeometry geometry(relative_pose(P.poses + 7 * pair[0], P.poses + 7 * pair[1]));
  return BaselineTerm(geometry, P.baseline_length[f], P.baseline_sigma[f]);
}

// Measured baselines; with system == nullptr only the cost.
double add_baselines(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout, System* system) {
  double cost = 0.0;
  for (int f = 0; f < P.F; ++f) {
    const BaselineTerm term = baseline_term(P, f);
    cost += opt.baseline_loss.cost(std::fabs(term.r));
    if (!system) continue;
    const double weight = opt.baseline_loss.weight(std::fabs(term.r));
    for (int s = 0; s < 2; ++s) {
      const int row = layout.pose[P.baseline_pair[2 * f + s]];
      if (row < 0) continue;
      for (int a = 0; a < 6; ++a) system->v[row + a] -= weight * term.J[s][a] * term.r;
      for (int t = 0; t < 2; ++t) {
        const int column = layout.pose[P.baseline_pair[2 * f + t]];
        if (column < 0) continue;
        double JJ[36];
        for (int i = 0; i < 36; ++i) JJ[i] = term.J[s][i / 6] * term.J[t][i % 6];
        system->S.add(row, column, 6, 6, JJ, 6, weight);
      }
    }
  }
  return cost;
}

// Adds (sum of signs * scales - offset)^2 / sigma^2; rows < 0 are fixed. Returns the cost.
double add_scale_residual(std::initializer_list<int> rows, double residual, double sigma, System* system) {
  const double weight = 1.0 / (sigma * sigma);
  double sign = 1.0;
  for (auto r = rows.begin(); system && r != rows.end(); ++r, sign = -sign) {
    if (*r < 0) continue;
    system->v[*r] -= weight * sign * residual;
    double other = 1.0;
    for (auto c = rows.begin(); c != rows.end(); ++c, other = -other)
      if (*c >= 0 && *c <= *r) system->S.row(*r)[*c] += weight * sign * other;
  }
  return weight * residual * residual;
}

// Anchors of free scales, and steps between coupled ones of which one is free; with system == nullptr only the cost.
double add_scale_terms(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout, System* system) {
  double cost = 0.0;
  for (int k = 0; k < P.N; ++k) {
    const int previous = P.previous(k), row = layout.scale[k], before = previous >= 0 ? layout.scale[previous] : -1;
    const double anchor = P.scale_anchor ? P.scale_anchor[k] : 0.0;
    if (row >= 0) cost += add_scale_residual({row}, P.scales[k] - anchor, opt.scale_sigma, system);
    if (previous < 0 || opt.scale_step_sigma <= 0 || (row < 0 && before < 0)) continue;
    cost += add_scale_residual({row, before}, P.scales[k] - P.scales[previous], opt.scale_step_sigma, system);
  }
  return cost;
}

void damp(const Layout& layout, const DampingAmounts& amounts, bool every_block, EnvelopeMatrix& S) {
  for (int i = 0; i < S.size(); ++i) {
    double* row = S.row(i);
    for (int j = every_block ? S.first(i) : i; j <= i; ++j) {
      const bool same = layout.component[i] >= 0 && layout.component[i] == layout.component[j];
      if (i == j || same) row[j] += amounts.ridge + amounts.damping * row[j];
    }
  }
}

}  // namespace

Layout make_layout(const DenseBaProblem& P, const DenseBaOptions& opt) {
  Layout layout{std::vector<int>(P.N, -1), std::vector<int>(P.N, -1), {}, {}, 0};
  const bool scales = opt.prior_mode == PriorMode::kMetric && opt.scale_sigma > 0 && P.scales && P.prior_depth;
  for (int k = 0; k < P.N; ++k) {
    if (P.pose_free[k]) {
      layout.pose[k] = layout.size;
      for (int a = 0; a < 6; ++a) layout.component.push_back(a);
      layout.size += 6;
    }
    if (scales && P.depth_free[k]) {
      layout.scale[k] = layout.size++;
      layout.component.push_back(-1);
    }
  }
  find_envelope(P, opt, layout);
  return layout;
}

double total_cost(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout,
                  const std::vector<SourceBlock>& blocks) {
  return pixel_cost(P, opt, edge_geometry(P), blocks) + add_baselines(P, opt, layout, nullptr) +
         add_scale_terms(P, opt, layout, nullptr);
}

void assemble(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout, const DampingAmounts& amounts,
              System& system) {
  system.geometry = edge_geometry(P);
  eliminate_depths(P, opt, system.geometry, amounts.depth_damping, system.blocks);
  system.S = EnvelopeMatrix(layout.first);
  system.v.assign(layout.size, 0.0);
  system.cost = system.depth_decrease = 0.0;
  for (const SourceBlock& block : system.blocks) {
    system.cost += block.sums.cost;
    system.depth_decrease += block.sums.depth_decrease;
    scatter(P, layout, block, block.sums.H, block.sums.v, 1.0, system);
  }
  system.cost += add_baselines(P, opt, layout, &system);
  system.cost += add_scale_terms(P, opt, layout, &system);

  if (opt.damping == Damping::kBeforeSchur) damp(layout, amounts, false, system.S);
  for (const SourceBlock& block : system.blocks)
    if (P.depth_free[block.keyframe]) scatter(P, layout, block, block.sums.G, block.sums.g, -1.0, system);
  if (opt.damping != Damping::kBeforeSchur) damp(layout, amounts, opt.damping == Damping::kEveryBlock, system.S);
}

std::vector<std::vector<double>> block_steps(const DenseBaProblem& P, const Layout& layout, const System& system,
                                             const std::vector<double>& x) {
  std::vector<std::vector<double>> steps;
  for (const SourceBlock& block : system.blocks) {
    std::vector<double> step(block.columns(), 0.0);
    for (const Slot& slot : free_slots(P, layout, block)) std::copy_n(&x[slot.row], slot.width, &step[slot.column]);
    const int source = layout.pose[block.keyframe];
    for (int c = 0; c < block.scale_column() && source >= 0; ++c)
      for (int a = 0; a < 6; ++a) step[c] += system.geometry[block.edges[c / 6]].A[6 * a + c % 6] * x[source + a];
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace droid
