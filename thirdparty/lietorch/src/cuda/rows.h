// The operations over whole arrays in the memory of a GPU: a [n, A], b [n, B] (null when B = 0) -> out [n, OUT],
// row-major and contiguous.
#pragma once

#include <cstdint>
#include <type_traits>

#include "lietorch/ops.h"

namespace lie::cuda {

// Puts one operation on a CUDA stream. All pointers are of the device; out shares no memory with a and b.
template <typename S>
using Launch = void (*)(std::int64_t rows, const S* a, const S* b, S* out, std::intptr_t stream);

// That of the numbered operation among Operations; a file for each group holds all of the group.
template <typename G>
Launch<typename G::Scalar> launch_of(int operation);

// Which of Operations is OP? G is any group.
template <template <typename> class OP, typename G, template <typename> class... OPS>
constexpr int number_of(OperationList<OPS...>) {
  int number = 0;
  const bool found = ((std::is_same_v<OP<G>, OPS<G>> || (++number, false)) || ...);
  return found ? number : -1;
}

}  // namespace lie::cuda
