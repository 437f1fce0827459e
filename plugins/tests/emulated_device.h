// Runs the source of the CUDA kernels on the CPU: every thread of a block is a fiber, barriers and warp exchanges happen
// as CUDA defines them, and the tensor-core product follows the fragment layout of the PTX ISA (mma.m16n8k16).
//
// What this proves is a kernel's logic: indices, tails, masks, alignment, which lane holds what, that all lanes reach
// every barrier, that there is one between the loads and a tensor-core product, and, under the sanitizers, that nothing
// outside the tensors is touched. What it cannot show is speed, and what real hardware does differently: rounding inside
// the tensor cores, memory ordering within a warp, the compiler's own mistakes. tests/plugins/test_cuda_kernel.py runs the kernels themselves where there is a GPU.
#ifndef LIT_DEPLOY_TESTS_EMULATED_DEVICE_H_
#define LIT_DEPLOY_TESTS_EMULATED_DEVICE_H_

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_element.h"
#include "half.h"

// AddressSanitizer must be told about each change of stack.
#ifdef __SANITIZE_ADDRESS__
#define LIT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LIT_ASAN 1
#endif
#endif
#ifdef LIT_ASAN
#include <sanitizer/common_interface_defs.h>
#else
static inline void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static inline void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

namespace lit_deploy::cuda {

// The order in which the fibers of a block run between two barriers. A result that depends on it is a missing barrier.
enum class Schedule { kForward, kBackward, kShuffled };

// The bits of a bfloat16 <-> float; rounds to nearest even, NaN stays NaN.
inline float float_from_bfloat16(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

inline uint16_t bfloat16_from_float(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  if (std::isnan(value)) return static_cast<uint16_t>((word >> 16) | 0x40u);
  return static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
}

constexpr size_t kStackBytes = 256 * 1024;
constexpr int kMostWarps = 32;  // of a block, in CUDA

// One thread block: fibers that run until they wait at a barrier, and a scheduler that opens the barriers.
class Block {
 public:
  Block(int threads, Schedule schedule) : fibers_(static_cast<size_t>(threads)), order_(fibers_.size()) {
    for (Fiber& fiber : fibers_) fiber.stack = std::make_unique<char[]>(kStackBytes);
    std::iota(order_.begin(), order_.end(), size_t{0});
    if (schedule == Schedule::kBackward) std::reverse(order_.begin(), order_.end());
    if (schedule == Schedule::kShuffled) std::shuffle(order_.begin(), order_.end(), std::mt19937(11));
  }

  int threads() const { return static_cast<int>(fibers_.size()); }

  // Runs body(thread) for every thread; null, or what went wrong.
  const char* run(const std::function<void(int)>& body) {
    body_ = &body;
    error_ = nullptr;
    for (size_t i = 0; i < fibers_.size(); ++i) start(fibers_[i]);
    for (;;) {
      for (size_t i : order_) {
        if (fibers_[i].state == State::kReady) resume(i);
      }
      if (all_of(0, fibers_.size(), State::kDone)) return error_;
      if (!open_barriers()) return "a barrier that not all threads reach";
    }
  }

  void wait(int thread, bool whole_block) {
    fibers_[static_cast<size_t>(thread)].state = whole_block ? State::kAtBlockBarrier : State::kAtWarpBarrier;
    leave(thread, false);
  }

  void fail(const char* what) { error_ = what; }

  // What the lanes of one warp show each other. Two take turns, so that one barrier per exchange is enough: whoever
  // writes to the first again has passed the barrier of the second, when all had read the first.
  struct Exchange {
    float value[kWarpLanes];
    uint32_t a[kWarpLanes][4];
    uint32_t b[kWarpLanes][2];
  };
  Exchange& exchange(int thread, bool turn) { return exchanges_[thread / kWarpLanes][turn ? 1 : 0]; }

 private:
  enum class State { kReady, kAtWarpBarrier, kAtBlockBarrier, kDone };
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    State state;
    void* sanitizer_stack;  // AddressSanitizer's own, while the fiber is not running
  };

  void start(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    fiber.state = State::kReady;
    fiber.sanitizer_stack = nullptr;
    makecontext(&fiber.context, &Block::enter, 0);
  }

  static void enter() {
    Block& block = *running_;
    const int thread = block.current_;
    __sanitizer_finish_switch_fiber(nullptr, &block.main_stack_, &block.main_stack_size_);
    (*block.body_)(thread);
    block.fibers_[static_cast<size_t>(thread)].state = State::kDone;
    block.leave(thread, true);
  }

  void resume(size_t index) {
    Fiber& fiber = fibers_[index];
    running_ = this;
    current_ = static_cast<int>(index);
    void* sanitizer_stack = nullptr;
    __sanitizer_start_switch_fiber(&sanitizer_stack, fiber.stack.get(), kStackBytes);
    swapcontext(&main_, &fiber.context);
    __sanitizer_finish_switch_fiber(sanitizer_stack, nullptr, nullptr);
  }

  void leave(int thread, bool for_good) {
    Fiber& fiber = fibers_[static_cast<size_t>(thread)];
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.sanitizer_stack, main_stack_, main_stack_size_);
    swapcontext(&fiber.context, &main_);
    __sanitizer_finish_switch_fiber(fiber.sanitizer_stack, &main_stack_, &main_stack_size_);
  }

  bool all_of(size_t begin, size_t end, State state) const {
    return std::all_of(fibers_.begin() + static_cast<std::ptrdiff_t>(begin),
                       fibers_.begin() + static_cast<std::ptrdiff_t>(end),
                       [&](const Fiber& fiber) { return fiber.state == state; });
  }

  void release(size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) fibers_[i].state = State::kReady;
  }

  bool open_barriers() {
    bool opened = false;
    for (size_t begin = 0; begin < fibers_.size(); begin += kWarpLanes) {
      if (!all_of(begin, begin + kWarpLanes, State::kAtWarpBarrier)) continue;
      release(begin, begin + kWarpLanes);
      opened = true;
    }
    if (!opened && all_of(0, fibers_.size(), State::kAtBlockBarrier)) {
      release(0, fibers_.size());
      opened = true;
    }
    return opened;
  }

  static inline Block* running_ = nullptr;
  std::vector<Fiber> fibers_;
  std::vector<size_t> order_;
  Exchange exchanges_[kMostWarps][2];
  const std::function<void(int)>* body_ = nullptr;
  const char* error_ = nullptr;
  int current_ = 0;
  ucontext_t main_;
  const void* main_stack_ = nullptr;
  size_t main_stack_size_ = 0;
};

inline float value_of(Float16, uint16_t bits) { return float_from_half(bits); }
inline float value_of(BFloat16, uint16_t bits) { return float_from_bfloat16(bits); }
inline uint16_t bits_of(Float16, float value) { return half_from_float(value); }
inline uint16_t bits_of(BFloat16, float value) { return bfloat16_from_float(value); }

class EmulatedDevice {
 public:
  EmulatedDevice(Block& group, int thread, int64_t block)
      : group_(group), thread_(thread), block_(static_cast<uint32_t>(block)) {}

  uint32_t thread() const { return static_cast<uint32_t>(thread_); }
  uint32_t threads() const { return static_cast<uint32_t>(group_.threads()); }
  uint32_t block() const { return block_; }
  void sync() {
    group_.wait(thread_, true);
    converged_ = true;
  }
  void sync_warp() {
    group_.wait(thread_, false);
    converged_ = true;
  }

  float shuffle_xor(float value, int mask) {
    Block::Exchange& exchange = group_.exchange(thread_, turn_ = !turn_);
    exchange.value[lane()] = value;
    group_.wait(thread_, false);
    return exchange.value[lane() ^ mask];
  }

  // PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": lane 4 * group + quarter holds
  //   a[0] A(group, 2 * quarter + 0..1)  a[1] A(group + 8, the same)  a[2], a[3] the same with 8 more columns
  //   b[0] B(2 * quarter + 0..1, group)  b[1] B(2 * quarter + 8..9, group)
  //   sum[0..1] C(group, 2 * quarter + 0..1)  sum[2..3] C(group + 8, the same)
  //
  // All lanes must run it as one. Loads are what the kernel makes lanes branch on: between a load and the product there
  // has to be a sync_warp(), which CUDA needs to bring the lanes together again.
  template <typename E>
  void mma(E element, float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if (!converged_) group_.fail("a product without sync_warp() behind the loads");
    Block::Exchange& exchange = group_.exchange(thread_, turn_ = !turn_);
    std::copy(a, a + 4, exchange.a[lane()]);
    std::copy(b, b + 2, exchange.b[lane()]);
    group_.wait(thread_, false);
    const int group = lane() / 4, quarter = lane() % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = group + 8 * (i / 2), column = 2 * quarter + i % 2;
      double total = 0.0;
      for (int k = 0; k < 16; ++k) {
        const uint32_t word_a = exchange.a[row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)];
        const uint32_t word_b = exchange.b[column * 4 + k % 8 / 2][k / 8];
        total += static_cast<double>(half_word(element, word_a, k % 2)) *
                 static_cast<double>(half_word(element, word_b, k % 2));
      }
      sum[i] = static_cast<float>(static_cast<double>(sum[i]) + total);
    }
  }

  uint32_t multiply_high(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }

  float product(float a, float b) {
    volatile float rounded = a * b;  // whatever the compiler would fuse
    return rounded;
  }

  // One fiber runs at a time, so that any step is one.
  void atomic_max(uint32_t* p, uint32_t value) { *p = std::max(*p, value); }
  void atomic_or(uint64_t* p, uint64_t value) { *p |= value; }

  template <typename T>
  T load(const T* p) {
    check_aligned(p, sizeof(T));
    converged_ = false;
    return *p;
  }

  Words load16(const void* p) {
    check_aligned(p, kVectorBytes);
    converged_ = false;
    Words words;
    std::memcpy(&words, p, sizeof words);
    return words;
  }

  void store16(void* p, const Words& words) {
    check_aligned(p, kVectorBytes);
    std::memcpy(p, &words, sizeof words);
  }

  template <typename E>
  void widen(E element, uint32_t word, float (&pair)[2]) {
    for (int i = 0; i < 2; ++i) pair[i] = half_word(element, word, i);
  }

  template <typename E>
  uint32_t narrow(E element, const float (&pair)[2]) {
    return bits_of(element, pair[0]) | static_cast<uint32_t>(bits_of(element, pair[1])) << 16;
  }

 private:
  int lane() const { return thread_ % kWarpLanes; }

  template <typename E>
  static float half_word(E element, uint32_t word, int which) {
    return value_of(element, static_cast<uint16_t>(word >> (16 * which)));
  }

  void check_aligned(const void* p, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(p) % bytes != 0) group_.fail("a misaligned access");
  }

  Block& group_;
  int thread_;
  uint32_t block_;
  bool turn_ = false;
  bool converged_ = true;  // since the last barrier, nothing that lanes branch on
};

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_TESTS_EMULATED_DEVICE_H_
