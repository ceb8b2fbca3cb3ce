// What the launchers in this folder share: the current stream, grid sizes, tensors as the kernels see them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "../stable/tensors.h"
#include "device.cuh"

namespace netinterp_fast {

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Blocks for `threads` threads, but no more than keep the device busy: every kernel steps through its work.
inline unsigned grid_for(const Tensor& tensor, int64_t threads) {
  constexpr int64_t kBlocksPerMultiprocessor = 8;
  int multiprocessors = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, tensor.get_device()));
  const int64_t needed = (threads + kThreads - 1) / kThreads;
  return static_cast<unsigned>(std::clamp(needed, int64_t{1}, multiprocessors * kBlocksPerMultiprocessor));
}

template <typename T>
struct DeviceType {
  using type = T;
};
template <>
struct DeviceType<torch::headeronly::Half> {
  using type = __half;
};
template <>
struct DeviceType<torch::headeronly::BFloat16> {
  using type = __nv_bfloat16;
};

// The data of a tensor whose element type dispatch_floating or dispatch_integer has found.
template <typename T>
const typename DeviceType<T>::type* elements(const Tensor& tensor, const T*) {
  return static_cast<const typename DeviceType<T>::type*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace netinterp_fast
