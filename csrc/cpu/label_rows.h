// Label maps read row by row: checked, widened to int32, duplicates settled, split into runs of one id.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../stable/parallel.h"
#include "../stable/tensors.h"
#include "kernels.h"

namespace netinterp_fast {

// Reads the label layers of one image, a band of rows at a time. Source is what they are stored as, Id what they
// become.
template <typename Source, typename Id_>
class RowReader {
 public:
  using Id = Id_;

  // labels [L, H, W]; at most max_rows rows are held.
  RowReader(const Source* labels, int64_t layers, int64_t height, int64_t width, int64_t max_rows, int64_t n_concepts,
            const std::vector<int64_t>& covering)
      : labels_(labels),
        layers_(layers),
        height_(height),
        width_(width),
        stride_((width / (2 * kMaxLanes) + 2) * 2 * kMaxLanes),  // a vector may start at the last pixel
        max_rows_(max_rows),
        n_concepts_(n_concepts),
        covering_(covering),
        ids_(layers * max_rows * stride_, 0) {}

  // Reads rows [y_begin, y_end). False if an id is out of range.
  bool read(int64_t y_begin, int64_t y_end) {
    for (int64_t y = y_begin; y < y_end; ++y) {
      Id* row = ids_.data() + (y - y_begin) * stride_;
      const int64_t layer_stride = max_rows_ * stride_;
      uint64_t high = 0;  // bits that Id cannot hold; set by a negative id too
      for (int64_t layer = 0; layer < layers_; ++layer) {
        high |= copy_row(labels_ + (layer * height_ + y) * width_, row + layer * layer_stride);
      }
      Id largest = 0;
      const bool shared = kernels_.check_row(row, layers_, layer_stride, padded_width(), &largest);
      if (high != 0 || static_cast<int64_t>(largest) >= n_concepts_) return false;
      if (shared || !covering_.empty()) {
        kernels_.drop_duplicates(row, layers_, layer_stride, padded_width(), covering_.data(), covering_.size());
      }
    }
    return true;
  }

  // W rounded up to whole vectors of every level, with at least one element to spare.
  int64_t padded_width() const { return stride_ - 2 * kMaxLanes; }

  // The rows last read of one layer: [y_end - y_begin, stride()], zeros after the width.
  Id* rows(int64_t layer) { return ids_.data() + layer * max_rows_ * stride_; }
  int64_t stride() const { return stride_; }

  // The flat index of the image's first id out of range, or -1.
  int64_t first_bad() const {
    for (int64_t i = 0; i < layers_ * height_ * width_; ++i) {
      const int64_t id = static_cast<int64_t>(labels_[i]);
      if (id < 0 || id >= n_concepts_) return i;
    }
    return -1;
  }

 private:
  uint64_t copy_row(const Source* source, Id* row) const {
    for (int64_t x = 0; x < width_; x += kLine) __builtin_prefetch(source + x + kAhead);
    if constexpr (sizeof(Source) == sizeof(Id)) {  // a negative id becomes too large a one
      std::memcpy(row, source, width_ * sizeof(Id));
      return 0;
    }
    uint64_t high = 0;
    for (int64_t x = 0; x < width_; ++x) {
      if constexpr (sizeof(Source) > sizeof(Id)) {
        high |= static_cast<uint64_t>(static_cast<int64_t>(source[x])) >> (8 * sizeof(Id));
      }
      row[x] = static_cast<Id>(source[x]);
    }
    return high;
  }

  // Several layers are read in turn, too many and too short stretches for the processor to see what comes next.
  static constexpr int64_t kLine = 64 / sizeof(Source), kAhead = 2048 / sizeof(Source);

  const LabelKernels<Id>& kernels_ = label_kernels<Id>();
  const Source* labels_;
  int64_t layers_, height_, width_, stride_, max_rows_, n_concepts_;
  const std::vector<int64_t>& covering_;
  std::vector<Id> ids_;  // [L, max_rows, stride]
};

// Ids out of range, as the ops report them: the first flat index in labels and in image_labels, -1 where there is none.
struct FirstBad {
  int64_t index[2] = {-1, -1};

  bool none() const { return index[0] < 0 && index[1] < 0; }

  Tensor tensor(const Tensor& like) const {
    Tensor result = torch::stable::new_empty(like, {2}, ScalarType::Long);
    std::copy_n(index, 2, result.mutable_data_ptr<int64_t>());
    return result;
  }
};

// The distinct concepts of a whole image, without 0 and ids out of range: image_labels [n].
inline std::vector<int64_t> distinct_ids(const int64_t* image_labels, int64_t n, int64_t n_concepts) {
  std::vector<int64_t> ids(image_labels, image_labels + n);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  const auto is_none = [&](int64_t id) { return id <= 0 || id >= n_concepts; };
  ids.erase(std::remove_if(ids.begin(), ids.end(), is_none), ids.end());
  return ids;
}

// Calls read(image, covering, reader) for every image of labels [B, L, H, W], in parallel; covering are the image's
// concepts in image_labels [B, S]; the reader holds max_rows rows. read returns false where it met an id out of range.
template <typename F>
FirstBad for_each_image(const Tensor& labels, const Tensor& image_labels, int64_t n_concepts, int64_t max_rows,
                        const F& read) {
  const int64_t n_images = labels.size(0), layers = labels.size(1), height = labels.size(2), width = labels.size(3);
  const int64_t image_size = layers * height * width, per_image = image_labels.size(1);
  const int64_t* whole = image_labels.const_data_ptr<int64_t>();
  FirstBad bad;
  for (int64_t i = 0; i < n_images * per_image && bad.index[1] < 0; ++i) {
    if (whole[i] < 0 || whole[i] >= n_concepts) bad.index[1] = i;
  }
  std::vector<int64_t> bad_label(n_images, -1);
  const auto read_all = [&](auto* source, auto row_id) {
    using Source = ScalarOf<decltype(source)>;
    const Source* ids = static_cast<const Source*>(labels.const_data_ptr());
    share_out(n_images, [&](const auto& next) {
      for (int64_t i = next(); i < n_images; i = next()) {
        const std::vector<int64_t> covering = distinct_ids(whole + i * per_image, per_image, n_concepts);
        RowReader<Source, decltype(row_id)> reader(ids + i * image_size, layers, height, width, max_rows, n_concepts,
                                                   covering);
        if (!read(i, covering, reader)) bad_label[i] = i * image_size + reader.first_bad();
      }
    });
  };
  dispatch_integer(labels, "labels", [&](auto* source) {
    n_concepts <= kMaxNarrowConcepts ? read_all(source, uint16_t{}) : read_all(source, uint32_t{});
  });
  const auto first = std::find_if(bad_label.begin(), bad_label.end(), [](int64_t index) { return index >= 0; });
  if (first != bad_label.end()) bad.index[0] = *first;
  return bad;
}

}  // namespace netinterp_fast
