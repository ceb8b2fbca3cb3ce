#include "unit_concept_overlap.cuh"

#include <tuple>

#include "labels.h"

namespace netinterp_fast {
namespace {

// The two axis tables in one piece of memory; both element types take four bytes.
struct AxisTables {
  Tensor memory;  // int32
  AxisTable y;
  AxisTable x;
};

AxisTables launch_fill_axis_tables(const Tensor& like, const Axis& y, const Axis& x, cudaStream_t stream) {
  const int64_t size = y.pixels + y.cells + 1 + x.pixels + x.cells + 1;
  Tensor memory = torch::stable::new_empty(like, {size}, ScalarType::Int);
  int32_t* first_y = mutable_data<int32_t>(memory);
  int32_t* first_x = first_y + y.cells + 1;
  float* weight_y = reinterpret_cast<float*>(first_x + x.cells + 1);
  float* weight_x = weight_y + y.pixels;
  AxisTables tables{memory, {weight_y, first_y}, {weight_x, first_x}};
  fill_axis_tables<<<grid_for(like, y.pixels + x.pixels), kThreads, 0, stream>>>(y, x, tables.y, tables.x);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return tables;
}

std::tuple<Tensor, Tensor> unit_concept_overlap(Tensor acts, Tensor thresholds, Tensor labels, Tensor image_labels,
                                                int64_t n_concepts, bool inclusive, double scale_y, double scale_x,
                                                double offset_y, double offset_x, Tensor intersection) {
  check_tensor(acts, "acts", 4, acts);
  check_tensor(thresholds, "thresholds", 1, acts, ScalarType::Float);
  check_tensor(labels, "labels", 4, acts);
  check_tensor(intersection, "intersection", 2, acts, ScalarType::Long);
  const int64_t images = acts.size(0), units = acts.size(1), h = acts.size(2), w = acts.size(3);
  const int64_t height = labels.size(2), width = labels.size(3);
  STD_TORCH_CHECK(thresholds.size(0) == units, "thresholds must have the C of acts");
  STD_TORCH_CHECK(labels.size(0) == images, "labels must have the B of acts");
  STD_TORCH_CHECK(intersection.size(0) == units && intersection.size(1) == n_concepts, "intersection must be [C, K]");
  STD_TORCH_CHECK(h >= 1 && w >= 1 && h * w < int64_t{1} << 30, "acts must have 1 to 2^30 cells a map");
  STD_TORCH_CHECK(height >= 1 && width >= 1, "labels must have at least one pixel");
  check_placement(scale_y, scale_x, offset_y, offset_x);

  const torch::stable::accelerator::DeviceGuard guard(acts.get_device());
  const cudaStream_t stream = current_stream(acts);
  const PreparedLabels prepared = launch_prepare_labels(labels, image_labels, n_concepts, stream);
  const AxisTables tables =
      launch_fill_axis_tables(acts, {h, height, scale_y, offset_y}, {w, width, scale_x, offset_x}, stream);

  const Tensor unit_area = torch::stable::new_zeros(acts, {images, units}, ScalarType::Long);
  const unsigned grid = grid_for(acts, std::max(images * units * kWarp, units));
  dispatch_floating(acts, "acts", [&](const auto* type) {
    tally_overlap<<<grid, kThreads, 0, stream>>>(
        elements(acts, type), static_cast<const float*>(thresholds.const_data_ptr()), units, static_cast<int>(h),
        static_cast<int>(w), inclusive, static_cast<const int32_t*>(prepared.pixel_ids.const_data_ptr()),
        static_cast<const int32_t*>(prepared.image_ids.const_data_ptr()), prepared.first_bad_data(), prepared.shape,
        static_cast<int>(width), tables.y, tables.x, mutable_data<int64_t>(intersection),
        mutable_data<int64_t>(unit_area));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {unit_area, prepared.first_bad};
}

}  // namespace
}  // namespace netinterp_fast

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CUDA, m) {
  m.impl("unit_concept_overlap", TORCH_BOX(&netinterp_fast::unit_concept_overlap));
}
