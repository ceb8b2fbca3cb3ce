#include "top_quantile_update.cuh"

#include "launch.h"

namespace netinterp_fast {
namespace {

Tensor top_quantile_update(Tensor acts, int64_t keep, Tensor buffer, Tensor count, Tensor bound) {
  check_tensor(acts, "acts", 4, acts);
  check_tensor(buffer, "buffer", 2, acts, ScalarType::Float);
  check_tensor(count, "count", 1, acts, ScalarType::Long);
  check_tensor(bound, "bound", 1, acts, ScalarType::Float);
  const int64_t images = acts.size(0), units = acts.size(1), plane_size = acts.size(2) * acts.size(3);
  STD_TORCH_CHECK(keep >= 1 && keep < int64_t{1} << 30, "keep must be in [1, 2^30)");
  STD_TORCH_CHECK(plane_size >= 1, "acts must have at least one value a map");
  STD_TORCH_CHECK(buffer.size(0) == units && buffer.size(1) == 2 * keep, "buffer must be [C, 2 keep]");
  STD_TORCH_CHECK(count.size(0) == units && bound.size(0) == units, "count and bound must be [C]");

  const torch::stable::accelerator::DeviceGuard guard(acts.get_device());
  const cudaStream_t stream = current_stream(acts);
  const Tensor maxima = torch::stable::new_empty(acts, {images, units}, ScalarType::Float);
  const Tensor any_nan = torch::stable::new_zeros(acts, {1}, ScalarType::Int);
  if (images == 0 || units == 0) return maxima;

  dispatch_floating(acts, "acts", [&](const auto* type) {
    plane_maxima<<<grid_for(acts, images * units * kWarp), kThreads, 0, stream>>>(
        elements(acts, type), images * units, plane_size, mutable_data<float>(maxima), mutable_data<int32_t>(any_nan));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    append_largest<<<static_cast<unsigned>(units), kThreads, 0, stream>>>(
        elements(acts, type), static_cast<const float*>(maxima.const_data_ptr()),
        static_cast<const int32_t*>(any_nan.const_data_ptr()), images, units, plane_size, keep,
        mutable_data<float>(buffer), mutable_data<int64_t>(count), mutable_data<float>(bound));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return maxima;
}

}  // namespace
}  // namespace netinterp_fast

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CUDA, m) {
  m.impl("top_quantile_update", TORCH_BOX(&netinterp_fast::top_quantile_update));
}
