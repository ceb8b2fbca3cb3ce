#include "cells.cuh"

#include <limits>
#include <tuple>

#include "../stable/cells.h"
#include "launch.h"

namespace netinterp_fast {
namespace {

CellShape shape_of(int64_t images, int64_t units, int64_t height, int64_t width) {
  return {images * units, units, height, width, bytes_of_row(width)};
}

std::tuple<Tensor, Tensor> mark_cells(Tensor acts, Tensor levels, bool inclusive) {
  check_mark_cells(acts, levels);
  const int64_t images = acts.size(0), units = acts.size(1);
  const CellShape shape = shape_of(images, units, acts.size(2), acts.size(3));
  const torch::stable::accelerator::DeviceGuard guard(acts.get_device());
  const Tensor bits = torch::stable::new_empty(acts, {images, units, shape.height, shape.bytes}, ScalarType::Byte);
  const Tensor counts = torch::stable::new_zeros(acts, {images, units}, ScalarType::Int);
  if (shape.planes == 0) return {bits, counts};
  dispatch_floating(acts, "acts", [&](const auto* type) {
    mark_maps<<<grid_for(acts, bits.numel()), kThreads, 0, current_stream(acts)>>>(
        elements(acts, type), static_cast<const float*>(levels.const_data_ptr()), inclusive, shape,
        mutable_data<uint8_t>(bits), mutable_data<int32_t>(counts));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {bits, counts};
}

Tensor take_cells(Tensor acts, Tensor planes, Tensor bits, Tensor starts, int64_t n_values) {
  check_tensor(acts, "acts", 4, acts);
  check_marks(planes, bits, starts, acts, acts.size(3), n_values);
  STD_TORCH_CHECK(bits.size(1) == acts.size(2), "bits must have the rows of acts");
  const torch::stable::accelerator::DeviceGuard guard(acts.get_device());
  const Tensor values = torch::stable::new_zeros(acts, {n_values}, ScalarType::Float);
  const int64_t listed = planes.size(0);
  if (listed == 0) return values;
  const CellShape shape = shape_of(acts.size(0), acts.size(1), acts.size(2), acts.size(3));
  dispatch_floating(acts, "acts", [&](const auto* type) {
    gather_marked<<<grid_for(acts, listed * kWarp), kThreads, 0, current_stream(acts)>>>(
        elements(acts, type), static_cast<const int64_t*>(planes.const_data_ptr()),
        static_cast<const uint8_t*>(bits.const_data_ptr()), static_cast<const int64_t*>(starts.const_data_ptr()),
        listed, shape, n_values, mutable_data<float>(values));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return values;
}

Tensor put_cells(Tensor values, Tensor planes, Tensor bits, Tensor starts, int64_t images, int64_t units,
                 int64_t width) {
  check_tensor(values, "values", 1, values, ScalarType::Float);
  check_marks(planes, bits, starts, values, width, values.size(0));
  const torch::stable::accelerator::DeviceGuard guard(values.get_device());
  Tensor acts = empty_maps(values, bits, images, units, width);
  torch::stable::fill_(acts, -std::numeric_limits<double>::infinity());
  const int64_t listed = planes.size(0);
  if (listed == 0) return acts;
  scatter_marked<<<grid_for(values, listed * kWarp), kThreads, 0, current_stream(values)>>>(
      static_cast<const float*>(values.const_data_ptr()), static_cast<const int64_t*>(planes.const_data_ptr()),
      static_cast<const uint8_t*>(bits.const_data_ptr()), static_cast<const int64_t*>(starts.const_data_ptr()), listed,
      shape_of(images, units, bits.size(1), width), values.size(0), mutable_data<float>(acts));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return acts;
}

}  // namespace
}  // namespace netinterp_fast

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CUDA, m) {
  m.impl("mark_cells", TORCH_BOX(&netinterp_fast::mark_cells));
  m.impl("take_cells", TORCH_BOX(&netinterp_fast::take_cells));
  m.impl("put_cells", TORCH_BOX(&netinterp_fast::put_cells));
}
