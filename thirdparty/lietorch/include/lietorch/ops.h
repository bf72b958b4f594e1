// The operations of the batched library, one element at a time: what each loop (CPU) or thread (GPU) does.
// An operation names the widths of its inputs a, b and of its output; B = 0 means that there is no second input.
#pragma once

#include "lietorch/jacobian.h"

namespace lie {

template <typename G>
using In = const typename G::Scalar*;
template <typename G>
using Out = typename G::Scalar*;

template <int A_, int B_, int OUT_>
struct Widths {
  static constexpr int A = A_, B = B_, OUT = OUT_;
};

template <typename G>
struct Exp : Widths<G::K, 0, G::N> {
  static LIE_HD void run(In<G> a, In<G>, Out<G> out) { G::exp(a).store(out); }
};

template <typename G>
struct Log : Widths<G::N, 0, G::K> {
  static LIE_HD void run(In<G> a, In<G>, Out<G> out) { G::load(a).log(out); }
};

template <typename G>
struct Inv : Widths<G::N, 0, G::N> {
  static LIE_HD void run(In<G> a, In<G>, Out<G> out) { G::load(a).inv().store(out); }
};

template <typename G>
struct Mul : Widths<G::N, G::N, G::N> {
  static LIE_HD void run(In<G> a, In<G> b, Out<G> out) { (G::load(a) * G::load(b)).store(out); }
};

template <typename G>
struct Adj : Widths<G::N, G::K, G::K> {
  static LIE_HD void run(In<G> a, In<G> b, Out<G> out) { G::load(a).adj(b, out); }
};

template <typename G>
struct AdjT : Widths<G::N, G::K, G::K> {
  static LIE_HD void run(In<G> a, In<G> b, Out<G> out) { G::load(a).adjT(b, out); }
};

// Image of a point.
template <typename G>
struct Act : Widths<G::N, 3, 3> {
  static LIE_HD void run(In<G> a, In<G> b, Out<G> out) { store3(G::load(a).act(load3(b)), out); }
};

// Image of a homogeneous point.
template <typename G>
struct Act4 : Widths<G::N, 4, 4> {
  static LIE_HD void run(In<G> a, In<G> b, Out<G> out) {
    store3(G::load(a).act4(load3(b), b[3]), out);
    out[3] = b[3];
  }
};

// ---- Backward passes. The gradient of a group element X is that of delta in exp(delta) X.

// Image x of a point and gradient g of x -> gradient of the element.
template <typename G>
struct ActGradElement : Widths<3, 3, G::K> {
  static LIE_HD void run(In<G> x, In<G> g, Out<G> out) {
    G::act_jacobian_transpose(load3(x), typename G::Scalar(1), load3(g), out);
  }
};

template <typename G>
struct Act4GradElement : Widths<4, 4, G::K> {
  static LIE_HD void run(In<G> x, In<G> g, Out<G> out) { G::act_jacobian_transpose(load3(x), x[3], load3(g), out); }
};

// Element and gradient of the image -> gradient of the point.
template <typename G>
struct ActGradPoint : Widths<G::N, 3, 3> {
  static LIE_HD void run(In<G> a, In<G> g, Out<G> out) { store3(G::load(a).linear_transpose(load3(g)), out); }
};

template <typename G>
struct Act4GradPoint : Widths<G::N, 4, 4> {
  static LIE_HD void run(In<G> a, In<G> g, Out<G> out) {
    const G x = G::load(a);
    store3(x.linear_transpose(load3(g)), out);
    out[3] = dot(x.offset(), load3(g)) + g[3];
  }
};

// ad(a)^T b
template <typename G>
struct SmallAdjT : Widths<G::K, G::K, G::K> {
  static LIE_HD void run(In<G> a, In<G> b, Out<G> out) { G::small_adjT(a, b, out); }
};

// J(a)^T b
template <typename G>
struct JacobianT : Widths<G::K, G::K, G::K> {
  static LIE_HD void run(In<G> a, In<G> b, Out<G> out) { left_jacobian<G, true>(a, b, out); }
};

// J(a)^-T b
template <typename G>
struct JacobianInverseT : Widths<G::K, G::K, G::K> {
  static LIE_HD void run(In<G> a, In<G> b, Out<G> out) { left_jacobian_inverse<G, true>(a, b, out); }
};

// J(a)^-1 b
template <typename G>
struct JacobianInverse : Widths<G::K, G::K, G::K> {
  static LIE_HD void run(In<G> a, In<G> b, Out<G> out) { left_jacobian_inverse<G, false>(a, b, out); }
};

// Gradient of the stored numbers of a -> gradient of delta.
template <typename G>
struct Project : Widths<G::N, G::N, G::K> {
  static LIE_HD void run(In<G> a, In<G> g, Out<G> out) { G::load(a).project(g, out); }
};

// Gradient of delta -> the smallest gradient of the stored numbers that projects onto it.
template <typename G>
struct Lift : Widths<G::N, G::K, G::N> {
  static LIE_HD void run(In<G> a, In<G> h, Out<G> out) { G::load(a).lift(h, out); }
};

// ---- All of them, for what has to be made of each.

template <template <typename> class... OPS>
struct OperationList {};

using Operations =
    OperationList<Exp, Log, Inv, Mul, Adj, AdjT, Act, Act4, ActGradElement, ActGradPoint, Act4GradElement,
                  Act4GradPoint, SmallAdjT, JacobianT, JacobianInverseT, JacobianInverse, Project, Lift>;

}  // namespace lie
