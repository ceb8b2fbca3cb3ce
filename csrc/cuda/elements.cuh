// Elements of float64, float32, float16 and bfloat16 tensors, as kernels that take all of these compute with them.
#pragma once

#include "device.cuh"

namespace netinterp_fast {

// What T is computed in: float64 as it is, the others as float32.
__device__ __forceinline__ double to_real(double value) { return value; }
template <typename T>
__device__ __forceinline__ float to_real(T value) {
  return to_float(value);
}

__device__ __forceinline__ void assign(double& to, double value) { to = value; }
__device__ __forceinline__ void assign(float& to, float value) { to = value; }
__device__ __forceinline__ void assign(__half& to, float value) { to = __float2half_rn(value); }
__device__ __forceinline__ void assign(__nv_bfloat16& to, float value) { to = __float2bfloat16_rn(value); }

// The values that one instruction moves.
template <typename T>
constexpr int kPacked = 16 / sizeof(T);

}  // namespace netinterp_fast
