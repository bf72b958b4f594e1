// SE(3): rigid motions x -> R x + t. Storage: t (3), unit quaternion x y z w. Tangent: (tau, phi), translation first.
#pragma once

#include "lietorch/so3.h"

namespace lie {

template <typename S>
struct SE3 {
  using Scalar = S;
  static constexpr int N = 7;  // numbers stored
  static constexpr int K = 6;  // degrees of freedom

  Vec3<S> t;
  Quat<S> q;

  // The quaternion is scaled to unit length on the way in.
  static LIE_HD SE3 load(const S* p7) { return {load3(p7), normalised(load_quat(p7 + 3))}; }
  LIE_HD void store(S* p7) const {
    store3(t, p7);
    store_quat(q, p7 + 3);
  }
  LIE_HD void renormalise() { q = normalised(q); }
  static LIE_HD SE3 identity() { return {{S(0), S(0), S(0)}, {S(0), S(0), S(0), S(1)}}; }

  LIE_HD SE3 operator*(const SE3& other) const { return {t + rotate(q, other.t), q * other.q}; }
  LIE_HD SE3 inv() const { return {-rotate_inverse(q, t), conjugate(q)}; }

  LIE_HD Vec3<S> act(const Vec3<S>& p) const { return rotate(q, p) + t; }
  // Image of the homogeneous point (p, w): (R p + w t, w).
  LIE_HD Vec3<S> act4(const Vec3<S>& p, S w) const { return rotate(q, p) + w * t; }
  // R^T g
  LIE_HD Vec3<S> linear_transpose(const Vec3<S>& g) const { return rotate_inverse(q, g); }
  LIE_HD Vec3<S> offset() const { return t; }
  LIE_HD void matrix(S* out16) const { store_matrix4(t, q, S(1), out16); }

  static LIE_HD SE3 exp(const S* xi6) {
    const Vec3<S> tau = load3(xi6), phi = load3(xi6 + 3);
    return {IntegralCoefficients<S>(dot(phi, phi), S(0)).apply(phi, tau), quat_exp(phi)};
  }
  LIE_HD void log(S* xi6) const {
    const Vec3<S> phi = quat_log(q);
    store3(IntegralCoefficients<S>(dot(phi, phi), S(0)).solve(phi, t), xi6);
    store3(phi, xi6 + 3);
  }
  // exp(delta) * X
  LIE_HD SE3 retr(const S* delta6) const { return exp(delta6) * *this; }

  // Ad(X) a, Ad = [R, [t]x R; 0, R]
  LIE_HD void adj(const S* a6, S* out6) const {
    const Vec3<S> phi = rotate(q, load3(a6 + 3));
    store3(rotate(q, load3(a6)) + cross(t, phi), out6);
    store3(phi, out6 + 3);
  }
  // Ad(X)^T a
  LIE_HD void adjT(const S* a6, S* out6) const {
    const Vec3<S> tau = load3(a6), phi = load3(a6 + 3);
    store3(rotate_inverse(q, tau), out6);
    store3(rotate_inverse(q, phi - cross(t, tau)), out6 + 3);
  }

  // ad(xi) v = d/ds Ad(exp(s xi)) v at s = 0, and its transpose
  static LIE_HD void small_adj(const S* xi, const S* v, S* out) {
    const Vec3<S> tau = load3(xi), phi = load3(xi + 3), v_tau = load3(v), v_phi = load3(v + 3);
    store3(cross(phi, v_tau) + cross(tau, v_phi), out);
    store3(cross(phi, v_phi), out + 3);
  }
  static LIE_HD void small_adjT(const S* xi, const S* g, S* out) {
    const Vec3<S> tau = load3(xi), phi = load3(xi + 3), g_tau = load3(g), g_phi = load3(g + 3);
    store3(cross(g_tau, phi), out);
    store3(cross(g_tau, tau) + cross(g_phi, phi), out + 3);
  }

  // (d/d delta of the image (x, w) of a homogeneous point under exp(delta))^T g
  static LIE_HD void act_jacobian_transpose(const Vec3<S>& x, S w, const Vec3<S>& g, S* out) {
    store3(w * g, out);
    store3(cross(x, g), out + 3);
  }

  // J = d vec(exp(delta) X) / d delta: J^T g, and pinv(J)^T h
  LIE_HD void project(const S* g, S* out) const {
    const Vec3<S> g_t = load3(g);
    const Vec3<S> g_q = quat_tangent_transpose(load_quat(g + 3), q);
    store3(g_t, out);
    store3(cross(t, g_t) + g_q, out + 3);
  }
  LIE_HD void lift(const S* h, S* out) const {
    const Vec3<S> h_tau = load3(h), h_phi = load3(h + 3);
    store3(h_tau, out);
    store_quat(quat_tangent(S(4) * (h_phi - cross(t, h_tau)), q), out + 3);
  }
};

}  // namespace lie
