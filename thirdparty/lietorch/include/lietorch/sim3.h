// Sim(3): similarities x -> s R x + t. Storage: t (3), unit quaternion x y z w, scale s > 0.
// Tangent: (tau, phi, sigma), translation first, s = exp(sigma).
#pragma once

#include "lietorch/so3.h"

namespace lie {

template <typename S>
struct Sim3 {
  using Scalar = S;
  static constexpr int N = 8;  // numbers stored
  static constexpr int K = 7;  // degrees of freedom

  Vec3<S> t;
  Quat<S> q;
  S s;

  static LIE_HD Sim3 load(const S* p8) { return {load3(p8), normalised(load_quat(p8 + 3)), p8[7]}; }
  LIE_HD void store(S* p8) const {
    store3(t, p8);
    store_quat(q, p8 + 3);
    p8[7] = s;
  }
  LIE_HD void renormalise() { q = normalised(q); }

  LIE_HD Sim3 operator*(const Sim3& other) const { return {act(other.t), q * other.q, s * other.s}; }
  LIE_HD Sim3 inv() const {
    const S s_inv = S(1) / s;
    return {-s_inv * rotate_inverse(q, t), conjugate(q), s_inv};
  }

  LIE_HD Vec3<S> act(const Vec3<S>& p) const { return s * rotate(q, p) + t; }
  // Image of the homogeneous point (p, w): (s R p + w t, w).
  LIE_HD Vec3<S> act4(const Vec3<S>& p, S w) const { return s * rotate(q, p) + w * t; }
  // (s R)^T g
  LIE_HD Vec3<S> linear_transpose(const Vec3<S>& g) const { return s * rotate_inverse(q, g); }
  LIE_HD Vec3<S> offset() const { return t; }
  LIE_HD void matrix(S* out16) const { store_matrix4(t, q, s, out16); }

  static LIE_HD Sim3 exp(const S* xi7) {
    const Vec3<S> tau = load3(xi7), phi = load3(xi7 + 3);
    const S sigma = xi7[6];
    return {IntegralCoefficients<S>(dot(phi, phi), sigma).apply(phi, tau), quat_exp(phi), std::exp(sigma)};
  }
  LIE_HD void log(S* xi7) const {
    const Vec3<S> phi = quat_log(q);
    const S sigma = std::log(s);
    store3(IntegralCoefficients<S>(dot(phi, phi), sigma).solve(phi, t), xi7);
    store3(phi, xi7 + 3);
    xi7[6] = sigma;
  }
  // exp(delta) * X
  LIE_HD Sim3 retr(const S* delta7) const { return exp(delta7) * *this; }

  // Ad(X) a, Ad = [s R, [t]x R, -t; 0, R, 0; 0, 0, 1]
  LIE_HD void adj(const S* a7, S* out7) const {
    const Vec3<S> phi = rotate(q, load3(a7 + 3));
    const S sigma = a7[6];
    store3(s * rotate(q, load3(a7)) + cross(t, phi) - sigma * t, out7);
    store3(phi, out7 + 3);
    out7[6] = sigma;
  }
  // Ad(X)^T a
  LIE_HD void adjT(const S* a7, S* out7) const {
    const Vec3<S> tau = load3(a7), phi = load3(a7 + 3);
    const S sigma = a7[6];
    store3(s * rotate_inverse(q, tau), out7);
    store3(rotate_inverse(q, phi - cross(t, tau)), out7 + 3);
    out7[6] = sigma - dot(t, tau);
  }

  // ad(xi) v = d/ds Ad(exp(s xi)) v at s = 0, and its transpose
  static LIE_HD void small_adj(const S* xi, const S* v, S* out) {
    const Vec3<S> tau = load3(xi), phi = load3(xi + 3), v_tau = load3(v), v_phi = load3(v + 3);
    const S sigma = xi[6], v_sigma = v[6];
    store3(cross(phi, v_tau) + sigma * v_tau + cross(tau, v_phi) - v_sigma * tau, out);
    store3(cross(phi, v_phi), out + 3);
    out[6] = S(0);
  }
  static LIE_HD void small_adjT(const S* xi, const S* g, S* out) {
    const Vec3<S> tau = load3(xi), phi = load3(xi + 3), g_tau = load3(g), g_phi = load3(g + 3);
    const S sigma = xi[6];
    store3(cross(g_tau, phi) + sigma * g_tau, out);
    store3(cross(g_tau, tau) + cross(g_phi, phi), out + 3);
    out[6] = -dot(tau, g_tau);
  }

  // (d/d delta of the image (x, w) of a homogeneous point under exp(delta))^T g
  static LIE_HD void act_jacobian_transpose(const Vec3<S>& x, S w, const Vec3<S>& g, S* out) {
    store3(w * g, out);
    store3(cross(x, g), out + 3);
    out[6] = dot(x, g);
  }

  // J = d vec(exp(delta) X) / d delta: J^T g, and pinv(J)^T h
  LIE_HD void project(const S* g, S* out) const {
    const Vec3<S> g_t = load3(g), g_phi = quat_tangent_transpose(load_quat(g + 3), q);
    const S g_s = g[7];
    store3(g_t, out);
    store3(cross(t, g_t) + g_phi, out + 3);
    out[6] = dot(t, g_t) + s * g_s;
  }
  LIE_HD void lift(const S* h, S* out) const {
    const Vec3<S> h_tau = load3(h), h_phi = load3(h + 3);
    const S h_sigma = h[6];
    store3(h_tau, out);
    store_quat(quat_tangent(S(4) * (h_phi - cross(t, h_tau)), q), out + 3);
    out[7] = (h_sigma - dot(t, h_tau)) / s;
  }
};

}  // namespace lie
