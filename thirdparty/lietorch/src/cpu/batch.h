// One operation over whole arrays: a [n, A], b [n, B] (null when B = 0) -> out [n, OUT], row-major and contiguous.
#pragma once

#include <cstddef>

#include "lietorch/ops.h"

namespace lie::cpu {

// Fewer rows than this are not worth waking the other threads.
constexpr std::ptrdiff_t ROWS_FOR_THREADS = 4096;

template <typename OP, typename S>
void run_batch(std::ptrdiff_t rows, const S* a, const S* b, S* out) {
#pragma omp parallel for schedule(static) if (rows >= ROWS_FOR_THREADS)
  for (std::ptrdiff_t i = 0; i < rows; ++i) {
    OP::run(a + i * OP::A, OP::B > 0 ? b + i * OP::B : nullptr, out + i * OP::OUT);
  }
}

}  // namespace lie::cpu
