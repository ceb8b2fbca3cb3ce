// One step of the exact streaming quantile: each unit's buffer always holds its `keep` largest values so far.
#pragma once

#include <cmath>

#include "device.cuh"

namespace netinterp_fast {

__device__ __forceinline__ bool is_nan(float value) { return value != value; }

// The larger one; NaN where either is.
__device__ __forceinline__ float max_or_nan(float a, float b) { return is_nan(a) || a > b ? a : b; }

// One warp a plane: its maximum, NaN where it has one.
template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    plane_maxima(const T* __restrict__ acts,     // [B, C, h * w]
                 int64_t planes,                 // B * C
                 int64_t plane_size,             // h * w
                 float* __restrict__ maxima,     // [B, C]
                 int32_t* __restrict__ any_nan)  // [1], 0 beforehand
{
  const int64_t n_warps = threads_in_grid() / kWarp;
  for (int64_t plane = thread_in_grid() / kWarp; plane < planes; plane += n_warps) {
    const T* values = acts + plane * plane_size;
    float largest = to_float(values[0]);
    for (int64_t i = lane_id(); i < plane_size; i += kWarp) largest = max_or_nan(largest, to_float(values[i]));
    for (int step = kWarp / 2; step > 0; step /= 2) {
      largest = max_or_nan(largest, __shfl_xor_sync(kAllLanes, largest, step));
    }
    if (lane_id() != 0) continue;
    maxima[plane] = largest;
    if (is_nan(largest)) *any_nan = 1;
  }
}

constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
static_assert(kDigits == kThreads, "each thread clears one entry of the histogram");

struct Scratch {
  int warp_counts[kWarpsPerBlock];
  unsigned histogram[kDigits];
};

struct Rank {
  int below;  // threads before this one whose flag is set
  int total;  // threads of the block whose flag is set
};

// A barrier for the block as well: what the threads did before it is visible to all after it.
__device__ __forceinline__ Rank rank_in_block(bool flag, Scratch& scratch) {
  const int lane = lane_id(), own_warp = static_cast<int>(threadIdx.x) / kWarp;
  const unsigned votes = __ballot_sync(kAllLanes, flag);
  if (lane == 0) scratch.warp_counts[own_warp] = __popc(votes);
  __syncthreads();
  Rank rank{__popc(votes & ((1u << lane) - 1)), 0};
  for (int warp = 0; warp < kWarpsPerBlock; ++warp) {
    if (warp < own_warp) rank.below += scratch.warp_counts[warp];
    rank.total += scratch.warp_counts[warp];
  }
  __syncthreads();
  return rank;
}

// Unsigned numbers in the order of the floats, -0.0 next to 0.0.
__device__ __forceinline__ uint32_t order_key(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float float_of_key(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

// The rank-th largest (1 = the largest) of values [n], n >= rank: radix selection from the highest digit
// down. Its first barrier makes visible what other threads have just written to values.
__device__ inline float select_largest(const float* values, int64_t n, int64_t rank, Scratch& scratch) {
  uint32_t selected = 0;  // its digits so far
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    scratch.histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      const uint64_t differing = order_key(values[i]) ^ selected;
      if (differing >> (shift + kDigitBits) == 0) atomicAdd(&scratch.histogram[differing >> shift], 1u);
    }
    __syncthreads();
    uint32_t digit = kDigits - 1;
    while (scratch.histogram[digit] < rank) rank -= scratch.histogram[digit--];
    selected |= digit << shift;
    __syncthreads();
  }
  return float_of_key(selected);
}

// Moves the `keep` largest of values [n], n >= keep, to the front and returns the smallest of them.
__device__ inline float cut_back(float* values, int64_t n, int64_t keep, Scratch& scratch) {
  const float bound = select_largest(values, n, keep, scratch);
  int64_t kept = 0;
  for (int64_t first = 0; first < n; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const float value = i < n ? values[i] : bound;
    const Rank rank = rank_in_block(value > bound, scratch);
    if (value > bound) values[kept + rank.below] = value;
    kept += rank.total;
  }
  // The others among the `keep` largest equal the bound.
  for (int64_t i = kept + threadIdx.x; i < keep; i += kThreads) values[i] = bound;
  return bound;
}

// Before `keep` values have been seen the bound is -inf and every value matters, -inf too.
__device__ __forceinline__ bool matters(float value, float bound) { return value > bound || bound == -INFINITY; }

// One block a unit. Changes nothing where any maximum is NaN.
template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    append_largest(const T* __restrict__ acts,           // [B, C, h * w]
                   const float* __restrict__ maxima,     // [B, C]
                   const int32_t* __restrict__ any_nan,  // [1]
                   int64_t images, int64_t units, int64_t plane_size, int64_t keep,
                   float* __restrict__ buffer,   // [C, 2 keep]
                   int64_t* __restrict__ count,  // [C] values held
                   float* __restrict__ bound)    // [C]
{
  __shared__ Scratch scratch;
  if (*any_nan) return;
  const int64_t unit = blockIdx.x, capacity = 2 * keep;
  float* values = buffer + unit * capacity;
  int64_t held = count[unit] < 0 ? 0 : count[unit];  // a count past the capacity is cut back below
  float unit_bound = bound[unit];

  for (int64_t image = 0; image < images; ++image) {
    const int64_t plane = image * units + unit;
    if (!matters(maxima[plane], unit_bound)) continue;
    for (int64_t first = 0; first < plane_size; first += kThreads) {
      const int64_t i = first + threadIdx.x;
      bool pending = i < plane_size;
      const float value = pending ? to_float(acts[plane * plane_size + i]) : 0.0f;
      bool full = true;
      while (full) {
        pending = pending && matters(value, unit_bound);
        const Rank rank = rank_in_block(pending, scratch);
        if (pending && held + rank.below < capacity) {
          values[held + rank.below] = value;
          pending = false;
        }
        held += rank.total;
        full = held >= capacity;
        if (full) {
          unit_bound = cut_back(values, capacity, keep, scratch);
          held = keep;
        }
      }
    }
  }
  if (threadIdx.x == 0) {
    count[unit] = held;
    bound[unit] = unit_bound;
  }
}

}  // namespace netinterp_fast
