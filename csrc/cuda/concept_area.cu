#include "concept_area.cuh"

#include <tuple>

#include "labels.h"

namespace netinterp_fast {
namespace {

std::tuple<Tensor, Tensor> concept_area(Tensor labels, Tensor image_labels, int64_t n_concepts) {
  const torch::stable::accelerator::DeviceGuard guard(labels.get_device());
  const cudaStream_t stream = current_stream(labels);
  const PreparedLabels prepared = launch_prepare_labels(labels, image_labels, n_concepts, stream);
  const LabelShape& shape = prepared.shape;

  const Tensor area = torch::stable::new_zeros(labels, {shape.images, n_concepts}, ScalarType::Long);
  const unsigned grid = grid_for(labels, shape.images * std::max(shape.layers * shape.pixels, shape.image_labels));
  count_concepts<<<grid, kThreads, 0, stream>>>(static_cast<const int32_t*>(prepared.pixel_ids.const_data_ptr()),
                                                static_cast<const int32_t*>(prepared.image_ids.const_data_ptr()),
                                                prepared.first_bad_data(), shape, mutable_data<int64_t>(area));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {area, prepared.first_bad};
}

}  // namespace
}  // namespace netinterp_fast

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CUDA, m) { m.impl("concept_area", TORCH_BOX(&netinterp_fast::concept_area)); }
