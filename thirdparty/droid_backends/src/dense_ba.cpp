// Levenberg-Marquardt with accept or reject on the robust cost. See dense_ba.h.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <droid_backends/levenberg_marquardt.h>

#include "reduced_system.h"

namespace droid {

namespace {

void apply_step(const DenseBaProblem& P, const DenseBaOptions& opt, const Layout& layout, const System& system,
                double depth_damping, const std::vector<double>& x, bool clamp) {
  substitute_depths(P, opt, system.geometry, depth_damping, system.blocks, block_steps(P, layout, system, x), clamp);
  for (int k = 0; k < P.N; ++k) {
    if (layout.pose[k] >= 0) move_pose(&x[layout.pose[k]], P.poses + 7 * k, P.poses + 7 * k);
    if (layout.scale[k] >= 0) P.scales[k] += x[layout.scale[k]];
  }
}

// The state before a trial, kept in buffers that are used again.
class Snapshot {
 public:
  explicit Snapshot(const DenseBaProblem& problem) : P(problem) {}
  void take() {
    poses.assign(P.poses, P.poses + 7 * P.N);
    inv_depth.assign(P.inv_depth, P.inv_depth + static_cast<int64_t>(P.N) * P.h * P.w);
    if (P.scales) scales.assign(P.scales, P.scales + P.N);
  }
  void restore() const {
    std::copy(poses.begin(), poses.end(), P.poses);
    std::copy(inv_depth.begin(), inv_depth.end(), P.inv_depth);
    std::copy(scales.begin(), scales.end(), P.scales);
  }

 private:
  const DenseBaProblem& P;
  std::vector<double> poses, inv_depth, scales;
};

bool anything_to_do(const DenseBaProblem& P, const Layout& layout, const std::vector<SourceBlock>& blocks) {
  const auto depth_moves = [&](const SourceBlock& block) { return P.depth_free[block.keyframe]; };
  return !blocks.empty() && (layout.size > 0 || std::any_of(blocks.begin(), blocks.end(), depth_moves));
}

enum class Trial { kAccepted, kRejected, kSingular };

// The solver between two trials: the state in P, the system there, and the damping for the next trial.
class LevenbergMarquardt {
 public:
  LevenbergMarquardt(const DenseBaProblem& problem, const DenseBaOptions& options, Layout free_variables)
      : P(problem), opt(options), layout(std::move(free_variables)), lambda(opt.initial_damping), before(P) {
    system.blocks = next.blocks = make_blocks(P);
    assemble_at(lambda, system);
    cost_initial = system.cost;
  }

  double cost() const { return system.cost; }

  // One linearisation: raises the damping until a step lowers the cost. `last`: no further step follows. Returns the
  // status of the solve; kMaxIterations: it can go on.
  Status iterate(bool last, int& trials) {
    bool solvable = false;
    do {
      const double start = cost(), damping = lambda;
      const Trial outcome = step(last);
      ++trials;
      solvable = solvable || outcome != Trial::kSingular;
      const bool accepted = outcome == Trial::kAccepted;
      const double decrease = accepted ? start - cost() : predicted;
      if (outcome != Trial::kSingular && converged(cost_initial, start, decrease, damping, opt.min_relative_decrease))
        return Status::kConverged;
      if (accepted) return Status::kMaxIterations;
    } while (lambda <= kMaxDamping);
    return solvable ? Status::kNoProgress : Status::kNotPositiveDefinite;
  }

 private:
  // Tries one step. A step that is not accepted leaves no trace.
  Trial step(bool last) {
    if (std::exchange(stale, false)) assemble_at(lambda, system);
    std::vector<double> x = system.v;
    if (!system.S.solve(x.data())) return reject(Trial::kSingular);
    predicted = std::inner_product(x.begin(), x.end(), system.v.begin(), system.depth_decrease);
    before.take();
    apply_step(P, opt, layout, system, lambda, x, true);
    const double next_lambda = relaxed(lambda);
    if (last)
      next.cost = total_cost(P, opt, layout, next.blocks);
    else
      assemble_at(next_lambda, next);  // most steps are accepted: their cost and the next system come in one pass
    if (!(next.cost < system.cost)) {
      before.restore();
      return reject(Trial::kRejected);
    }
    lambda = next_lambda;
    std::swap(system, next);
    return Trial::kAccepted;
  }

  void assemble_at(double damping, System& out) { assemble(P, opt, layout, {opt.ridge, damping, damping}, out); }

  Trial reject(Trial reason) {
    lambda = raised(lambda);
    stale = true;
    return reason;
  }

  const DenseBaProblem& P;
  const DenseBaOptions& opt;
  Layout layout;
  double lambda, cost_initial = 0.0;
  double predicted = 0.0;  // decrease of the cost by the latest trial, as far as the cost is quadratic
  bool stale = false;      // true if the system has another damping than lambda
  System system, next;
  Snapshot before;
};

}  // namespace

double dense_ba_cost(const DenseBaProblem& P, const DenseBaOptions& opt) {
  return total_cost(P, opt, make_layout(P, opt), make_blocks(P));
}

Status dense_ba_step(const DenseBaProblem& P, const DenseBaOptions& opt, double ridge, double damping) {
  const Layout layout = make_layout(P, opt);
  System system;
  system.blocks = make_blocks(P);
  if (!anything_to_do(P, layout, system.blocks)) return Status::kNothingToDo;
  assemble(P, opt, layout, {ridge, damping, 0.0}, system);
  std::vector<double> x = system.v;
  if (!std::isfinite(system.cost) || !system.S.solve(x.data())) return Status::kNotPositiveDefinite;
  apply_step(P, opt, layout, system, 0.0, x, false);
  return Status::kMaxIterations;
}

DenseBaReport solve_dense_ba(const DenseBaProblem& P, const DenseBaOptions& opt) {
  DenseBaReport report;
  Layout layout = make_layout(P, opt);
  if (!anything_to_do(P, layout, make_blocks(P))) return report;

  LevenbergMarquardt solver(P, opt, std::move(layout));
  report.cost_initial = report.cost_final = solver.cost();
  report.status = std::isfinite(solver.cost()) ? Status::kMaxIterations : Status::kNotPositiveDefinite;
  while (report.status == Status::kMaxIterations && report.iterations < opt.iterations) {
    const bool last = ++report.iterations == opt.iterations;
    report.status = solver.iterate(last, report.trials);
    report.cost_final = solver.cost();
  }
  return report;
}

}  // namespace droid
