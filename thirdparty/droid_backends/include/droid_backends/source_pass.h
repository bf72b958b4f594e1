// Passes over the pixels of all edges, grouped by source keyframe. Depths belong to one keyframe each, so all that the
// rest of the solver needs from a source are small sums over its pixels.
//
// Columns of a source's sums: 6 for the target pose of each of its edges, then its prior scale. The source pose needs
// none: its Jacobian is a linear combination of the targets' ones, J_i = sum over edges of A_e J_j.
#pragma once

#include <vector>

#include <droid_backends/dense_ba.h>

namespace droid {

std::vector<EdgeGeometry> edge_geometry(const DenseBaProblem& problem);

struct SourceSums {
  std::vector<double> H, v;  // [columns, columns], [columns]: J^T W J and J^T W r of poses and scale
  std::vector<double> G, g;  // [columns, columns], [columns]: E C^-1 E^T and E C^-1 b; zero where the depths are fixed
  double cost = 0;
  double depth_decrease = 0;  // what the depths' own steps lower the cost by
};

struct SourceBlock {
  int keyframe = 0;
  std::vector<int> edges;
  SourceSums sums;

  int columns() const { return 6 * static_cast<int>(edges.size()) + 1; }
  int scale_column() const { return columns() - 1; }
};

// One block for each keyframe that some edge leaves; other keyframes' depths are not part of the problem.
std::vector<SourceBlock> make_blocks(const DenseBaProblem& problem);

// The part of the cost that pixels have, at the present state.
double pixel_cost(const DenseBaProblem& problem, const DenseBaOptions& options,
                  const std::vector<EdgeGeometry>& geometry, const std::vector<SourceBlock>& blocks);

// Fills the sums of all blocks at the present state, C grown by damping * C.
void eliminate_depths(const DenseBaProblem& problem, const DenseBaOptions& options,
                      const std::vector<EdgeGeometry>& geometry, double damping, std::vector<SourceBlock>& blocks);

// d += C^-1 (b - E^T step) in place; steps holds the step of every block's columns. Poses and scales must still be
// those of eliminate_depths. Depths are kept within the options' limits where clamp is set.
void substitute_depths(const DenseBaProblem& problem, const DenseBaOptions& options,
                       const std::vector<EdgeGeometry>& geometry, double damping,
                       const std::vector<SourceBlock>& blocks, const std::vector<std::vector<double>>& steps,
                       bool clamp);

}  // namespace droid
