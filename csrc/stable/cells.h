// What the ops of netinterp_fast/ops/cells.py check on every device.
#pragma once

#include "../core/cells.h"
#include "tensors.h"

namespace netinterp_fast {

// acts [B, C, h, w]: an int32 counts the values of a plane.
inline void check_mark_cells(const Tensor& acts, const Tensor& levels) {
  check_tensor(acts, "acts", 4, acts);
  check_tensor(levels, "levels", 1, acts, ScalarType::Float);
  STD_TORCH_CHECK(levels.size(0) == acts.size(1), "levels must be [C]");
  STD_TORCH_CHECK(acts.size(2) > 0 && acts.size(3) > 0 && acts.size(2) < (int64_t{1} << 31) / acts.size(3),
                  "h and w must be at least 1, a map less than 2^31 values");
}

// planes [P], bits [P, h, bytes of a row], starts [P].
inline void check_marks(const Tensor& planes, const Tensor& bits, const Tensor& starts, const Tensor& like,
                        int64_t width, int64_t n_values) {
  check_tensor(planes, "planes", 1, like, ScalarType::Long);
  check_tensor(bits, "bits", 3, like, ScalarType::Byte);
  check_tensor(starts, "starts", 1, like, ScalarType::Long);
  STD_TORCH_CHECK(width > 0 && bits.size(1) > 0 && bits.size(2) == bytes_of_row(width), "bits must be [P, h, w / 8]");
  STD_TORCH_CHECK(bits.size(0) == planes.size(0) && starts.size(0) == planes.size(0), "planes and starts must be [P]");
  STD_TORCH_CHECK(n_values >= 0, "n_values must be at least 0");
}

inline Tensor empty_maps(const Tensor& values, const Tensor& bits, int64_t n_images, int64_t n_units, int64_t width) {
  STD_TORCH_CHECK(n_images >= 0 && n_units >= 0, "n_images and n_units must be at least 0");
  return torch::stable::new_empty(values, {n_images, n_units, bits.size(1), width}, ScalarType::Float);
}

}  // namespace netinterp_fast
