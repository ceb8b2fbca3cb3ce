#include "noise.cuh"

#include "../stable/paths.h"
#include "launch.h"

namespace netinterp_fast {
namespace {

Tensor noise_points(Tensor inputs, Tensor sigma, int64_t seed, int64_t samples, int64_t first_sample,
                    int64_t first_example) {
  const PointShape shape = check_noise_points(inputs, sigma, samples, first_sample, first_example);
  const torch::stable::accelerator::DeviceGuard guard(inputs.get_device());
  const Tensor out = empty_points(inputs, shape);
  const NoiseRows rows{samples, shape.examples, shape.size, first_sample, first_example};
  dispatch_real(inputs, "inputs", [&](const auto* type) {
    using T = typename DeviceType<ScalarOf<decltype(type)>>::type;
    if (out.numel() == 0) return;
    add_noise<<<grid_for(out, out.numel() / kNoiseBlock), kThreads, 0, current_stream(out)>>>(
        elements(inputs, type), static_cast<const RealOf<T>*>(sigma.const_data_ptr()),
        philox_key(static_cast<uint64_t>(seed)), rows, mutable_data<T>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace
}  // namespace netinterp_fast

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CUDA, m) { m.impl("noise_points", TORCH_BOX(&netinterp_fast::noise_points)); }
