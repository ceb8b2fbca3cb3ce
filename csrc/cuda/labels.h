// Launches prepare_labels for the ops that take label maps.
#pragma once

#include "labels.cuh"
#include "launch.h"

namespace netinterp_fast {

struct PreparedLabels {
  LabelShape shape;
  Tensor pixel_ids;  // int32 [B, L, H, W]
  Tensor image_ids;  // int32 [B, S]
  Tensor first_bad;  // int64 [2]

  const unsigned long long* first_bad_data() const {
    return static_cast<const unsigned long long*>(first_bad.const_data_ptr());
  }
};

inline PreparedLabels launch_prepare_labels(const Tensor& labels, const Tensor& image_labels, int64_t n_concepts,
                                            cudaStream_t stream) {
  check_tensor(labels, "labels", 4, labels);
  check_tensor(image_labels, "image_labels", 2, labels, ScalarType::Long);
  STD_TORCH_CHECK(image_labels.size(0) == labels.size(0), "image_labels and labels must have the same B");
  STD_TORCH_CHECK(n_concepts >= 1 && n_concepts < int64_t{1} << 31, "n_concepts must be in [1, 2^31)");

  const LabelShape shape{labels.size(0), labels.size(1), labels.size(2) * labels.size(3), image_labels.size(1),
                         n_concepts};
  STD_TORCH_CHECK(shape.pixels < int64_t{1} << 30, "labels must have fewer than 2^30 pixels an image");
  PreparedLabels prepared{
      shape,
      torch::stable::new_empty(labels, {shape.images, shape.layers, labels.size(2), labels.size(3)}, ScalarType::Int),
      torch::stable::new_empty(labels, {shape.images, shape.image_labels}, ScalarType::Int),
      torch::stable::new_empty(labels, {2}, ScalarType::Long),
  };
  auto* first_bad = mutable_data<unsigned long long>(prepared.first_bad);
  STD_CUDA_CHECK(cudaMemsetAsync(first_bad, 0xff, 2 * sizeof(kNoneBad), stream));  // kNoneBad twice
  const unsigned grid = grid_for(labels, shape.images * std::max(shape.pixels, shape.image_labels));
  dispatch_integer(labels, "labels", [&](const auto* type) {
    prepare_labels<<<grid, kThreads, 0, stream>>>(
        elements(labels, type), static_cast<const int64_t*>(image_labels.const_data_ptr()), shape,
        mutable_data<int32_t>(prepared.pixel_ids), mutable_data<int32_t>(prepared.image_ids), first_bad);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return prepared;
}

}  // namespace netinterp_fast
