// The module lietorch._lietorch: the operations on the CPU.
#include "bindings.h"

#include "cpu/batch.h"

namespace {

struct Cpu {
  using Where = nanobind::device::cpu;

  template <template <typename> class OP, typename G>
  static void run(int, std::size_t rows, lie::In<G> a, lie::In<G> b, lie::Out<G> out) {
    lie::cpu::run_batch<OP<G>, typename G::Scalar>(static_cast<std::ptrdiff_t>(rows), a, b, out);
  }
};

}  // namespace

NB_MODULE(_lietorch, m) { lie::Functions<Cpu>::define(m); }
