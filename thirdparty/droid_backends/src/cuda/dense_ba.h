// Dense bundle adjustment in the memory of a GPU. Cost and method are those of droid_backends/dense_ba.h.
//
// A solve is a sequence of launches that the host queues without ever waiting: what decides over the next step (cost,
// damping, accepted or not) stays on the device in SolverState, and kernels that turn out not to be needed return at
// once. Between two launches torch factorises the reduced system. One trial of Levenberg-Marquardt is
//
//   assemble(kCurrent)   only where the last trial was refused: the system there, damped more
//   [S x = v]            by torch, or on the host for very large systems
//   step                 trial state = current state moved by x, depths substituted back
//   assemble(kTrial)     the system and the cost there
//   decide               accept: the trial state becomes the current one; or refuse
//
// and assembling takes three passes: over the pixels of each source keyframe (linearise), over pairs of its edges
// (eliminate the depths), and over the blocks of the reduced system (gather). Nothing is added by two threads at once:
// sums have one owner and one order, so that results are the same bits every time.
#pragma once

#include <cstdint>

#include <droid_backends/dense_ba.h>

namespace droid::cuda {

// All numbers are doubles so that torch can hold and show them.
struct SolverState {
  double status = kRunning;  // Status, or kRunning
  double iterations = 0, trials = 0;
  double cost_initial = 0, cost = 0;
  double lambda = 0;     // damping of the present system
  double current = 0;    // which of the two state buffers holds the state: 0 or 1
  double stale = 0;      // 1 if the system must be assembled again
  double solvable = 0;   // was any trial of this linearisation?
  double predicted = 0;  // decrease of the cost by the latest trial, as far as the cost is quadratic

  static constexpr double kRunning = -1.0;
  static constexpr int kNumbers = 10;
};

// Where a system is assembled.
enum class At : int { kCurrent = 0, kTrial = 1 };

// How the graph maps to sums and blocks: made once per graph on the host. A source is a keyframe that edges leave; its
// edges take places q in [source_begin[b], source_begin[b + 1]). Its slots are: 0 its own pose, 1..n the target poses
// of its n edges, n + 1 its scale. A variable is a pose or a scale that moves. A part of the system is a block of it
// for two variables, the first one not before the second.
struct Plan {
  int sources = 0;
  const int32_t* source_keyframe = nullptr;  // [sources]
  const int32_t* source_begin = nullptr;     // [sources + 1]
  const int32_t* edge_at = nullptr;          // [E] edge at each place
  const int64_t* sums_begin = nullptr;       // [sources] first element of its (6 n + 1)^2 raw sums
  const int64_t* local_begin = nullptr;      // [sources] first element of its (6 n + 7)^2 local system
  const int32_t* pair_source = nullptr;      // [pairs] pairs of slots 1..n+1, first <= second, source by source;
  const int32_t* pair_first = nullptr;       //         only of sources whose depths move
  const int32_t* pair_second = nullptr;
  const int32_t* pose_row = nullptr;   // [N] first row of each keyframe's variable, -1 where it does not move
  const int32_t* scale_row = nullptr;  // [N]
  int parts = 0, rows = 0;
  const int32_t* part_row = nullptr;  // [parts] first row and column; a part is 6 or 1 wide each way
  const int32_t* part_column = nullptr;
  const int32_t* part_shape = nullptr;    // [parts] 10 * rows + columns
  const double* part_constant = nullptr;  // [parts] of the couplings of scales, whose weights are constant
  const int32_t* part_begin = nullptr;    // [parts + 1] contributions
  const int32_t* from = nullptr;          // [contributions, 3] (source, slot, slot), or (-1 - baseline, end, end)
  const int32_t* row_keyframe = nullptr;  // [parts] keyframe of the variable, for parts on the diagonal
};

// Sources begin..end-1, whose Jacobians fit the workspace together.
struct Batch {
  int begin = 0, end = 0, first_place = 0, first_pair = 0, pairs = 0;
};

template <typename T>
struct Twice {
  T* data = nullptr;  // two buffers, one after the other
  int64_t size = 0;   // of one
  LIE_HD T* of(int which) const { return data + which * size; }
};

struct Work {
  EdgeGeometry* geometry = nullptr;  // [2, E]: of both state buffers
  double* jacobians = nullptr;       // [places of a batch, 6, pixels]: E of each edge
  double* scale_jacobian = nullptr;  // [sources of a batch, pixels]
  double* depth_inverse = nullptr;   // [sources of a batch, pixels]
  double* depth_right = nullptr;     // [sources of a batch, pixels]
  double* edge_parts = nullptr;      // [places of a batch, warps, 32]: H [21], v [6], cost
  double* source_parts = nullptr;    // [sources of a batch, warps, 4]: H, v, cost of the prior, b C^-1 b
  double* edge_sums = nullptr;       // [E, 32]
  double* raw = nullptr;             // G of slots 1..n+1 of every source
  double* raw_right = nullptr;       // g of those, 6 E + sources
  double* local_H = nullptr;         // of every source
  double* local_G = nullptr;
  double* local_right = nullptr;     // [2, sum of 6 n + 7]: v, g
  double* source_cost = nullptr;     // [sources]
  double* depth_decrease = nullptr;  // [sources]: what the depths' own steps lower the cost by
  double* baselines = nullptr;       // [F, 16]: J [2, 6], weight, residual, cost
  double* edge_steps = nullptr;      // [E, 6] by place
};

struct WorkSizes {
  int64_t edges = 0, sources = 0, pixels = 0, baselines = 0;
  int64_t places_at_once = 0, sources_at_once = 0;  // of the largest batch
  int64_t raw = 0, local = 0;                       // elements of all raw sums and of all local systems
};

// Shares a workspace out; returns how many doubles it takes. With memory == nullptr that is all.
int64_t share_out(const WorkSizes& sizes, double* memory, Work& work);

// F: float or double, of what was measured.
template <typename F>
struct Measured {
  const F* flow_target = nullptr;  // [E, h, w, 2]
  const F* confidence = nullptr;   // [E, h, w, 2]
};

struct Problem {
  int N = 0, E = 0, h = 0, w = 0;
  Intrinsics K{};
  Twice<double> poses, inv_depth, scales;  // [2, N, 7], [2, N, h, w], [2, N]
  const int32_t* source = nullptr;         // [E]
  const int32_t* target = nullptr;         // [E]
  const double* depth_damping = nullptr;   // as in DenseBaProblem, from here on
  const double* prior_depth = nullptr;
  const double* prior_weight = nullptr;
  const double* scale_anchor = nullptr;
  const int32_t* scale_previous = nullptr;  // [N], never null
  const bool* depth_free = nullptr;
  int F = 0;
  const int32_t* baseline_pair = nullptr;  // [F, 2]
  const double* baseline_length = nullptr;
  const double* baseline_sigma = nullptr;
  SolverState* state = nullptr;

  LIE_HD int pixels() const { return h * w; }
  LIE_HD int warps() const { return (h * w + 31) / 32; }
};

// Damping of a system: lambda of the state, or fixed amounts (Gauss-Newton).
struct Amounts {
  bool fixed = false;
  double ridge = 0, damping = 0, depth_damping = 0;
};

template <typename F>
struct System {
  Problem P;
  Measured<F> measured;
  Plan plan;
  Work work;
  DenseBaOptions opt;
  Amounts amounts;
};

// Queues the passes that make the reduced system; `batches` on the host. values [parts, 36] gets every part, rows
// first; dense [rows, rows], if not null, the lower triangle with whole blocks on the diagonal; right [rows].
template <typename F>
void assemble(const System<F>& system, At at, const Batch* batches, int count, double* values, double* dense,
              double* right, std::intptr_t stream);

// The first system is there: notes its cost.
template <typename F>
void begin(const System<F>& system, std::intptr_t stream);

// The trial state from a solution x [rows] of the current system, whose right side is `right` [rows]; depths are kept
// within limits.
template <typename F>
void step(const System<F>& system, const double* x, const double* right, std::intptr_t stream);

// Accepts or refuses the trial state; info [1], not zero: the system was singular.
template <typename F>
void decide(const System<F>& system, const double* x, const int32_t* info, std::intptr_t stream);

}  // namespace droid::cuda
