// Left Jacobians: exp(xi + d) = exp(J(xi) d) exp(xi) to first order in d, with J(xi) = sum_k ad(xi)^k / (k + 1)!.
// They are never formed; what is computed is their product with a vector. Used by the backward passes of exp and log.
#pragma once

#include "lietorch/rxso3.h"
#include "lietorch/se3.h"
#include "lietorch/sim3.h"

namespace lie {

// How a tangent vector splits: where phi starts, and where sigma is (-1: the group does not scale).
template <typename G>
struct Tangent;
template <typename S>
struct Tangent<SO3<S>> {
  static constexpr int PHI = 0, SIGMA = -1;
};
template <typename S>
struct Tangent<RxSO3<S>> {
  static constexpr int PHI = 0, SIGMA = 3;
};
template <typename S>
struct Tangent<SE3<S>> {
  static constexpr int PHI = 3, SIGMA = -1;
};
template <typename S>
struct Tangent<Sim3<S>> {
  static constexpr int PHI = 3, SIGMA = 6;
};

template <typename G>
LIE_HD typename G::Scalar sigma_of(const typename G::Scalar* xi) {
  if constexpr (Tangent<G>::SIGMA >= 0) return xi[Tangent<G>::SIGMA];
  return typename G::Scalar(0);
}

// J(xi) v, or J(xi)^T v when TRANSPOSED.
// The series runs on xi / 2^n, where it needs few terms; J(2 eta) = J(eta) (I + Ad(exp(eta))) / 2 brings it back.
template <typename G, bool TRANSPOSED>
LIE_HD void left_jacobian(const typename G::Scalar* xi, const typename G::Scalar* v, typename G::Scalar* out) {
  using S = typename G::Scalar;
  const Vec3<S> phi = load3(xi + Tangent<G>::PHI);
  const S sigma = sigma_of<G>(xi);
  S size_sq = dot(phi, phi) + sigma * sigma;
  S eta[G::K], term[G::K], image[G::K];
  for (int i = 0; i < G::K; ++i) {
    eta[i] = xi[i];
    out[i] = v[i];
  }
  // 64 halvings cover every finite rotation that is not absurd; NaN falls through at once
  for (int halving = 0; halving < 64 && size_sq > S(0.25); ++halving) {
    for (int i = 0; i < G::K; ++i) eta[i] *= S(0.5);
    size_sq *= S(0.25);
    const G half = G::exp(eta);
    TRANSPOSED ? half.adjT(out, image) : half.adj(out, image);
    for (int i = 0; i < G::K; ++i) out[i] = S(0.5) * (out[i] + image[i]);
  }
  for (int i = 0; i < G::K; ++i) term[i] = out[i];
  for (int k = 1; k < 16; ++k) {  // 0.5^15 / 16! is below 1e-17
    TRANSPOSED ? G::small_adjT(eta, term, image) : G::small_adj(eta, term, image);
    for (int i = 0; i < G::K; ++i) {
      term[i] = image[i] / S(k + 1);
      out[i] += term[i];
    }
  }
}

// J(xi)^-1 v, or J(xi)^-T v when TRANSPOSED. J is block triangular, J = [W, Q; 0, L] with W of IntegralCoefficients and
// L the Jacobian of the (phi, sigma) part, so that only 3x3 systems with known inverses are solved.
template <typename G, bool TRANSPOSED>
LIE_HD void left_jacobian_inverse(const typename G::Scalar* xi, const typename G::Scalar* v, typename G::Scalar* out) {
  using S = typename G::Scalar;
  constexpr int PHI = Tangent<G>::PHI;
  const Vec3<S> phi = load3(xi + PHI);
  const IntegralCoefficients<S> turn(dot(phi, phi), S(0));
  S known[G::K], mixed[G::K];
  for (int i = 0; i < G::K; ++i) {
    known[i] = S(0);
    mixed[i] = S(0);
    out[i] = v[i];
  }
  if constexpr (PHI == 3 && TRANSPOSED) {  // first the translation rows, then what they leave for the others
    const IntegralCoefficients<S> full(dot(phi, phi), sigma_of<G>(xi));
    store3(full.solve_transpose(phi, load3(v)), known);
    left_jacobian<G, true>(xi, known, mixed);
    for (int i = 0; i < 3; ++i) out[i] = known[i];
    for (int i = 3; i < G::K; ++i) out[i] = v[i] - mixed[i];
  }
  const Vec3<S> rotation = load3(out + PHI);
  store3(TRANSPOSED ? turn.solve_transpose(phi, rotation) : turn.solve(phi, rotation), out + PHI);
  if constexpr (PHI == 3 && !TRANSPOSED) {
    const IntegralCoefficients<S> full(dot(phi, phi), sigma_of<G>(xi));
    for (int i = 3; i < G::K; ++i) known[i] = out[i];
    left_jacobian<G, false>(xi, known, mixed);
    store3(full.solve(phi, load3(v) - load3(mixed)), out);
  }
}

}  // namespace lie
