// What the ops of netinterp_fast/ops/paths.py and noise.py check on every device.
#pragma once

#include <optional>

#include "elementwise.h"

namespace netinterp_fast {

// How many examples of how many numbers, and how often each appears in [repeats * examples, size].
struct PointShape {
  int64_t examples;
  int64_t size;
  int64_t repeats;
};

inline ScalarType real_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// alphas or weights: one number a step, or one a step and example.
inline void check_by_step(const Tensor& numbers, const char* name, const Tensor& like, int64_t examples) {
  check_tensor(numbers, name, 2, like, real_type(like));
  STD_TORCH_CHECK(numbers.size(1) == 1 || numbers.size(1) == examples, name, " must be [K, 1] or [K, B]");
}

inline PointShape check_path_points(const Tensor& inputs, const Tensor& baseline, const Tensor& alphas) {
  check_tensor(inputs, "inputs", 2, inputs);
  check_tensor(baseline, "baseline", 2, inputs, inputs.scalar_type());
  STD_TORCH_CHECK(baseline.sizes() == inputs.sizes(), "baseline must have the shape of inputs");
  check_by_step(alphas, "alphas", inputs, inputs.size(0));
  return {inputs.size(0), inputs.size(1), alphas.size(0)};
}

inline PointShape check_path_accumulate(const Tensor& grads, const std::optional<Tensor>& gate, const Tensor& weights,
                                        int64_t value, const Tensor& out) {
  check_tensor(grads, "grads", 2, grads);
  check_tensor(out, "out", 2, grads, real_type(grads));
  check_by_step(weights, "weights", grads, out.size(0));
  STD_TORCH_CHECK(grads.size(0) == weights.size(0) * out.size(0) && grads.size(1) == out.size(1),
                  "grads must be [K B, N], out [B, N]");
  STD_TORCH_CHECK(value >= 0 && value <= 2, "value must be 0, 1 or 2");
  if (gate) {
    check_tensor(*gate, "gate", 2, grads, grads.scalar_type());
    STD_TORCH_CHECK(gate->sizes() == grads.sizes(), "gate must have the shape of grads");
  }
  return {out.size(0), out.size(1), weights.size(0)};
}

inline PointShape check_noise_points(const Tensor& inputs, const Tensor& sigma, int64_t samples, int64_t first_sample,
                                     int64_t first_example) {
  constexpr int64_t kNumbers = int64_t{1} << 32;
  check_tensor(inputs, "inputs", 2, inputs);
  check_tensor(sigma, "sigma", 1, inputs, real_type(inputs));
  STD_TORCH_CHECK(sigma.size(0) == inputs.size(0), "sigma must be [B]");
  const auto numbered = [](int64_t first, int64_t n) { return first >= 0 && n <= kNumbers && first <= kNumbers - n; };
  STD_TORCH_CHECK(samples >= 0 && numbered(first_sample, samples), "samples must be numbered in [0, 2^32)");
  STD_TORCH_CHECK(numbered(first_example, inputs.size(0)), "examples must be numbered in [0, 2^32)");
  return {inputs.size(0), inputs.size(1), samples};
}

// An empty tensor for the points. Its number of rows fits: both factors are sizes of tensors or below 2^32.
inline Tensor empty_points(const Tensor& inputs, const PointShape& shape) {
  return torch::stable::new_empty(inputs, {shape.repeats * shape.examples, shape.size}, inputs.scalar_type());
}

}  // namespace netinterp_fast
