// Fibers that stand for the threads of a block; compiled for the emulation alone. See gpu_emulation.h.
#include <lietorch/gpu.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>

#if !defined(__x86_64__) || !defined(__linux__)
#error "the emulation switches between fibers in x86-64 code; build without METRIC_SLAM_EMULATION here"
#endif

// Leaves the present fiber, whose stack pointer goes to *from, and goes on where `to` was left. Only what a function
// call must keep is kept (System V ABI); swapcontext would ask the kernel about signals each time.
extern "C" void metric_slam_switch_fiber(void** from, void* to);
asm(R"(
.text
.type metric_slam_switch_fiber, @function
.hidden metric_slam_switch_fiber
.globl metric_slam_switch_fiber
metric_slam_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size metric_slam_switch_fiber, .-metric_slam_switch_fiber
)");

namespace gpu {

void use_device(int) {}
int device_count() { return 1; }
std::string why_not(int) { return ""; }

namespace emulation {

namespace {

constexpr std::size_t kStackBytes = 256 * 1024;
constexpr std::size_t kSlotBytes = 16;
constexpr std::size_t kGuardBytes = 64;  // behind dynamic shared memory; must stay as it is

void start_fiber() { block->end_thread(); }

// A stack from which metric_slam_switch_fiber returns into start_fiber: six registers, where to go, and no caller.
void* fresh_stack(unsigned char* stack) {
  constexpr int kRegisters = 6;
  auto top = reinterpret_cast<std::uintptr_t>(stack + kStackBytes) & ~std::uintptr_t(15);
  auto* words = reinterpret_cast<void**>(top) - 2;  // a function begins with its stack 8 bytes off a multiple of 16
  words[0] = reinterpret_cast<void*>(&start_fiber);
  words[1] = nullptr;
  for (int i = 1; i <= kRegisters; ++i) words[-i] = nullptr;
  return words - kRegisters;
}

std::vector<int> turns(int count, std::uint64_t order) {
  std::vector<int> turn(count);
  std::iota(turn.begin(), turn.end(), 0);
  if (order == 1) std::reverse(turn.begin(), turn.end());
  if (order > 1) std::shuffle(turn.begin(), turn.end(), std::mt19937_64(order));
  return turn;
}

std::uint64_t chosen_order() {
  const char* text = std::getenv("METRIC_SLAM_EMULATION_ORDER");
  return text ? std::strtoull(text, nullptr, 10) : 0;
}

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

}  // namespace

Block::Block(int threads) : fibers_(threads), slots_(static_cast<std::size_t>(threads) * 2 * kSlotBytes) {
  for (Fiber& fiber : fibers_) fiber.stack.reset(new unsigned char[kStackBytes]);
}

void Block::end_thread() {
  (*kernel_)();
  hand_over(State::kEnded);
}

void Block::hand_over(State state) {
  Fiber& fiber = fibers_[running_];
  fiber.state = state;
  metric_slam_switch_fiber(&fiber.context, scheduler_);
}

void Block::wait_for_block() { hand_over(State::kAtBlockBarrier); }
void Block::wait_for_warp() { hand_over(State::kAtWarpBarrier); }

void* Block::slot(int lane) {
  const int warp = running_ / kLanesOfWarp, turn = fibers_[running_].exchanges % 2;
  return &slots_[((static_cast<std::size_t>(warp) * 2 + turn) * kLanesOfWarp + lane) * kSlotBytes];
}

void Block::next_exchange() { ++fibers_[running_].exchanges; }

bool Block::first_use(const void* shared) {
  if (std::find(used_.begin(), used_.end(), shared) != used_.end()) return false;
  used_.push_back(shared);
  return true;
}

bool Block::release_warps() {
  bool released = false;
  for (std::size_t begin = 0; begin < fibers_.size(); begin += kLanesOfWarp) {
    const auto first = fibers_.begin() + begin, last = first + kLanesOfWarp;
    if (!std::all_of(first, last, [](const Fiber& f) { return f.state == State::kAtWarpBarrier; })) continue;
    std::for_each(first, last, [](Fiber& f) { f.state = State::kReady; });
    released = true;
  }
  return released;
}

bool Block::release_block() {
  const auto waits = [](const Fiber& f) { return f.state == State::kAtBlockBarrier; };
  if (!std::all_of(fibers_.begin(), fibers_.end(), waits)) return false;
  for (Fiber& fiber : fibers_) fiber.state = State::kReady;
  return true;
}

void Block::run(const std::function<void()>& kernel, std::uint64_t order) {
  kernel_ = &kernel;
  used_.clear();
  const int threads = static_cast<int>(fibers_.size());
  for (Fiber& fiber : fibers_) {
    fiber.state = State::kReady;
    fiber.exchanges = 0;
    fiber.context = fresh_stack(fiber.stack.get());
  }
  const std::vector<int> turn = turns(threads, order);
  do {
    for (int t : turn) {
      if (fibers_[t].state != State::kReady) continue;
      running_ = t;
      place.thread = dim3(static_cast<unsigned>(t), 0, 0);
      metric_slam_switch_fiber(&scheduler_, fibers_[t].context);
    }
  } while (release_warps() || release_block());
  const auto ended = [](const Fiber& f) { return f.state == State::kEnded; };
  if (!std::all_of(fibers_.begin(), fibers_.end(), ended))
    fail("threads of a block wait for others that do not come: a barrier is not reached by all");
}

void run_grid(const char* name, dim3 grid, int threads, std::size_t shared_bytes, const std::function<void()>& kernel) {
  const std::int64_t count = static_cast<std::int64_t>(grid.x) * grid.y * grid.z;
  if (count == 0) return;
  if (threads <= 0 || threads > 1024 || threads % kLanesOfWarp != 0)
    fail(std::string(name) + ": a block has 32, 64 ... 1024 threads, not " + std::to_string(threads));
  if (grid.y > 65535 || grid.z > 65535) fail(std::string(name) + ": a grid has at most 65535 blocks in y and z");
  if (shared_bytes > 160 * 1024) fail(std::string(name) + ": no GPU has that much shared memory");
  const std::uint64_t order = chosen_order();
  Block fibers(threads);
  std::vector<unsigned char> shared(shared_bytes + kGuardBytes);
  block = &fibers;
  place.threads = dim3(static_cast<unsigned>(threads), 1, 1);
  place.blocks = grid;
  std::string wrong;
  for (int b : turns(static_cast<int>(count), order)) {
    place.block = dim3(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
    std::fill(shared.begin(), shared.end(), 0xff);
    dynamic_shared = shared.data();
    try {
      fibers.run(kernel, order > 1 ? order + b : order);
    } catch (const std::exception& error) {
      wrong = error.what();
    }
    const auto touched = [](unsigned char byte) { return byte != 0xff; };
    if (std::any_of(shared.begin() + shared_bytes, shared.end(), touched))
      wrong = "a kernel writes behind its dynamic shared memory";
    if (!wrong.empty()) break;
  }
  block = nullptr;
  dynamic_shared = nullptr;
  if (!wrong.empty()) fail(std::string(name) + ": " + wrong);
}

}  // namespace emulation
}  // namespace gpu
