// Relative poses of edges, and where their pixels land.
#include <droid_backends/source_pass.h>

namespace droid {

std::vector<EdgeGeometry> edge_geometry(const DenseBaProblem& P) {
  std::vector<EdgeGeometry> geometry;
  geometry.reserve(P.E);
  for (int e = 0; e < P.E; ++e)
    geometry.emplace_back(relative_pose(P.poses + 7 * P.source[e], P.poses + 7 * P.target[e]));
  return geometry;
}

void reproject(const DenseBaProblem& P, double* coords, double* inv_depth_target, bool* valid) {
  const auto geometry = edge_geometry(P);
  const int64_t pixels = static_cast<int64_t>(P.h) * P.w;
#pragma omp parallel for schedule(static)
  for (int e = 0; e < P.E; ++e) {
    const double* inv_depth = P.inv_depth + P.source[e] * pixels;
    PixelJacobians<double>* no_jacobians = nullptr;
    for (int64_t p = 0; p < pixels; ++p) {
      const double x = ray_x(P.K, static_cast<int>(p % P.w)), y = ray_y(P.K, static_cast<int>(p / P.w));
      const auto proj = project_pixel(P.K, geometry[e].R, geometry[e].t, x, y, inv_depth[p], no_jacobians);
      const int64_t index = e * pixels + p;
      coords[2 * index] = proj.u;
      coords[2 * index + 1] = proj.v;
      inv_depth_target[index] = proj.inv_depth;
      valid[index] = proj.valid;
    }
  }
}

void reproject_jacobians(const DenseBaProblem& P, double* Ji, double* Jj, double* Jz) {
  const auto geometry = edge_geometry(P);
  const int64_t pixels = static_cast<int64_t>(P.h) * P.w;
  for (int e = 0; e < P.E; ++e) {
    const double* inv_depth = P.inv_depth + P.source[e] * pixels;
    for (int64_t p = 0; p < pixels; ++p) {
      const double x = ray_x(P.K, static_cast<int>(p % P.w)), y = ray_y(P.K, static_cast<int>(p / P.w));
      PixelJacobians<double> J;
      project_pixel(P.K, geometry[e].R, geometry[e].t, x, y, inv_depth[p], &J);
      const int64_t index = e * pixels + p;
      for (int c = 0; c < 2; ++c) {
        Jz[2 * index + c] = J.Jz[c];
        for (int a = 0; a < 6; ++a) {
          Jj[12 * index + 6 * c + a] = J.Jj[c][a];
          Ji[12 * index + 6 * c + a] = source_jacobian(geometry[e].A, J.Jj[c], a);
        }
      }
    }
  }
}

}  // namespace droid
