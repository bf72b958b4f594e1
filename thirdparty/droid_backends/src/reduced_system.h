// The system in poses and prior scales that is left when the depths are eliminated. See dense_ba.h for the formulas.
#pragma once

#include <vector>

#include <droid_backends/envelope.h>
#include <droid_backends/source_pass.h>

namespace droid {

// Rows of the free variables: keyframe by keyframe, its pose and then its scale, so that neighbours stay together.
struct Layout {
  std::vector<int> pose, scale;  // first row of each keyframe's variable, -1 where it is fixed
  std::vector<int> component;    // [size] 0..5 in a pose, -1 for a scale
  std::vector<int> first;        // [size] the envelope: first column that the graph couples with a row
  int size = 0;
};

Layout make_layout(const DenseBaProblem& problem, const DenseBaOptions& options);

// The damped system at one state, with everything that is needed to apply its solution.
struct System {
  std::vector<EdgeGeometry> geometry;
  std::vector<SourceBlock> blocks;
  EnvelopeMatrix S;
  std::vector<double> v;
  double cost = 0;
  double depth_decrease = 0;  // of all blocks
};

// Damping of poses and scales (ridge + damping * diagonal) and of depths.
struct DampingAmounts {
  double ridge, damping, depth_damping;
};

// The cost alone; geometry is that of the present state.
double total_cost(const DenseBaProblem& problem, const DenseBaOptions& options, const Layout& layout,
                  const std::vector<SourceBlock>& blocks);

// Linearises at the present state and eliminates the depths: fills all of the system but its blocks' edges, given.
void assemble(const DenseBaProblem& problem, const DenseBaOptions& options, const Layout& layout,
              const DampingAmounts& amounts, System& system);

// What a step x of the reduced system means for the columns of every block.
std::vector<std::vector<double>> block_steps(const DenseBaProblem& problem, const Layout& layout, const System& system,
                                             const std::vector<double>& x);

}  // namespace droid
