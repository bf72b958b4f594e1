// Where the pixels of every edge's source lie in its target: a thread for each pixel of an edge.
#include <lietorch/gpu.h>

#include "view_pairs.h"

namespace droid::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kGeometry = 48;  // R, t, A

// A pixel of an edge, and the motion of the edge, which one thread makes for its block.
template <bool kJacobians>
struct Place {
  int64_t edge, pixel;
  double x, y, d;  // viewing ray (x, y, 1) and inverse depth
  bool inside;

  __device__ Place(const Views& views, const ViewPairs& edges, int pixel_blocks, double* geometry)
      : edge(blockIdx.x / pixel_blocks),
        pixel(static_cast<int64_t>(blockIdx.x % pixel_blocks) * kThreads + threadIdx.x),
        inside(pixel < views.pixels()) {
    if (threadIdx.x == 0) {
      const EdgeGeometry own(relative_pose(views.poses + 7 * edges.source[edge], views.poses + 7 * edges.target[edge]));
      for (int i = 0; i < 9; ++i) geometry[i] = own.R[i];
      for (int i = 0; i < 3; ++i) geometry[9 + i] = own.t[i];
      for (int i = 0; kJacobians && i < 36; ++i) geometry[12 + i] = own.A[i];
    }
    x = ray_x(views.K, static_cast<int>(pixel % views.w)), y = ray_y(views.K, static_cast<int>(pixel / views.w));
    d = inside ? views.inv_depth[edges.source[edge] * views.pixels() + pixel] : 0.0;
    __syncthreads();
  }
};

__global__ void reproject_kernel(Views views, ViewPairs edges, int pixel_blocks, double* coords,
                                 double* inv_depth_target, bool* valid) {
  GPU_SHARED(double, geometry, kGeometry);
  const Place<false> at(views, edges, pixel_blocks, geometry);
  if (!at.inside) return;
  PixelJacobians<double>* no_jacobians = nullptr;
  const auto proj = project_pixel<double>(views.K, geometry, geometry + 9, at.x, at.y, at.d, no_jacobians);
  const int64_t index = at.edge * views.pixels() + at.pixel;
  coords[2 * index] = proj.u;
  coords[2 * index + 1] = proj.v;
  inv_depth_target[index] = proj.inv_depth;
  valid[index] = proj.valid;
}

__global__ void jacobians_kernel(Views views, ViewPairs edges, int pixel_blocks, double* Ji, double* Jj, double* Jz) {
  GPU_SHARED(double, geometry, kGeometry);
  const Place<true> at(views, edges, pixel_blocks, geometry);
  if (!at.inside) return;
  PixelJacobians<double> J;
  project_pixel<double>(views.K, geometry, geometry + 9, at.x, at.y, at.d, &J);
  const int64_t index = at.edge * views.pixels() + at.pixel;
  for (int c = 0; c < 2; ++c) {
    Jz[2 * index + c] = J.Jz[c];
    for (int a = 0; a < 6; ++a) {
      Jj[12 * index + 6 * c + a] = J.Jj[c][a];
      Ji[12 * index + 6 * c + a] = source_jacobian(geometry + 12, J.Jj[c], a);
    }
  }
}

}  // namespace

void reproject(const Views& views, const ViewPairs& edges, double* coords, double* inv_depth_target, bool* valid,
               std::intptr_t stream) {
  const unsigned pixel_blocks = gpu::blocks(views.pixels(), kThreads);
  gpu::launch("reproject", reproject_kernel, dim3(pixel_blocks * static_cast<unsigned>(edges.P)), kThreads, 0, stream,
              views, edges, pixel_blocks, coords, inv_depth_target, valid);
}

void reproject_jacobians(const Views& views, const ViewPairs& edges, double* Ji, double* Jj, double* Jz,
                         std::intptr_t stream) {
  const unsigned pixel_blocks = gpu::blocks(views.pixels(), kThreads);
  gpu::launch("reproject_jacobians", jacobians_kernel, dim3(pixel_blocks * static_cast<unsigned>(edges.P)), kThreads, 0,
              stream, views, edges, pixel_blocks, Ji, Jj, Jz);
}

}  // namespace droid::cuda
