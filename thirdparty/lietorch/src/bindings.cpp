// The module lietorch._lietorch: every operation as f(group, a[, b], out), float32 or float64, arrays on the CPU.
// The caller allocates out. Nothing is converted: another dtype, device, rank or stride is a TypeError, as a silent
// copy of out would lose the result. Group numbers: 1 SO3, 2 RxSO3, 3 SE3, 4 Sim3.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "cpu/batch.h"

namespace nb = nanobind;

namespace {

template <typename T>
using Rows = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <typename T>
void check(const Rows<T>& rows, const char* name, size_t count, int width) {
  if (rows.shape(0) != count || rows.shape(1) != size_t(width)) {
    throw std::invalid_argument(std::string(name) + " must be [" + std::to_string(count) + ", " +
                                std::to_string(width) + "], got [" + std::to_string(rows.shape(0)) + ", " +
                                std::to_string(rows.shape(1)) + "]");
  }
}

// Calls f with a value of the type of the numbered group.
template <typename S, typename F>
void with_group(int group, F f) {
  switch (group) {
    case 1:
      return f(lie::SO3<S>{});
    case 2:
      return f(lie::RxSO3<S>{});
    case 3:
      return f(lie::SE3<S>{});
    case 4:
      return f(lie::Sim3<S>{});
  }
  throw std::invalid_argument("group must be 1 (SO3), 2 (RxSO3), 3 (SE3) or 4 (Sim3), got " + std::to_string(group));
}

template <template <typename> class OP, typename S>
void define_unary(nb::module_& m, const char* name) {
  m.def(
      name,
      [](int group, Rows<const S> a, Rows<S> out) {
        with_group<S>(group, [&](auto g) {
          using Op = OP<decltype(g)>;
          check(a, "a", a.shape(0), Op::A);
          check(out, "out", a.shape(0), Op::OUT);
          nb::gil_scoped_release unlocked;
          lie::cpu::run_batch<Op, S>(a.shape(0), a.data(), nullptr, out.data());
        });
      },
      nb::arg("group"), nb::arg("a").noconvert(), nb::arg("out").noconvert());
}

template <template <typename> class OP, typename S>
void define_binary(nb::module_& m, const char* name) {
  m.def(
      name,
      [](int group, Rows<const S> a, Rows<const S> b, Rows<S> out) {
        with_group<S>(group, [&](auto g) {
          using Op = OP<decltype(g)>;
          check(a, "a", a.shape(0), Op::A);
          check(b, "b", a.shape(0), Op::B);
          check(out, "out", a.shape(0), Op::OUT);
          nb::gil_scoped_release unlocked;
          lie::cpu::run_batch<Op, S>(a.shape(0), a.data(), b.data(), out.data());
        });
      },
      nb::arg("group"), nb::arg("a").noconvert(), nb::arg("b").noconvert(), nb::arg("out").noconvert());
}

template <typename S>
void define_all(nb::module_& m) {
  define_unary<lie::Exp, S>(m, "exp");
  define_unary<lie::Log, S>(m, "log");
  define_unary<lie::Inv, S>(m, "inv");
  define_binary<lie::Mul, S>(m, "mul");
  define_binary<lie::Adj, S>(m, "adj");
  define_binary<lie::AdjT, S>(m, "adjT");
  define_binary<lie::Act, S>(m, "act");
  define_binary<lie::Act4, S>(m, "act4");
  define_binary<lie::ActGradElement, S>(m, "act_grad_element");
  define_binary<lie::ActGradPoint, S>(m, "act_grad_point");
  define_binary<lie::Act4GradElement, S>(m, "act4_grad_element");
  define_binary<lie::Act4GradPoint, S>(m, "act4_grad_point");
  define_binary<lie::SmallAdjT, S>(m, "small_adjT");
  define_binary<lie::JacobianT, S>(m, "jacobianT");
  define_binary<lie::JacobianInverseT, S>(m, "jacobian_inverseT");
  define_binary<lie::JacobianInverse, S>(m, "jacobian_inverse");
  define_binary<lie::Project, S>(m, "project");
  define_binary<lie::Lift, S>(m, "lift");
}

}  // namespace

NB_MODULE(_lietorch, m) {
  define_all<float>(m);
  define_all<double>(m);
}
