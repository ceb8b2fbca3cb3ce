// Label maps of a batch, prepared once for all units: checked, duplicates settled, cut up by coarse cell.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/bilinear.h"
#include "kernels.h"
#include "label_rows.h"

namespace netinterp_fast {

// Owns what an AxisTable points to.
struct AxisOwner {
  AxisOwner(const Axis& axis, int64_t strip_pixels);  // of a strip, at most
  AxisTable table() const;

  Axis axis;
  int64_t max_pixels = 0;      // of a cell
  std::vector<int32_t> first;  // [cells + 1]
  std::vector<float> weight;   // [pixels + kMaxLanes]
  std::vector<int32_t> strips, strip_first;
};

// Owns what a LabelTable points to, for one image.
struct LabelOwner {
  LabelTable table() const;

  int64_t layers = 0;
  std::vector<LabelBand> bands;     // [h]
  std::vector<CellLabels> cells;    // [h, n_strips, L]
  std::vector<int32_t> listed;      // [n_listed]
  std::vector<int32_t> concept_of;  // [segments]
  std::vector<uint8_t> intervals;
  std::vector<int64_t> covering;  // the distinct concepts of the whole image
};

// Rows of pixels of a band, rounded up to what the kernels take at a time.
int64_t padded_rows(int64_t n_rows);

// labels integer [B, L, H, W], image_labels int64 [B, S] -> one table an image; complete only where bad says so.
std::vector<LabelOwner> read_labels(const Tensor& labels, const Tensor& image_labels, int64_t n_concepts,
                                    const AxisOwner& rows, const AxisOwner& columns, FirstBad& bad);

}  // namespace netinterp_fast
