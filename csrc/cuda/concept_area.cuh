// area[b, c] = |L_c| on image b: the pixels that carry concept c.
#pragma once

#include "labels.cuh"

namespace netinterp_fast {

__global__ void __launch_bounds__(kThreads, kMinBlocks)
    count_concepts(const int32_t* __restrict__ pixel_ids,             // [B, L, H * W], from prepare_labels
                   const int32_t* __restrict__ image_ids,             // [B, S], from prepare_labels
                   const unsigned long long* __restrict__ first_bad,  // [2]
                   LabelShape shape,
                   int64_t* __restrict__ area)  // [B, K], zeros beforehand
{
  if (any_bad(first_bad)) return;
  const int64_t pixels_an_image = shape.layers * shape.pixels;
  const int64_t n_pixel_ids = shape.images * pixels_an_image;
  for (int64_t first = thread_in_grid() - lane_id(); first < n_pixel_ids; first += threads_in_grid()) {
    const int64_t i = first + lane_id();
    const int32_t id = i < n_pixel_ids ? pixel_ids[i] : 0;
    const int64_t row = id == 0 ? 0 : i / pixels_an_image * shape.concepts;
    warp_count(static_cast<unsigned long long>(row + id), area);
  }
  // prepare_labels has taken these concepts out of pixel_ids: nothing else is added to them.
  for (int64_t i = thread_in_grid(); i < shape.images * shape.image_labels; i += threads_in_grid()) {
    const int32_t id = image_ids[i];
    if (id != 0) area[i / shape.image_labels * shape.concepts + id] = shape.pixels;
  }
}

}  // namespace netinterp_fast
