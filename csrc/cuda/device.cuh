// What the kernels in this folder share: block shape, widening to float32, sums over a warp. Free of torch.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#  include <cuda_bf16.h>
#  include <cuda_fp16.h>
#else
#  include "cuda_on_cpu.h"  // the host runner in tests/cuda_emulation
#endif

namespace netinterp_fast {

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // of every block
constexpr int kMinBlocks = 5;  // that a multiprocessor holds, at 48 registers a thread
constexpr int kWarpsPerBlock = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

// All grids are one-dimensional and step through their work by the size of the grid.
__device__ __forceinline__ int64_t thread_in_grid() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }
__device__ __forceinline__ int64_t threads_in_grid() { return int64_t{gridDim.x} * kThreads; }
__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) % kWarp; }

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// Lane i gets the sum over lanes 0 ... i.
__device__ __forceinline__ int warp_inclusive_sum(int value) {
  for (int step = 1; step < kWarp; step *= 2) {
    const int below = __shfl_up_sync(kAllLanes, value, step);
    if (lane_id() >= step) value += below;
  }
  return value;
}

// Every lane gets the sum over the warp.
__device__ __forceinline__ int warp_sum(int value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Adds 1 to counts[key] for every lane whose key is not 0, with one atomic for each distinct key of the warp.
template <typename Key>
__device__ __forceinline__ void warp_count(Key key, int64_t* counts) {
  const unsigned same = __match_any_sync(kAllLanes, key);
  if (key != 0 && lane_id() == __ffs(static_cast<int>(same)) - 1) {
    atomicAdd(reinterpret_cast<unsigned long long*>(counts + key), static_cast<unsigned long long>(__popc(same)));
  }
}

}  // namespace netinterp_fast
