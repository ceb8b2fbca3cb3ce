#include <algorithm>

#include "../stable/elementwise.h"
#include "kernels.h"

namespace netinterp_fast {
namespace {

constexpr int64_t kGrain = 32768;

// Runs choose(relevance_kernels<Scalar>()) on the operands, each thread on a part.
template <typename Choose>
Tensor map(std::initializer_list<Operand> operands, double epsilon, const Choose& choose) {
  Tensor out = empty_like_all(operands);
  dispatch_real(out, operands.begin()->name, [&](auto* tag) {
    using Scalar = ScalarOf<decltype(tag)>;
    const auto kernel = choose(relevance_kernels<Scalar>());
    const RealOf<Scalar> rounded = checked_epsilon<Scalar>(epsilon);
    const Scalar* data[kMaxOperands] = {};
    std::transform(operands.begin(), operands.end(), data,
                   [](const Operand& o) { return static_cast<const Scalar*>(o.tensor.const_data_ptr()); });
    Scalar* result = static_cast<Scalar*>(out.mutable_data_ptr());
    torch::stable::parallel_for(0, out.numel(), kGrain,
                                [&](int64_t begin, int64_t end) { kernel(data, rounded, begin, end, result); });
  });
  return out;
}

Tensor stabilized_ratio(const Tensor& relevance, const Tensor& z, double epsilon) {
  return map({{"relevance", relevance}, {"z", z}}, epsilon, [](const auto& k) { return k.stabilized_ratio; });
}

Tensor product_ratio(const Tensor& x, const Tensor& grad, const Tensor& z, double epsilon) {
  return map({{"x", x}, {"grad", grad}, {"z", z}}, epsilon, [](const auto& k) { return k.product_ratio; });
}

Tensor relu_gate(const Tensor& grad, const Tensor& output, double epsilon) {
  return map({{"grad", grad}, {"output", output}}, epsilon, [](const auto& k) { return k.relu_gate; });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CPU, m) {
  m.impl("stabilized_ratio", TORCH_BOX(&stabilized_ratio));
  m.impl("product_ratio", TORCH_BOX(&product_ratio));
  m.impl("relu_gate", TORCH_BOX(&relu_gate));
}

}  // namespace netinterp_fast
