// One pass over all pixels of all edges that start in one keyframe. Called in parallel, one keyframe per thread.
#include <algorithm>
#include <cmath>
#include <cstring>

#include <droid_backends/dense_ba.h>

namespace droid {

namespace {

// Confidences of x and y may differ; the loss sees the length of the residual under their mean.
struct FlowResidual {
  double rx, ry, cx, cy;  // residual and weighted confidence
  double cost;
};

FlowResidual flow_residual(const DenseBaProblem& P, const DenseBaOptions& opt, int64_t index,
                           const PixelProjection& proj) {
  const double cx = opt.flow_weight * P.confidence[2 * index];
  const double cy = opt.flow_weight * P.confidence[2 * index + 1];
  const double mean = 0.5 * (cx + cy);
  if (mean <= 0.0) return {0, 0, 0, 0, 0};
  if (!proj.valid) return {0, 0, 0, 0, mean * opt.flow_loss.cost(opt.invalid_residual)};
  const double rx = P.flow_target[2 * index] - proj.u;
  const double ry = P.flow_target[2 * index + 1] - proj.v;
  const double n = std::sqrt((cx * rx * rx + cy * ry * ry) / mean);
  const double weight = opt.flow_loss.weight(n);
  return {rx, ry, cx * weight, cy * weight, mean * opt.flow_loss.cost(n)};
}

void accumulate_pose(const PixelJacobians& J, const FlowResidual& f, double* H, double* v) {
  for (int a = 0; a < 6; ++a) {
    const double wx = f.cx * J.Jj[0][a], wy = f.cy * J.Jj[1][a];
    for (int b = a; b < 6; ++b) H[6 * a + b] += wx * J.Jj[0][b] + wy * J.Jj[1][b];
    v[a] += wx * f.rx + wy * f.ry;
  }
}

void symmetrise6(double* H) {
  for (int a = 0; a < 6; ++a)
    for (int b = 0; b < a; ++b) H[6 * a + b] = H[6 * b + a];
}

// Adds the prior of one pixel; returns its cost.
double add_prior(const DenseBaProblem& P, const DenseBaOptions& opt, int64_t index, double exp_scale, SourceBlock& blk,
                 int p, double* e) {
  if (opt.prior_mode == PriorMode::kNone || P.prior_depth == nullptr) return 0.0;
  const double z = P.prior_depth[index];
  if (z <= 0.0) return 0.0;
  const double d = P.inv_depth[index];
  if (opt.prior_mode == PriorMode::kDroid) {
    const double difference = d - 1.0 / z;
    blk.C[p] += opt.droid_alpha;
    blk.b[p] -= opt.droid_alpha * difference;
    return opt.droid_alpha * difference * difference;
  }
  const double m = P.prior_weight[index];
  if (m <= 0.0) return 0.0;
  const PriorResidual prior = prior_residual(d, z, exp_scale);
  const double weight = m * opt.prior_loss.weight(std::fabs(prior.r));
  blk.C[p] += weight * prior.Jd * prior.Jd;
  blk.b[p] -= weight * prior.Jd * prior.r;
  e[blk.columns - 1] = weight * prior.Jd * prior.Js;
  blk.Hss += weight * prior.Js * prior.Js;
  blk.vs -= weight * prior.Js * prior.r;
  return m * opt.prior_loss.cost(std::fabs(prior.r));
}

}  // namespace

std::vector<EdgeGeometry> edge_geometry(const DenseBaProblem& P) {
  std::vector<EdgeGeometry> geometry(P.E);
  for (int e = 0; e < P.E; ++e) {
    const auto T_i = lie::SE3<double>::load(P.poses + 7 * P.source[e]);
    const auto T_j = lie::SE3<double>::load(P.poses + 7 * P.target[e]);
    const auto T_ij = T_j * T_i.inv();
    EdgeGeometry& g = geometry[e];
    const double axes[4][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0, 0, 0}};
    const auto t = T_ij.act({axes[3][0], axes[3][1], axes[3][2]});
    g.t[0] = t.x, g.t[1] = t.y, g.t[2] = t.z;
    for (int c = 0; c < 3; ++c) {
      const auto column = T_ij.act({axes[c][0], axes[c][1], axes[c][2]});
      g.R[c] = column.x - t.x, g.R[3 + c] = column.y - t.y, g.R[6 + c] = column.z - t.z;
    }
    for (int c = 0; c < 6; ++c) {
      double unit[6] = {0, 0, 0, 0, 0, 0}, image[6];
      unit[c] = 1.0;
      T_ij.adjT(unit, image);
      for (int r = 0; r < 6; ++r) g.A[6 * r + c] = -image[r];
    }
  }
  return geometry;
}

void linearize_source(const DenseBaProblem& P, const DenseBaOptions& opt, const std::vector<EdgeGeometry>& geometry,
                      bool jacobians, SourceBlock& blk) {
  const int pixels = P.h * P.w, n = static_cast<int>(blk.edges.size()), k = blk.keyframe;
  blk.columns = 6 * n + 1;
  blk.cost = blk.Hss = blk.vs = 0.0;
  if (jacobians) {
    blk.E.assign(static_cast<size_t>(pixels) * blk.columns, 0.0);
    blk.C.assign(pixels, 0.0);
    blk.b.assign(pixels, 0.0);
    blk.Hjj.assign(36 * n, 0.0);
    blk.vj.assign(6 * n, 0.0);
  } else {
    blk.C.assign(1, 0.0), blk.b.assign(1, 0.0), blk.E.assign(blk.columns, 0.0);
  }
  const double exp_scale = P.scales ? std::exp(P.scales[k]) : 1.0;

  for (int p = 0; p < pixels; ++p) {
    const int64_t source_index = static_cast<int64_t>(k) * pixels + p;
    const double d = P.inv_depth[source_index];
    const int slot = jacobians ? p : 0;
    double* e_row = blk.E.data() + static_cast<size_t>(slot) * blk.columns;
    double ray[3];
    pixel_ray(P.K, p % P.w, p / P.w, ray);
    for (int s = 0; s < n; ++s) {
      const int edge = blk.edges[s];
      const int64_t index = static_cast<int64_t>(edge) * pixels + p;
      if (P.confidence[2 * index] + P.confidence[2 * index + 1] <= 0.0) continue;
      const EdgeGeometry& g = geometry[edge];
      PixelJacobians J;
      const PixelProjection proj = project_pixel(P.K, g.R, g.t, ray, d, jacobians ? &J : nullptr);
      const FlowResidual f = flow_residual(P, opt, index, proj);
      blk.cost += f.cost;
      if (!jacobians || f.cx + f.cy <= 0.0) continue;
      accumulate_pose(J, f, &blk.Hjj[36 * s], &blk.vj[6 * s]);
      const double wx = f.cx * J.Jz[0], wy = f.cy * J.Jz[1];
      for (int a = 0; a < 6; ++a) e_row[6 * s + a] = wx * J.Jj[0][a] + wy * J.Jj[1][a];
      blk.C[p] += wx * J.Jz[0] + wy * J.Jz[1];
      blk.b[p] += wx * f.rx + wy * f.ry;
    }
    blk.cost += add_prior(P, opt, source_index, exp_scale, blk, slot, e_row);
  }
  if (jacobians)
    for (int s = 0; s < n; ++s) symmetrise6(&blk.Hjj[36 * s]);
}

void reproject(const DenseBaProblem& P, double* coords, double* inv_depth_target, bool* valid) {
  const auto geometry = edge_geometry(P);
  const int pixels = P.h * P.w;
#pragma omp parallel for schedule(static)
  for (int e = 0; e < P.E; ++e) {
    for (int p = 0; p < pixels; ++p) {
      double ray[3];
      pixel_ray(P.K, p % P.w, p / P.w, ray);
      const double d = P.inv_depth[P.source[e] * pixels + p];
      const auto proj = project_pixel(P.K, geometry[e].R, geometry[e].t, ray, d, nullptr);
      const int64_t index = static_cast<int64_t>(e) * pixels + p;
      coords[2 * index] = proj.u;
      coords[2 * index + 1] = proj.v;
      inv_depth_target[index] = proj.inv_depth;
      valid[index] = proj.valid;
    }
  }
}

void reproject_jacobians(const DenseBaProblem& P, double* Ji, double* Jj, double* Jz) {
  const auto geometry = edge_geometry(P);
  const int pixels = P.h * P.w;
  for (int e = 0; e < P.E; ++e) {
    for (int p = 0; p < pixels; ++p) {
      double ray[3];
      pixel_ray(P.K, p % P.w, p / P.w, ray);
      PixelJacobians J;
      project_pixel(P.K, geometry[e].R, geometry[e].t, ray, P.inv_depth[P.source[e] * pixels + p], &J);
      const int64_t index = static_cast<int64_t>(e) * pixels + p;
      for (int c = 0; c < 2; ++c) {
        Jz[2 * index + c] = J.Jz[c];
        for (int a = 0; a < 6; ++a) {
          Jj[12 * index + 6 * c + a] = J.Jj[c][a];
          double sum = 0.0;
          for (int b = 0; b < 6; ++b) sum += geometry[e].A[6 * a + b] * J.Jj[c][b];
          Ji[12 * index + 6 * c + a] = sum;
        }
      }
    }
  }
}

}  // namespace droid
