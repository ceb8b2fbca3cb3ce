// Label maps read row by row: checked, widened to int32, duplicates settled, split into runs of one id.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../stable/tensors.h"
#include "kernels.h"

namespace netinterp_fast {

// Reads the label layers of one image row by row. Source is what they are stored as, Id what the rows become.
template <typename Source, typename Id>
class RowReader {
 public:
  // labels [L, H, W]
  RowReader(const Source* labels, int64_t layers, int64_t height, int64_t width, int64_t n_concepts,
            const std::vector<int64_t>& covering)
      : labels_(labels),
        layers_(layers),
        height_(height),
        width_(width),
        stride_((width / (2 * kMaxLanes) + 1) * 2 * kMaxLanes),
        n_concepts_(n_concepts),
        covering_(covering),
        ids_(layers * stride_, 0) {}

  // False if an id of row y is out of range.
  bool read(int64_t y) {
    for (int64_t layer = 0; layer < layers_; ++layer) {
      Id* row = ids_.data() + layer * stride_;
      row[width_] = 0;
      if (!copy_row(labels_ + (layer * height_ + y) * width_, row)) return false;
    }
    kernels_.drop_duplicates(ids_.data(), layers_, stride_, covering_.data(), covering_.size());
    for (int64_t layer = 0; layer < layers_; ++layer) {
      ids_[layer * stride_ + width_] = static_cast<Id>(-1);  // ends the last run
    }
    return true;
  }

  // The runs of one layer of the row last read; end and id [W].
  int64_t runs(int64_t layer, int16_t* end, int32_t* id) const {
    return kernels_.find_runs(ids_.data() + layer * stride_, width_, end, id);
  }

  // The flat index of the image's first id out of range, or -1.
  int64_t first_bad() const {
    for (int64_t i = 0; i < layers_ * height_ * width_; ++i) {
      const int64_t id = static_cast<int64_t>(labels_[i]);
      if (id < 0 || id >= n_concepts_) return i;
    }
    return -1;
  }

 private:
  bool copy_row(const Source* source, Id* row) const {
    uint64_t high = 0;  // bits that Id cannot hold; set by a negative id too
    for (int64_t x = 0; x < width_; ++x) {
      if constexpr (sizeof(Source) > sizeof(Id)) {
        high |= static_cast<uint64_t>(static_cast<int64_t>(source[x])) >> (8 * sizeof(Id));
      }
      row[x] = static_cast<Id>(source[x]);
    }
    return high == 0 && static_cast<int64_t>(kernels_.largest(row, width_)) < n_concepts_;
  }

  const LabelKernels<Id>& kernels_ = label_kernels<Id>();
  const Source* labels_;
  int64_t layers_, height_, width_, stride_, n_concepts_;
  const std::vector<int64_t>& covering_;
  std::vector<Id> ids_;  // [L, stride]
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

// The distinct concepts of a whole image, without 0: image_labels [n].
inline std::vector<int64_t> distinct_ids(const int64_t* image_labels, int64_t n) {
  std::vector<int64_t> ids(image_labels, image_labels + n);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  ids.erase(std::remove(ids.begin(), ids.end(), 0), ids.end());
  return ids;
}

// Calls read(image, covering, reader) for every image of labels [B, L, H, W], in parallel; covering are the image's
// concepts in image_labels [B, S]. read returns false where the reader met an id out of range.
template <typename F>
FirstBad for_each_image(const Tensor& labels, const Tensor& image_labels, int64_t n_concepts, const F& read) {
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
    torch::stable::parallel_for(0, n_images, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const std::vector<int64_t> covering = distinct_ids(whole + i * per_image, per_image);
        RowReader<Source, decltype(row_id)> reader(ids + i * image_size, layers, height, width, n_concepts, covering);
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
