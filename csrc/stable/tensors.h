// The package's only wrappers round LibTorch's stable headers: argument checks, dtype dispatch, small conveniences.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace netinterp_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The Python wrappers have already explained bad arguments to the user; these checks only keep a direct call to the
// raw op from reading out of bounds.
inline void check_tensor(const Tensor& tensor, const char* name, int64_t dim, const Tensor& like) {
  STD_TORCH_CHECK(tensor.dim() == dim, name, " must have ", dim, " dimensions, has ", tensor.dim());
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
  STD_TORCH_CHECK(tensor.is_cuda() == like.is_cuda() && tensor.get_device() == like.get_device(), name,
                  " must be on the same device as the first argument");
}

inline void check_tensor(const Tensor& tensor, const char* name, int64_t dim, const Tensor& like, ScalarType dtype) {
  check_tensor(tensor, name, dim, like);
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " has the wrong dtype");
}

inline void check_placement(double scale_y, double scale_x, double offset_y, double offset_x) {
  STD_TORCH_CHECK(scale_y > 0 && scale_x > 0 && std::isfinite(scale_y) && std::isfinite(scale_x) &&
                      std::isfinite(offset_y) && std::isfinite(offset_x),
                  "scales and offsets must be finite, the scales above 0");
}

// The element type of the pointer that a dispatch passes.
template <typename Pointer>
using ScalarOf = std::remove_const_t<std::remove_pointer_t<Pointer>>;

// Calls f with a null pointer of the tensor's element type: f(static_cast<const T*>(nullptr)).
template <typename F>
void dispatch_floating(const Tensor& tensor, const char* name, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return f(static_cast<const float*>(nullptr));
    case ScalarType::Half: return f(static_cast<const torch::headeronly::Half*>(nullptr));
    case ScalarType::BFloat16: return f(static_cast<const torch::headeronly::BFloat16*>(nullptr));
    default: STD_TORCH_CHECK(false, name, " must be float32, float16 or bfloat16");
  }
}

template <typename F>
void dispatch_integer(const Tensor& tensor, const char* name, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Byte: return f(static_cast<const uint8_t*>(nullptr));
    case ScalarType::Short: return f(static_cast<const int16_t*>(nullptr));
    case ScalarType::UInt16: return f(static_cast<const uint16_t*>(nullptr));
    case ScalarType::Int: return f(static_cast<const int32_t*>(nullptr));
    case ScalarType::Long: return f(static_cast<const int64_t*>(nullptr));
    default: STD_TORCH_CHECK(false, name, " must be uint8, int16, uint16, int32 or int64");
  }
}

}  // namespace netinterp_fast
