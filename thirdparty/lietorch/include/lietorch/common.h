// Small fixed-size algebra for the Lie groups: no allocation, no library, the same code on host and device.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define LIE_HD __host__ __device__ inline
#else
#define LIE_HD inline
#endif

namespace lie {

template <typename S>
struct Vec3 {
  S x, y, z;
};

// Hamilton quaternion, stored x y z w; rotations are unit quaternions, q and -q are the same rotation.
template <typename S>
struct Quat {
  S x, y, z, w;
};

// Row-major 3x3 matrix.
template <typename S>
struct Mat3 {
  S m[9];
  LIE_HD S operator()(int row, int col) const { return m[3 * row + col]; }
  LIE_HD S& operator()(int row, int col) { return m[3 * row + col]; }
};

template <typename S>
LIE_HD Vec3<S> load3(const S* p) {
  return {p[0], p[1], p[2]};
}

template <typename S>
LIE_HD void store3(const Vec3<S>& v, S* p) {
  p[0] = v.x;
  p[1] = v.y;
  p[2] = v.z;
}

template <typename S>
LIE_HD Vec3<S> operator+(const Vec3<S>& a, const Vec3<S>& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}

template <typename S>
LIE_HD Vec3<S> operator-(const Vec3<S>& a, const Vec3<S>& b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}

template <typename S>
LIE_HD Vec3<S> operator-(const Vec3<S>& a) {
  return {-a.x, -a.y, -a.z};
}

template <typename S>
LIE_HD Vec3<S> operator*(S k, const Vec3<S>& a) {
  return {k * a.x, k * a.y, k * a.z};
}

template <typename S>
LIE_HD S dot(const Vec3<S>& a, const Vec3<S>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}

template <typename S>
LIE_HD Vec3<S> cross(const Vec3<S>& a, const Vec3<S>& b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

template <typename S>
LIE_HD Vec3<S> operator*(const Mat3<S>& a, const Vec3<S>& v) {
  return {a.m[0] * v.x + a.m[1] * v.y + a.m[2] * v.z, a.m[3] * v.x + a.m[4] * v.y + a.m[5] * v.z,
          a.m[6] * v.x + a.m[7] * v.y + a.m[8] * v.z};
}

template <typename S>
LIE_HD Quat<S> load_quat(const S* p) {
  return {p[0], p[1], p[2], p[3]};
}

template <typename S>
LIE_HD void store_quat(const Quat<S>& q, S* p) {
  p[0] = q.x;
  p[1] = q.y;
  p[2] = q.z;
  p[3] = q.w;
}

template <typename S>
LIE_HD Quat<S> conjugate(const Quat<S>& q) {
  return {-q.x, -q.y, -q.z, q.w};
}

// Scaled to unit length; the sign stays as it is.
template <typename S>
LIE_HD Quat<S> normalised(const Quat<S>& q) {
  const S k = S(1) / std::sqrt(q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w);
  return {k * q.x, k * q.y, k * q.z, k * q.w};
}

template <typename S>
LIE_HD Quat<S> operator*(const Quat<S>& a, const Quat<S>& b) {
  return {a.w * b.x + a.x * b.w + a.y * b.z - a.z * b.y, a.w * b.y - a.x * b.z + a.y * b.w + a.z * b.x,
          a.w * b.z + a.x * b.y - a.y * b.x + a.z * b.w, a.w * b.w - a.x * b.x - a.y * b.y - a.z * b.z};
}

// R(q) v for a unit quaternion: v + 2 w (u x v) + 2 u x (u x v).
template <typename S>
LIE_HD Vec3<S> rotate(const Quat<S>& q, const Vec3<S>& v) {
  const Vec3<S> u{q.x, q.y, q.z};
  const Vec3<S> c = S(2) * cross(u, v);
  return v + q.w * c + cross(u, c);
}

// R(q)^T v.
template <typename S>
LIE_HD Vec3<S> rotate_inverse(const Quat<S>& q, const Vec3<S>& v) {
  return rotate(conjugate(q), v);
}

template <typename S>
LIE_HD Mat3<S> rotation_matrix(const Quat<S>& q) {
  const S x2 = 2 * q.x, y2 = 2 * q.y, z2 = 2 * q.z;
  const S wx = q.w * x2, wy = q.w * y2, wz = q.w * z2;
  const S xx = q.x * x2, xy = q.x * y2, xz = q.x * z2, yy = q.y * y2, yz = q.y * z2, zz = q.z * z2;
  return {{1 - yy - zz, xy - wz, xz + wy, xy + wz, 1 - xx - zz, yz - wx, xz - wy, yz + wx, 1 - xx - yy}};
}

// Row-major 4x4 [scale * R(q), t; 0, 1].
template <typename S>
LIE_HD void store_matrix4(const Vec3<S>& t, const Quat<S>& q, S scale, S* out16) {
  const Mat3<S> r = rotation_matrix(q);
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) out16[4 * i + j] = scale * r(i, j);
  out16[3] = t.x;
  out16[7] = t.y;
  out16[11] = t.z;
  out16[12] = out16[13] = out16[14] = S(0);
  out16[15] = S(1);
}

// What one quaternion rotation does to the embedding: d q = (1/2) (delta, 0) * q for R -> exp(delta) R.
template <typename S>
LIE_HD Quat<S> quat_tangent(const Vec3<S>& delta, const Quat<S>& q) {
  const S h = S(0.5);
  return Quat<S>{h * delta.x, h * delta.y, h * delta.z, S(0)} * q;
}

// Transpose of quat_tangent: gradient g of the embedding -> gradient of delta.
template <typename S>
LIE_HD Vec3<S> quat_tangent_transpose(const Quat<S>& g, const Quat<S>& q) {
  const Quat<S> r = g * conjugate(q);
  return {S(0.5) * r.x, S(0.5) * r.y, S(0.5) * r.z};
}

}  // namespace lie
