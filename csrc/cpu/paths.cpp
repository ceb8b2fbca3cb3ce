#include "fresh_points.h"

#include <algorithm>

#include "kernels.h"

namespace netinterp_fast {
namespace {

constexpr int64_t kGrain = 32768;
constexpr int64_t kManyBytes = int64_t{40} << 20;  // more than caches keep until they are read

bool is_streamed(const Tensor& points) {
  constexpr uintptr_t kLine = 64;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(points.const_data_ptr());
  return points.numel() * points.element_size() >= kManyBytes && begin % kLine == 0 &&
         points.size(1) * points.element_size() % kLine == 0;
}

// Calls f(example, first, n) for runs of at most `length` elements that make up all examples, shared out to threads.
template <typename F>
void for_each_run(const PointShape& shape, int64_t length, const F& f) {
  const int64_t runs = (shape.size + length - 1) / length;
  const int64_t numbers_a_run = std::min(shape.size, length) * shape.repeats;
  torch::stable::parallel_for(0, shape.examples * runs, 1 + kGrain / (numbers_a_run + 1),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; ++i) {
                                  const int64_t first = i % runs * length;
                                  f(i / runs, first, std::min(shape.size - first, length));
                                }
                              });
}

// The numbers of one example: alphas or weights.
template <typename Real>
PathSteps<Real> steps_of(const Tensor& numbers, const PointShape& shape, int64_t example) {
  const int64_t stride = numbers.size(1);
  const Real* data = static_cast<const Real*>(numbers.const_data_ptr());
  return {data + (stride == 1 ? 0 : example), stride, shape.repeats, shape.examples * shape.size};
}

Tensor path_points(Tensor inputs, Tensor baseline, Tensor alphas, bool relu) {
  const PointShape shape = check_path_points(inputs, baseline, alphas);
  Tensor out = fresh_points(inputs, shape);
  dispatch_real(inputs, "inputs", [&](auto* tag) {
    using Scalar = ScalarOf<decltype(tag)>;
    const Scalar* x = static_cast<const Scalar*>(inputs.const_data_ptr());
    const Scalar* base = static_cast<const Scalar*>(baseline.const_data_ptr());
    Scalar* points = static_cast<Scalar*>(out.mutable_data_ptr());
    const auto kernel = path_kernels<Scalar>().points;
    const bool streamed = is_streamed(out);
    for_each_run(shape, kPointRun, [&](int64_t example, int64_t first, int64_t n) {
      const int64_t at = example * shape.size + first;
      kernel(x + at, base + at, steps_of<RealOf<Scalar>>(alphas, shape, example), relu, streamed, n, points + at);
    });
  });
  return out;
}

void path_accumulate(Tensor grads, std::optional<Tensor> gate, Tensor weights, int64_t value, Tensor out) {
  const PointShape shape = check_path_accumulate(grads, gate, weights, value, out);
  dispatch_real(grads, "grads", [&](auto* tag) {
    using Scalar = ScalarOf<decltype(tag)>;
    using Real = RealOf<Scalar>;
    const Scalar* data = static_cast<const Scalar*>(grads.const_data_ptr());
    const Scalar* gates = gate ? static_cast<const Scalar*>(gate->const_data_ptr()) : nullptr;
    Real* sums = static_cast<Real*>(out.mutable_data_ptr());
    const auto kernel = path_kernels<Scalar>().accumulate;
    for_each_run(shape, kSumRun, [&](int64_t example, int64_t first, int64_t n) {
      const int64_t at = example * shape.size + first;
      kernel(data + at, gates ? gates + at : nullptr, steps_of<Real>(weights, shape, example),
             static_cast<PathValue>(value), n, sums + at);
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CPU, m) {
  m.impl("path_points", TORCH_BOX(&path_points));
  m.impl("path_accumulate", TORCH_BOX(&path_accumulate));
}

}  // namespace netinterp_fast
