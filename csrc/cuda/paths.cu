#include "paths.cuh"

#include "../stable/paths.h"
#include "launch.h"

namespace netinterp_fast {
namespace {

template <typename Real>
PathNumbers<Real> numbers_of(const Tensor& numbers, const PointShape& shape) {
  const bool by_example = numbers.size(1) != 1;
  return {static_cast<const Real*>(numbers.const_data_ptr()), by_example, shape.repeats, shape.examples, shape.size};
}

Tensor path_points(Tensor inputs, Tensor baseline, Tensor alphas, bool relu) {
  const PointShape shape = check_path_points(inputs, baseline, alphas);
  const torch::stable::accelerator::DeviceGuard guard(inputs.get_device());
  const Tensor out = empty_points(inputs, shape);
  dispatch_real(inputs, "inputs", [&](const auto* type) {
    using T = typename DeviceType<ScalarOf<decltype(type)>>::type;
    if (out.numel() == 0) return;
    const unsigned grid = grid_for(inputs, out.numel() / kStepsAThread);
    const auto kernel = relu ? write_path_points<true, T> : write_path_points<false, T>;
    kernel<<<grid, kThreads, 0, current_stream(inputs)>>>(elements(inputs, type), elements(baseline, type),
                                                          numbers_of<RealOf<T>>(alphas, shape), mutable_data<T>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

template <typename T>
auto kernel_for(PathValue value) {
  switch (value) {
    case PathValue::kAbsolute: return add_path_steps<PathValue::kAbsolute, T>;
    case PathValue::kSquare: return add_path_steps<PathValue::kSquare, T>;
    default: return add_path_steps<PathValue::kSigned, T>;
  }
}

void path_accumulate(Tensor grads, std::optional<Tensor> gate, Tensor weights, int64_t value, Tensor out) {
  const PointShape shape = check_path_accumulate(grads, gate, weights, value, out);
  const torch::stable::accelerator::DeviceGuard guard(grads.get_device());
  dispatch_real(grads, "grads", [&](const auto* type) {
    using T = typename DeviceType<ScalarOf<decltype(type)>>::type;
    if (grads.numel() == 0) return;
    const auto kernel = kernel_for<T>(static_cast<PathValue>(value));
    kernel<<<grid_for(out, out.numel()), kThreads, 0, current_stream(grads)>>>(
        elements(grads, type), gate ? elements(*gate, type) : nullptr, numbers_of<RealOf<T>>(weights, shape),
        mutable_data<RealOf<T>>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace
}  // namespace netinterp_fast

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CUDA, m) {
  m.impl("path_points", TORCH_BOX(&netinterp_fast::path_points));
  m.impl("path_accumulate", TORCH_BOX(&netinterp_fast::path_accumulate));
}
