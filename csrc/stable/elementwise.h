// What ops need that compute one number from those at the same place of other tensors.
#pragma once

#include <initializer_list>
#include <limits>

#include "../core/relevance.h"
#include "tensors.h"

namespace netinterp_fast {

struct Operand {
  const char* name;
  const Tensor& tensor;
};

// An empty tensor like the first operand. All lie in memory as it does: contiguous, or with its strides and no gaps.
inline Tensor empty_like_all(std::initializer_list<Operand> operands) {
  const Tensor& first = operands.begin()->tensor;
  for (const auto& [name, tensor] : operands) {
    STD_TORCH_CHECK(tensor.is_cuda() == first.is_cuda() && tensor.get_device() == first.get_device(), name,
                    " must be on the same device as the first argument");
    STD_TORCH_CHECK(tensor.scalar_type() == first.scalar_type(), name, " must have the dtype of the first argument");
    STD_TORCH_CHECK(tensor.sizes() == first.sizes(), name, " must have the shape of the first argument");
  }
  const Tensor out = torch::stable::empty_like(first);  // has no gaps
  for (const auto& [name, tensor] : operands) {
    STD_TORCH_CHECK((tensor.is_contiguous() && out.is_contiguous()) || tensor.strides() == out.strides(), name,
                    " must be contiguous or have the strides of the other arguments, without gaps");
  }
  return out;
}

// As dispatch_floating, for float64 too.
template <typename F>
void dispatch_real(const Tensor& tensor, const char* name, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return f(static_cast<const float*>(nullptr));
    case ScalarType::Double: return f(static_cast<const double*>(nullptr));
    case ScalarType::Half: return f(static_cast<const torch::headeronly::Half*>(nullptr));
    case ScalarType::BFloat16: return f(static_cast<const torch::headeronly::BFloat16*>(nullptr));
    default: STD_TORCH_CHECK(false, name, " must be float32, float64, float16 or bfloat16");
  }
}

// epsilon as it is computed with beside elements of type T.
template <typename T>
RealOf<T> checked_epsilon(double epsilon) {
  STD_TORCH_CHECK(epsilon >= 0 && epsilon <= std::numeric_limits<RealOf<T>>::max(),
                  "epsilon must be finite, not below 0");
  return static_cast<RealOf<T>>(epsilon);
}

}  // namespace netinterp_fast
