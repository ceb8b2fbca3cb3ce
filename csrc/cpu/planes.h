// Activation maps as float32, one plane at a time.
#pragma once

#include <type_traits>
#include <vector>

#include "../stable/tensors.h"

namespace netinterp_fast {

// Planes [n, size] of float32 as they lie in memory; of float16 and bfloat16 widened into a buffer of its own.
template <typename Scalar>
class Planes {
 public:
  Planes(const Scalar* data, int64_t size) : data_(data), size_(size) {
    if constexpr (!std::is_same_v<Scalar, float>) widened_.resize(size);
  }

  // Valid until the next call.
  const float* operator[](int64_t plane) {
    const Scalar* source = data_ + plane * size_;
    if constexpr (std::is_same_v<Scalar, float>) {
      return source;
    } else {
      for (int64_t i = 0; i < size_; ++i) widened_[i] = static_cast<float>(source[i]);
      return widened_.data();
    }
  }

 private:
  const Scalar* data_;
  int64_t size_;
  std::vector<float> widened_;
};

}  // namespace netinterp_fast
