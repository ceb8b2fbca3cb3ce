// Label maps made ready for counting: ids checked, and each concept left once a pixel.
#pragma once

#include "device.cuh"

namespace netinterp_fast {

struct LabelShape {
  int64_t images;        // B
  int64_t layers;        // L
  int64_t pixels;        // H * W
  int64_t image_labels;  // S
  int64_t concepts;      // K
};

// The value of first_bad where every id is in range: -1 as int64, the largest index as an unsigned number.
constexpr unsigned long long kNoneBad = ~0ull;

__device__ __forceinline__ bool any_bad(const unsigned long long* first_bad) {
  return first_bad[0] != kNoneBad || first_bad[1] != kNoneBad;
}

// The id, or 0 for one outside [0, K), whose index is then recorded if it is the smallest so far.
__device__ __forceinline__ int32_t checked_id(int64_t id, int64_t index, int64_t concepts,
                                              unsigned long long* first_bad) {
  if (id >= 0 && id < concepts) return static_cast<int32_t>(id);
  atomicMin(first_bad, static_cast<unsigned long long>(index));
  return 0;
}

// Whether `id` is among the n ids at ids[0], ids[stride], ...
template <typename T>
__device__ __forceinline__ bool contains(const T* ids, int64_t n, int64_t stride, int64_t id) {
  for (int64_t i = 0; i < n; ++i) {
    if (static_cast<int64_t>(ids[i * stride]) == id) return true;
  }
  return false;
}

// Writes the ids that count: 0 replaces an id out of range, one that an earlier layer of the same pixel has,
// and one that covers the whole image. first_bad must hold kNoneBad twice beforehand.
template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    prepare_labels(const T* __restrict__ labels,              // [B, L, H * W]
                   const int64_t* __restrict__ image_labels,  // [B, S]
                   LabelShape shape,
                   int32_t* __restrict__ pixel_ids,             // [B, L, H * W]
                   int32_t* __restrict__ image_ids,             // [B, S]
                   unsigned long long* __restrict__ first_bad)  // [2] flat indices into labels and image_labels
{
  for (int64_t i = thread_in_grid(); i < shape.images * shape.pixels; i += threads_in_grid()) {
    const int64_t image = i / shape.pixels;
    const int64_t pixel = image * shape.layers * shape.pixels + i % shape.pixels;
    const int64_t* covering = image_labels + image * shape.image_labels;
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      const int64_t index = pixel + layer * shape.pixels;
      const int32_t id = checked_id(static_cast<int64_t>(labels[index]), index, shape.concepts, &first_bad[0]);
      const bool repeated =
          contains(labels + pixel, layer, shape.pixels, id) || contains(covering, shape.image_labels, 1, id);
      pixel_ids[index] = repeated ? 0 : id;
    }
  }
  for (int64_t i = thread_in_grid(); i < shape.images * shape.image_labels; i += threads_in_grid()) {
    const int64_t place = i % shape.image_labels;
    const int32_t id = checked_id(image_labels[i], i, shape.concepts, &first_bad[1]);
    image_ids[i] = contains(image_labels + i - place, place, 1, id) ? 0 : id;
  }
}

}  // namespace netinterp_fast
