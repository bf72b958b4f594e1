// Runs kernels on the CPU: the same text, block by block and thread by thread. It is for tests, not for speed.
//
// The threads of a block are fibers that hand over at every barrier and every exchange between lanes, so shared memory
// and warps behave as on a GPU. What would be an accident there is an error or shows in the results here:
//
//   - threads that wait at different barriers, or return while others wait, end the launch with an error;
//   - shared memory starts as NaN (all bits set) in every block;
//   - threads take turns in an order that can be chosen (METRIC_SLAM_EMULATION_ORDER = 0 forward, 1 backward, other:
//     the seed of a shuffle), blocks likewise: a missing barrier or a race makes results depend on it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace gpu::emulation {

constexpr int kLanesOfWarp = 32;

// Where the running thread is; kernels read it under the usual names.
struct Place {
  dim3 thread{0, 0, 0}, block{0, 0, 0}, threads, blocks;
};
inline thread_local Place place;

// One block of fibers. Kernels see it through the free functions below.
class Block {
 public:
  explicit Block(int threads);
  void run(const std::function<void()>& kernel, std::uint64_t order);

  void wait_for_block();
  void wait_for_warp();
  void* slot(int lane);  // of the running thread's warp, for the exchange it is at; 16 bytes
  void next_exchange();
  bool first_use(const void* shared);  // of this array in this block?
  void end_thread();

 private:
  enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kEnded };
  struct Fiber {
    void* context = nullptr;  // stack pointer while it waits
    std::unique_ptr<unsigned char[]> stack;
    State state = State::kReady;
    int exchanges = 0;
  };
  void hand_over(State state);
  bool release_warps();
  bool release_block();

  std::vector<Fiber> fibers_;
  std::vector<unsigned char> slots_;  // [warps, 2, lanes, 16 bytes]
  std::vector<const void*> used_;
  const std::function<void()>* kernel_ = nullptr;
  void* scheduler_ = nullptr;
  int running_ = 0;
};

inline thread_local Block* block = nullptr;
inline thread_local unsigned char* dynamic_shared = nullptr;

void run_grid(const char* name, dim3 grid, int threads, std::size_t shared_bytes, const std::function<void()>& kernel);

// What another lane of the warp holds; every lane must take part.
template <typename T>
T exchanged(const T& value, int lane) {
  static_assert(sizeof(T) <= 16, "slots have 16 bytes");
  std::memcpy(block->slot(static_cast<int>(place.thread.x) % kLanesOfWarp), &value, sizeof(T));
  block->wait_for_warp();
  T other;
  std::memcpy(&other, block->slot(lane), sizeof(T));
  block->next_exchange();
  return other;
}

inline int lane() { return static_cast<int>(place.thread.x) % kLanesOfWarp; }

template <typename T>
T* fresh(T* shared, std::size_t bytes) {
  if (block->first_use(shared)) std::memset(static_cast<void*>(shared), 0xff, bytes);
  return shared;
}

}  // namespace gpu::emulation

#define threadIdx (::gpu::emulation::place.thread)
#define blockIdx (::gpu::emulation::place.block)
#define blockDim (::gpu::emulation::place.threads)
#define gridDim (::gpu::emulation::place.blocks)

inline void __syncthreads() { gpu::emulation::block->wait_for_block(); }
inline void __syncwarp(unsigned = 0xffffffffu) { gpu::emulation::block->wait_for_warp(); }

namespace gpu {

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t shared_bytes,
            std::intptr_t, Arguments... arguments) {
  emulation::run_grid(name, grid, threads, shared_bytes, [&] { kernel(static_cast<Parameters>(arguments)...); });
}

template <typename T>
T shuffle_xor(const T& value, int lanes) {
  return emulation::exchanged(value, emulation::lane() ^ lanes);
}
template <typename T>
T shuffle(const T& value, int lane) {
  return emulation::exchanged(value, lane);
}

#define GPU_SHARED(T, name, count)   \
  static thread_local T name[count]; \
  ::gpu::emulation::fresh(name, sizeof(name))
#define GPU_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(::gpu::emulation::dynamic_shared)

}  // namespace gpu
