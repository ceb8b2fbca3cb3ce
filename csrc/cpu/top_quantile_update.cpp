#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels.h"
#include "planes.h"

namespace netinterp_fast {
namespace {

// The values held of one unit: the `keep` largest so far are always among them.
struct Held {
  float* values;  // [2 * keep]
  int64_t keep;
  int64_t count;
  float bound;  // nothing at or below it matters, except that -inf means "no bound yet"

  void add(const float* plane, int64_t n) {
    constexpr float kNone = -std::numeric_limits<float>::infinity();
    for (int64_t position = 0; position < n;) {
      if (bound == kNone) {
        const int64_t taken = std::min(n - position, 2 * keep - count);
        std::copy_n(plane + position, taken, values + count);
        position += taken;
        count += taken;
      } else {
        count = kernels().append_above(plane, n, &position, bound, values, count, 2 * keep);
      }
      if (count == 2 * keep) cut();
    }
  }

  // Drops what is not among the `keep` largest. A large buffer is cut at a sampled pivot that leaves a few too many:
  // nothing at or below it can matter while at least `keep` values lie above, and one pass is ten times faster.
  void cut() {
    const float pivot = count >= kSampled ? sampled_pivot() : bound;
    const int64_t above = pivot > bound ? std::count_if(values, values + count, [&](float v) { return v > pivot; }) : 0;
    if (above >= keep && above <= keep + keep / 4) {
      int64_t position = 0;
      count = kernels().append_above(values, count, &position, pivot, values, 0, count);
      bound = pivot;
      return;
    }
    std::nth_element(values, values + keep - 1, values + count, std::greater<float>());
    count = keep;
    bound = values[keep - 1];
  }

  static constexpr int64_t kSampled = 16384, kSample = 2048;

  // A value that about 1.08 * keep of the held ones exceed.
  float sampled_pivot() const {
    float sample[kSample];
    for (int64_t i = 0; i < kSample; ++i) sample[i] = values[i * count / kSample];
    float* middle = sample + std::min(kSample - 1, kSample * (keep + keep / 12) / count);
    std::nth_element(sample, middle, sample + kSample, std::greater<float>());
    return *middle;
  }
};

template <typename Scalar>
bool all_maxima(const Scalar* acts, int64_t n_planes, int64_t cells, float* maxima) {
  torch::stable::parallel_for(0, n_planes, 1 + 32768 / cells, [&](int64_t begin, int64_t end) {
    Planes<Scalar> planes(acts, cells);
    for (int64_t i = begin; i < end; ++i) maxima[i] = kernels().maximum(planes[i], cells);
  });
  return std::none_of(maxima, maxima + n_planes, [](float value) { return std::isnan(value); });
}

template <typename Scalar>
void add_planes(const Scalar* acts, const float* maxima, int64_t n_images, int64_t n_units, int64_t cells, int64_t keep,
                float* buffer, int64_t* count, float* bound) {
  torch::stable::parallel_for(0, n_units, 1 + 32768 / (n_images * cells + 1), [&](int64_t begin, int64_t end) {
    Planes<Scalar> planes(acts, cells);
    for (int64_t unit = begin; unit < end; ++unit) {
      Held held{buffer + unit * 2 * keep, keep, count[unit], bound[unit]};
      for (int64_t image = 0; image < n_images; ++image) {
        const int64_t plane = image * n_units + unit;
        // Skips most planes without reading them again; while there is no bound, everything counts.
        if (maxima[plane] > held.bound || std::isinf(held.bound)) held.add(planes[plane], cells);
      }
      count[unit] = held.count;
      bound[unit] = held.bound;
    }
  });
}

Tensor top_quantile_update(const Tensor& acts, int64_t keep, Tensor buffer, Tensor count, Tensor bound) {
  check_tensor(acts, "acts", 4, acts);
  check_tensor(buffer, "buffer", 2, acts, ScalarType::Float);
  check_tensor(count, "count", 1, acts, ScalarType::Long);
  check_tensor(bound, "bound", 1, acts, ScalarType::Float);
  const int64_t n_images = acts.size(0), n_units = acts.size(1), cells = acts.size(2) * acts.size(3);
  STD_TORCH_CHECK(buffer.size(0) == n_units && buffer.size(1) == 2 * keep && count.size(0) == n_units &&
                      bound.size(0) == n_units && keep > 0 && cells > 0,
                  "top_quantile_update: shapes do not match");
  const int64_t* held = count.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(std::all_of(held, held + n_units, [&](int64_t n) { return 0 <= n && n <= 2 * keep; }),
                  "top_quantile_update: count must lie in [0, 2 keep]");

  Tensor maxima = torch::stable::new_empty(acts, {n_images, n_units}, ScalarType::Float);
  float* largest = maxima.mutable_data_ptr<float>();
  dispatch_floating(acts, "acts", [&](auto* tag) {
    using Scalar = ScalarOf<decltype(tag)>;
    const Scalar* data = static_cast<const Scalar*>(acts.const_data_ptr());
    if (!all_maxima(data, n_images * n_units, cells, largest)) return;  // the caller refuses NaN; nothing has changed
    add_planes(data, largest, n_images, n_units, cells, keep, buffer.mutable_data_ptr<float>(),
               count.mutable_data_ptr<int64_t>(), bound.mutable_data_ptr<float>());
  });
  return maxima;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CPU, m) { m.impl("top_quantile_update", TORCH_BOX(&top_quantile_update)); }

}  // namespace netinterp_fast
