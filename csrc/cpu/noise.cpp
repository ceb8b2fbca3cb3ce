#include "../core/noise.h"

#include <algorithm>

#include "fresh_points.h"
#include "kernels.h"

namespace netinterp_fast {
namespace {

Tensor noise_points(Tensor inputs, Tensor sigma, int64_t seed, int64_t samples, int64_t first_sample,
                    int64_t first_example) {
  const PointShape shape = check_noise_points(inputs, sigma, samples, first_sample, first_example);
  Tensor out = fresh_points(inputs, shape);
  const PhiloxKey key = philox_key(static_cast<uint64_t>(seed));
  const int64_t runs = (shape.size + kNoiseRun - 1) / kNoiseRun;
  dispatch_real(inputs, "inputs", [&](auto* tag) {
    using Scalar = ScalarOf<decltype(tag)>;
    const Scalar* x = static_cast<const Scalar*>(inputs.const_data_ptr());
    const auto* scale = static_cast<const RealOf<Scalar>*>(sigma.const_data_ptr());
    Scalar* points = static_cast<Scalar*>(out.mutable_data_ptr());
    const auto add_noise = path_kernels<Scalar>().add_noise;
    torch::stable::parallel_for(0, shape.repeats * shape.examples * runs, 4, [&](int64_t begin, int64_t end) {
      float noise[kNoiseRun];
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / runs, sample = row / shape.examples, example = row % shape.examples;
        const int64_t first = i % runs * kNoiseRun, n = std::min(shape.size - first, kNoiseRun);
        kernels().normal_noise(key, static_cast<uint32_t>(first_sample + sample),
                               static_cast<uint32_t>(first_example + example), first / kNoiseBlock, n, noise);
        add_noise(x + example * shape.size + first, noise, scale[example], n, points + row * shape.size + first);
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CPU, m) { m.impl("noise_points", TORCH_BOX(&noise_points)); }

}  // namespace netinterp_fast
