// R+ x SO(3): rotation and scaling, x -> s R x. Storage: unit quaternion x y z w, scale s > 0.
// Tangent: (phi, sigma), s = exp(sigma).
#pragma once

#include "lietorch/so3.h"

namespace lie {

template <typename S>
struct RxSO3 {
  using Scalar = S;
  static constexpr int N = 5;  // numbers stored
  static constexpr int K = 4;  // degrees of freedom

  Quat<S> q;
  S s;

  static LIE_HD RxSO3 load(const S* p5) { return {normalised(load_quat(p5)), p5[4]}; }
  LIE_HD void store(S* p5) const {
    store_quat(q, p5);
    p5[4] = s;
  }
  LIE_HD void renormalise() { q = normalised(q); }

  LIE_HD RxSO3 operator*(const RxSO3& other) const { return {q * other.q, s * other.s}; }
  LIE_HD RxSO3 inv() const { return {conjugate(q), S(1) / s}; }

  LIE_HD Vec3<S> act(const Vec3<S>& p) const { return s * rotate(q, p); }
  LIE_HD Vec3<S> act4(const Vec3<S>& p, S) const { return act(p); }
  // (s R)^T g
  LIE_HD Vec3<S> linear_transpose(const Vec3<S>& g) const { return s * rotate_inverse(q, g); }
  LIE_HD Vec3<S> offset() const { return {S(0), S(0), S(0)}; }
  LIE_HD void matrix(S* out16) const { store_matrix4(offset(), q, s, out16); }

  static LIE_HD RxSO3 exp(const S* xi4) { return {quat_exp(load3(xi4)), std::exp(xi4[3])}; }
  LIE_HD void log(S* xi4) const {
    store3(quat_log(q), xi4);
    xi4[3] = std::log(s);
  }
  // exp(delta) * X
  LIE_HD RxSO3 retr(const S* delta4) const { return exp(delta4) * *this; }

  // Ad(X) a, Ad = [R, 0; 0, 1], and its transpose
  LIE_HD void adj(const S* a4, S* out4) const {
    store3(rotate(q, load3(a4)), out4);
    out4[3] = a4[3];
  }
  LIE_HD void adjT(const S* a4, S* out4) const {
    store3(rotate_inverse(q, load3(a4)), out4);
    out4[3] = a4[3];
  }

  // ad(xi) v = d/ds Ad(exp(s xi)) v at s = 0, and its transpose
  static LIE_HD void small_adj(const S* xi, const S* v, S* out) {
    store3(cross(load3(xi), load3(v)), out);
    out[3] = S(0);
  }
  static LIE_HD void small_adjT(const S* xi, const S* g, S* out) {
    store3(cross(load3(g), load3(xi)), out);
    out[3] = S(0);
  }

  // (d/d delta of the image (x, w) of a homogeneous point under exp(delta))^T g
  static LIE_HD void act_jacobian_transpose(const Vec3<S>& x, S, const Vec3<S>& g, S* out) {
    store3(cross(x, g), out);
    out[3] = dot(x, g);
  }

  // J = d vec(exp(delta) X) / d delta: J^T g, and pinv(J)^T h
  LIE_HD void project(const S* g, S* out) const {
    const S g_s = g[4];
    store3(quat_tangent_transpose(load_quat(g), q), out);
    out[3] = s * g_s;
  }
  LIE_HD void lift(const S* h, S* out) const {
    const S h_sigma = h[3];
    store_quat(quat_tangent(S(4) * load3(h), q), out);
    out[4] = h_sigma / s;
  }
};

}  // namespace lie
