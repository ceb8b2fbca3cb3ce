// Runs the CUDA kernels of csrc/cuda on the CPU, one fiber a thread, to compare them with the references
// without a GPU.
//
// Blocks run one after another in shuffled order. Inside a block the fibers run one at a time; whenever one
// reaches a barrier, a warp operation or an atomic, a random other one goes on, so code that needs a barrier
// which is not there reads stale values under some seed. Shared memory is filled with garbage before every
// block. A fiber that waits for ever, lanes of a warp that meet in different operations, and a warp operation
// under any mask but all lanes are errors.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))

// The linker's names for where the section begins and ends; absent from a program without shared memory.
extern char __start_shared_memory[] __attribute__((weak));
extern char __stop_shared_memory[] __attribute__((weak));

struct Index {
  unsigned x = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

constexpr unsigned kLanes = 32;
constexpr std::size_t kStackBytes = 64 * 1024;

// Threads that wait for each other: the lanes of a warp, or all threads of a block.
struct Meeting {
  std::string_view operation;      // what those that wait are doing
  std::vector<unsigned> waiting;   // threads
  std::vector<uint64_t> arriving;  // one value a thread, by its place in the group
  std::vector<uint64_t> exchanged;
};

class Block {
 public:
  Block(unsigned threads, unsigned seed, const std::function<void()>& kernel)
      : kernel_(kernel), random_(seed), warps_((threads + kLanes - 1) / kLanes) {
    if (threads % kLanes != 0) throw std::runtime_error("the block size must be a multiple of 32");
    all_.arriving.resize(threads);
    for (Meeting& warp : warps_) warp.arriving.resize(kLanes);
    fibers_.resize(threads);
    ready_.resize(threads);
    std::iota(ready_.begin(), ready_.end(), 0u);
  }

  void run() {
    for (Fiber& fiber : fibers_) {
      fiber.stack.reset(new char[kStackBytes]);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Block::fiber_main, 0);
    }
    current_ = this;
    while (!ready_.empty() && error_.empty()) {
      std::swap(ready_[random_() % ready_.size()], ready_.back());
      threadIdx.x = ready_.back();
      ready_.pop_back();
      swapcontext(&scheduler_, &fibers_[threadIdx.x].context);
    }
    current_ = nullptr;
    if (error_.empty() && finished_ != fibers_.size()) error_ = "deadlock: " + waiting_threads();
    if (!error_.empty()) throw std::runtime_error(error_);
  }

  static Block& current() { return *current_; }

  // Waits for all lanes of the warp; returns what each of them brought.
  const std::vector<uint64_t>& meet_warp(const char* operation, uint64_t value) {
    return meet(warps_[threadIdx.x / kLanes], operation, threadIdx.x % kLanes, value);
  }
  void meet_block() { meet(all_, "__syncthreads", threadIdx.x, 0); }

  // Lets other threads go first, now and then.
  void pause() {
    if (random_() % 8 != 0) return;
    ready_.push_back(threadIdx.x);
    leave();
  }

  [[noreturn]] void fail(const std::string& why) {
    error_ = "thread " + std::to_string(threadIdx.x) + " of block " + std::to_string(blockIdx.x) + ": " + why;
    leave();
    std::abort();  // a failed block is never resumed
  }

 private:
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
  };

  static void fiber_main() {
    current_->kernel_();
    ++current_->finished_;
  }

  void leave() {
    const unsigned thread = threadIdx.x;
    swapcontext(&fibers_[thread].context, &scheduler_);
  }

  const std::vector<uint64_t>& meet(Meeting& meeting, const char* operation, unsigned place, uint64_t value) {
    if (meeting.waiting.empty()) meeting.operation = operation;
    if (meeting.operation != operation)
      fail(std::string(operation) + " where others wait in " + std::string(meeting.operation));
    meeting.arriving[place] = value;
    if (meeting.waiting.size() + 1 < meeting.arriving.size()) {
      meeting.waiting.push_back(threadIdx.x);
      leave();
    } else {
      meeting.exchanged = meeting.arriving;
      ready_.insert(ready_.end(), meeting.waiting.begin(), meeting.waiting.end());
      meeting.waiting.clear();
    }
    return meeting.exchanged;
  }

  std::string waiting_threads() const {
    std::string text;
    const auto describe = [&](const Meeting& meeting) {
      if (meeting.waiting.empty()) return;
      text += (text.empty() ? "" : ", ") + std::to_string(meeting.waiting.size()) + " of " +
              std::to_string(meeting.arriving.size()) + " threads wait in " + std::string(meeting.operation);
    };
    describe(all_);
    for (const Meeting& warp : warps_) describe(warp);
    return text;
  }

  static inline Block* current_ = nullptr;
  const std::function<void()>& kernel_;
  std::mt19937 random_;
  ucontext_t scheduler_;
  std::vector<Fiber> fibers_;
  std::vector<unsigned> ready_;
  std::vector<Meeting> warps_;
  Meeting all_;
  std::size_t finished_ = 0;
  std::string error_;
};

// kernel<<<grid, block>>>(...), the call being `kernel`; throws std::runtime_error where a thread fails.
inline void launch(unsigned grid, unsigned block, unsigned seed, const std::function<void()>& kernel) {
  gridDim.x = grid;
  blockDim.x = block;
  std::vector<unsigned> order(grid);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  for (unsigned index : order) {
    blockIdx.x = index;
    if (__start_shared_memory)
      std::memset(__start_shared_memory, 0xa5, __stop_shared_memory - __start_shared_memory);
    Block(block, seed + index, kernel).run();
  }
}

template <typename To, typename From>
To bit_cast(From from) {
  static_assert(sizeof(To) <= 8 && sizeof(From) <= 8, "at most 64 bits travel between lanes");
  To to{};
  std::memcpy(&to, &from, std::min(sizeof(To), sizeof(From)));
  return to;
}

template <typename T>
const std::vector<uint64_t>& exchange(const char* operation, unsigned mask, T value) {
  if (mask != 0xffffffffu) Block::current().fail(std::string(operation) + " must name all lanes");
  return Block::current().meet_warp(operation, bit_cast<uint64_t>(value));
}

template <typename T>
T shuffle(const char* operation, unsigned mask, T value, unsigned source) {
  return bit_cast<T>(exchange(operation, mask, value)[source < kLanes ? source : threadIdx.x % kLanes]);
}

template <typename T>
unsigned lanes_equal_to(const std::vector<uint64_t>& values, T value) {
  unsigned lanes = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane)
    lanes |= unsigned{bit_cast<T>(values[lane]) == value} << lane;
  return lanes;
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::Block::current().meet_block(); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return cuda_on_cpu::shuffle("__shfl_sync", mask, value,
                              static_cast<unsigned>(source) % cuda_on_cpu::kLanes);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned step) {
  return cuda_on_cpu::shuffle("__shfl_up_sync", mask, value, threadIdx.x % cuda_on_cpu::kLanes - step);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return cuda_on_cpu::shuffle("__shfl_xor_sync", mask, value,
                              threadIdx.x % cuda_on_cpu::kLanes ^ static_cast<unsigned>(bits));
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  return cuda_on_cpu::lanes_equal_to(cuda_on_cpu::exchange("__ballot_sync", mask, vote), true);
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  return cuda_on_cpu::lanes_equal_to(cuda_on_cpu::exchange("__match_any_sync", mask, value), value);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

template <typename T>
T atomicAdd(T* address, T value) {
  cuda_on_cpu::Block::current().pause();
  const T before = *address;
  *address = before + value;
  return before;
}
template <typename T>
T atomicMin(T* address, T value) {
  cuda_on_cpu::Block::current().pause();
  const T before = *address;
  *address = std::min(before, value);
  return before;
}

inline uint32_t __float_as_uint(float value) { return cuda_on_cpu::bit_cast<uint32_t>(value); }
inline float __uint_as_float(uint32_t bits) { return cuda_on_cpu::bit_cast<float>(bits); }

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) { return __uint_as_float(uint32_t{value.bits} << 16); }

struct __half {
  uint16_t bits;
};
inline float __half2float(__half value) {
  const int sign = value.bits >> 15, exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                  : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  if (exponent == 31) magnitude = fraction == 0 ? INFINITY : NAN;
  return sign ? -magnitude : magnitude;
}

// To the nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const uint32_t bits = __float_as_uint(value);
  if (value != value) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline __half __float2half_rn(float value) {
  const int sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (value != value) return {0x7fff};
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent;
  std::frexp(magnitude, &exponent);
  const int last_place = magnitude < std::ldexp(1.0f, -14) ? -24 : exponent - 11;
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -last_place)));
  return {static_cast<uint16_t>(sign | (steps + (last_place + 24) * 1024))};  // what is too much carries on
}
