// SO(3): rotations of space. Storage: unit quaternion x y z w. Tangent: rotation vector phi [rad].
#pragma once

#include "lietorch/common.h"

namespace lie {

// Coefficients of W = a hat(phi) + b hat(phi)^2 + c I = int_0^1 exp(s (sigma I + hat(phi))) ds, with theta = |phi|.
// For sigma = 0 it is the left Jacobian of SO(3) and the V of SE(3). On the plane orthogonal to phi, W acts as the
// complex number (e^z - 1)/z with z = sigma + i theta, along phi as (e^sigma - 1)/sigma.
template <typename S>
struct IntegralCoefficients {
  S a, b, c;
  S theta_sq;

  LIE_HD IntegralCoefficients(S theta_squared, S sigma) : theta_sq(theta_squared) {
    if (theta_sq + sigma * sigma < S(0.25)) {
      series(sigma);
    } else {
      closed_form(sigma);
    }
  }

  // W v
  LIE_HD Vec3<S> apply(const Vec3<S>& phi, const Vec3<S>& v) const {
    const Vec3<S> pv = cross(phi, v);
    return a * pv + b * cross(phi, pv) + c * v;
  }

  // W^T v
  LIE_HD Vec3<S> apply_transpose(const Vec3<S>& phi, const Vec3<S>& v) const { return apply(-phi, v); }

  // W^-1 v; the inverse has the same form, its eigenvalues being the inverse ones. Singular at theta = 2 pi, sigma = 0.
  LIE_HD Vec3<S> solve(const Vec3<S>& phi, const Vec3<S>& v) const {
    const S re = c - b * theta_sq;
    const S modulus_sq = re * re + a * a * theta_sq;
    const Vec3<S> pv = cross(phi, v);
    const S b_inv = (a * a + b * b * theta_sq - b * c) / (c * modulus_sq);
    return (-a / modulus_sq) * pv + b_inv * cross(phi, pv) + (S(1) / c) * v;
  }

  // W^-T v
  LIE_HD Vec3<S> solve_transpose(const Vec3<S>& phi, const Vec3<S>& v) const { return solve(-phi, v); }

 private:
  // Power series of (e^z - 1)/z; with z^k = r + i theta m it needs theta^2 only. 14 terms: below 1e-16 for |z| < 1/2.
  LIE_HD void series(S sigma) {
    S r = 1, m = 0, n = 0, sigma_k = 1, factor = 1;
    a = b = c = S(0);
    for (int k = 0; k < 14; ++k) {
      factor /= S(k + 1);
      a += factor * m;
      b += factor * n;
      c += factor * sigma_k;
      n = sigma * n + m;
      const S r_next = sigma * r - theta_sq * m;
      m = r + sigma * m;
      r = r_next;
      sigma_k *= sigma;
    }
  }

  LIE_HD void closed_form(S sigma) {
    const S theta = std::sqrt(theta_sq), half_sin = std::sin(S(0.5) * theta);
    const bool turns = theta_sq > S(1e-12);
    const S sinc = turns ? std::sin(theta) / theta : S(1) - theta_sq / S(6);
    const S versine = turns ? 2 * half_sin * half_sin / theta_sq : S(0.5);
    const S scale = std::exp(sigma), modulus_sq = theta_sq + sigma * sigma;
    c = sigma == S(0) ? S(1) : std::expm1(sigma) / sigma;
    a = (scale * (sigma * sinc - std::cos(theta)) + S(1)) / modulus_sq;
    b = (scale * (sigma * versine - sinc) + c) / modulus_sq;
  }
};

// Unit quaternion of the rotation vector phi.
template <typename S>
LIE_HD Quat<S> quat_exp(const Vec3<S>& phi) {
  const S theta_sq = dot(phi, phi), theta = std::sqrt(theta_sq);
  // below 1e-4 rad the next term of the series, theta^4 / 3840, is far under rounding
  const S imag = theta < S(1e-4) ? S(0.5) - theta_sq / S(48) : std::sin(S(0.5) * theta) / theta;
  return {imag * phi.x, imag * phi.y, imag * phi.z, std::cos(S(0.5) * theta)};
}

// Rotation vector of a unit quaternion, 0 <= |phi| <= pi; w < 0 gives the short way round.
template <typename S>
LIE_HD Vec3<S> quat_log(const Quat<S>& q) {
  const Vec3<S> u{q.x, q.y, q.z};
  const S n = std::sqrt(dot(u, u)), w = std::fabs(q.w), sign = q.w < S(0) ? S(-1) : S(1);
  if (n < S(1e-4)) {
    const S ratio = n / w;  // atan(r) / r = 1 - r^2 / 3 + ...
    return (sign * S(2) / w * (S(1) - ratio * ratio / S(3))) * u;
  }
  return (sign * S(2) * std::atan2(n, w) / n) * u;
}

template <typename S>
struct SO3 {
  using Scalar = S;
  static constexpr int N = 4;  // numbers stored
  static constexpr int K = 3;  // degrees of freedom

  Quat<S> q;

  static LIE_HD SO3 load(const S* p4) { return {normalised(load_quat(p4))}; }
  LIE_HD void store(S* p4) const { store_quat(q, p4); }
  LIE_HD void renormalise() { q = normalised(q); }

  LIE_HD SO3 operator*(const SO3& other) const { return {q * other.q}; }
  LIE_HD SO3 inv() const { return {conjugate(q)}; }

  LIE_HD Vec3<S> act(const Vec3<S>& p) const { return rotate(q, p); }
  LIE_HD Vec3<S> act4(const Vec3<S>& p, S) const { return rotate(q, p); }
  LIE_HD Vec3<S> linear_transpose(const Vec3<S>& g) const { return rotate_inverse(q, g); }
  LIE_HD Vec3<S> offset() const { return {S(0), S(0), S(0)}; }
  LIE_HD void matrix(S* out16) const { store_matrix4(offset(), q, S(1), out16); }

  static LIE_HD SO3 exp(const S* phi) { return {quat_exp(load3(phi))}; }
  LIE_HD void log(S* phi) const { store3(quat_log(q), phi); }
  LIE_HD SO3 retr(const S* delta) const { return exp(delta) * *this; }

  // Ad(X) a = R a
  LIE_HD void adj(const S* a, S* out) const { store3(rotate(q, load3(a)), out); }
  LIE_HD void adjT(const S* a, S* out) const { store3(rotate_inverse(q, load3(a)), out); }

  // ad(xi) v = d/ds Ad(exp(s xi)) v at s = 0, and its transpose
  static LIE_HD void small_adj(const S* xi, const S* v, S* out) { store3(cross(load3(xi), load3(v)), out); }
  static LIE_HD void small_adjT(const S* xi, const S* g, S* out) { store3(cross(load3(g), load3(xi)), out); }

  // (d/d delta of the image (x, w) of a homogeneous point under exp(delta))^T g
  static LIE_HD void act_jacobian_transpose(const Vec3<S>& x, S, const Vec3<S>& g, S* out) { store3(cross(x, g), out); }

  // J = d vec(exp(delta) X) / d delta: J^T g, and pinv(J)^T h
  LIE_HD void project(const S* g, S* out) const { store3(quat_tangent_transpose(load_quat(g), q), out); }
  LIE_HD void lift(const S* h, S* out) const { store_quat(quat_tangent(S(4) * load3(h), q), out); }
};

}  // namespace lie
