// What the module for the CPU and that for GPUs share: every operation as f(group, a[, b], out[, stream]), float32 or
// float64. The caller allocates out. Nothing is converted: another dtype, device, rank or stride is a TypeError, as a
// silent copy of out would lose the result. Group numbers: 1 SO3, 2 RxSO3, 3 SE3, 4 Sim3.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "lietorch/ops.h"

namespace lie {

namespace nb = nanobind;

template <typename Rows>
void check_shape(const Rows& rows, const char* name, std::size_t count, int width) {
  if (rows.shape(0) != count || rows.shape(1) != std::size_t(width)) {
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
      return f(SO3<S>{});
    case 2:
      return f(RxSO3<S>{});
    case 3:
      return f(SE3<S>{});
    case 4:
      return f(Sim3<S>{});
  }
  throw std::invalid_argument("group must be 1 (SO3), 2 (RxSO3), 3 (SE3) or 4 (Sim3), got " + std::to_string(group));
}

// The functions of a module. Device names where arrays are, and runs an operation there:
//   Device::template run<OP, G>(device number, rows, a, b, out, stream...)
// Stream is what comes last in a call: nothing on the CPU.
template <typename Device, typename... Stream>
class Functions {
 public:
  static void define(nb::module_& m) {
    define_for<float>(m);
    define_for<double>(m);
  }

 private:
  template <typename T>
  using Rows = nb::ndarray<T, nb::ndim<2>, nb::c_contig, typename Device::Where>;

  template <typename>
  static nb::arg stream_argument() {
    return nb::arg("stream");
  }

  template <template <typename> class OP, typename S>
  static void unary(nb::module_& m, const char* name) {
    m.def(
        name,
        [](int group, Rows<const S> a, Rows<S> out, Stream... stream) {
          with_group<S>(group, [&](auto g) {
            using G = decltype(g);
            check_shape(a, "a", a.shape(0), OP<G>::A);
            check_shape(out, "out", a.shape(0), OP<G>::OUT);
            nb::gil_scoped_release unlocked;
            Device::template run<OP, G>(a.device_id(), a.shape(0), a.data(), nullptr, out.data(), stream...);
          });
        },
        nb::arg("group"), nb::arg("a").noconvert(), nb::arg("out").noconvert(), stream_argument<Stream>()...);
  }

  template <template <typename> class OP, typename S>
  static void binary(nb::module_& m, const char* name) {
    m.def(
        name,
        [](int group, Rows<const S> a, Rows<const S> b, Rows<S> out, Stream... stream) {
          with_group<S>(group, [&](auto g) {
            using G = decltype(g);
            check_shape(a, "a", a.shape(0), OP<G>::A);
            check_shape(b, "b", a.shape(0), OP<G>::B);
            check_shape(out, "out", a.shape(0), OP<G>::OUT);
            nb::gil_scoped_release unlocked;
            Device::template run<OP, G>(a.device_id(), a.shape(0), a.data(), b.data(), out.data(), stream...);
          });
        },
        nb::arg("group"), nb::arg("a").noconvert(), nb::arg("b").noconvert(), nb::arg("out").noconvert(),
        stream_argument<Stream>()...);
  }

  template <typename S>
  static void define_for(nb::module_& m) {
    unary<Exp, S>(m, "exp");
    unary<Log, S>(m, "log");
    unary<Inv, S>(m, "inv");
    binary<Mul, S>(m, "mul");
    binary<Adj, S>(m, "adj");
    binary<AdjT, S>(m, "adjT");
    binary<Act, S>(m, "act");
    binary<Act4, S>(m, "act4");
    binary<ActGradElement, S>(m, "act_grad_element");
    binary<ActGradPoint, S>(m, "act_grad_point");
    binary<Act4GradElement, S>(m, "act4_grad_element");
    binary<Act4GradPoint, S>(m, "act4_grad_point");
    binary<SmallAdjT, S>(m, "small_adjT");
    binary<JacobianT, S>(m, "jacobianT");
    binary<JacobianInverseT, S>(m, "jacobian_inverseT");
    binary<JacobianInverse, S>(m, "jacobian_inverse");
    binary<Project, S>(m, "project");
    binary<Lift, S>(m, "lift");
  }
};

}  // namespace lie
