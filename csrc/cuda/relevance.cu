#include "relevance.cuh"

#include "../stable/elementwise.h"
#include "launch.h"

namespace netinterp_fast {
namespace {

// Calls launch(type, grid, stream, epsilon, n, out) with an empty tensor like the operands, and returns it.
template <typename Launch>
Tensor map_on_device(std::initializer_list<Operand> operands, double epsilon, const Launch& launch) {
  const Tensor& first = operands.begin()->tensor;
  const torch::stable::accelerator::DeviceGuard guard(first.get_device());
  const Tensor out = empty_like_all(operands);
  dispatch_real(out, operands.begin()->name, [&](const auto* type) {
    using Scalar = ScalarOf<decltype(type)>;
    using T = typename DeviceType<Scalar>::type;
    const RealOf<T> rounded = checked_epsilon<T>(epsilon);
    const int64_t n = out.numel();
    if (n == 0) return;
    launch(type, grid_for(out, (n + kPacked<T> - 1) / kPacked<T>), current_stream(out), rounded, n,
           mutable_data<T>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

Tensor stabilized_ratio(Tensor relevance, Tensor z, double epsilon) {
  const auto launch = [&](const auto* type, unsigned grid, cudaStream_t stream, auto rounded, int64_t n, auto* out) {
    map_stabilized_ratio<<<grid, kThreads, 0, stream>>>(elements(relevance, type), elements(z, type), rounded, n, out);
  };
  return map_on_device({{"relevance", relevance}, {"z", z}}, epsilon, launch);
}

Tensor product_ratio(Tensor x, Tensor grad, Tensor z, double epsilon) {
  const auto launch = [&](const auto* type, unsigned grid, cudaStream_t stream, auto rounded, int64_t n, auto* out) {
    map_product_ratio<<<grid, kThreads, 0, stream>>>(elements(x, type), elements(grad, type), elements(z, type),
                                                     rounded, n, out);
  };
  return map_on_device({{"x", x}, {"grad", grad}, {"z", z}}, epsilon, launch);
}

Tensor relu_gate(Tensor grad, Tensor output, double epsilon) {
  const auto launch = [&](const auto* type, unsigned grid, cudaStream_t stream, auto rounded, int64_t n, auto* out) {
    map_relu_gate<<<grid, kThreads, 0, stream>>>(elements(grad, type), elements(output, type), rounded, n, out);
  };
  return map_on_device({{"grad", grad}, {"output", output}}, epsilon, launch);
}

}  // namespace
}  // namespace netinterp_fast

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CUDA, m) {
  m.impl("stabilized_ratio", TORCH_BOX(&netinterp_fast::stabilized_ratio));
  m.impl("product_ratio", TORCH_BOX(&netinterp_fast::product_ratio));
  m.impl("relu_gate", TORCH_BOX(&netinterp_fast::relu_gate));
}
