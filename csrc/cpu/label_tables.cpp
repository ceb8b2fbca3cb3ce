#include "label_tables.h"

#include <algorithm>

namespace netinterp_fast {

AxisOwner::AxisOwner(const Axis& axis, int64_t strip_pixels)
    : axis(axis), first(axis.cells + 1, 0), weight(axis.pixels + kMaxLanes, 0.0f) {
  for (int64_t pixel = 0; pixel < axis.pixels; ++pixel) {
    const GridPoint point = grid_point(axis, pixel);
    weight[pixel] = point.weight;
    ++first[point.cell + 1];
  }
  for (int64_t i = 0; i < axis.cells; ++i) {
    max_pixels = std::max<int64_t>(max_pixels, first[i + 1]);
    first[i + 1] += first[i];
    strips.push_back(static_cast<int32_t>(strip_first.size()));
    for (int64_t x = first[i]; x < first[i + 1]; x += strip_pixels) strip_first.push_back(static_cast<int32_t>(x));
  }
  strips.push_back(static_cast<int32_t>(strip_first.size()));
  strip_first.push_back(static_cast<int32_t>(axis.pixels));
}

AxisTable AxisOwner::table() const {
  return {axis.cells, axis.pixels, first.data(), weight.data(), strips.data(), strip_first.data(), strips.back()};
}

LabelTable LabelOwner::table() const {
  return {layers,        bands.data(),      cells.data(),    static_cast<int64_t>(listed.size()),
          listed.data(), concept_of.data(), intervals.data()};
}

namespace {

// Takes the strips of cells of one label layer apart: the id of the first pixel left, all its pixels as intervals, and
// on.
template <typename Id>
class CellReader {
 public:
  CellReader(LabelOwner& owner, int64_t max_rows) : owner_(owner), left_(max_rows + 8) {}

  // A band of rows [n_rows, stride] of one layer, of which `width` columns are labels or padding; a segment of it has
  // `padded_rows` rows.
  void start(const Id* rows, int64_t stride, int64_t n_rows, int64_t padded_rows, int64_t width) {
    rows_ = rows, stride_ = stride, n_rows_ = n_rows, padded_rows_ = padded_rows;
    down_.resize(width / kPixels);
    right_.resize(width / kPixels);
    kernels_.find_changes(rows, stride, n_rows, width, down_.data(), right_.data());
  }

  // The strip of the columns [x_begin, x_end).
  CellLabels read(int32_t x_begin, int32_t x_end) {
    return is_uniform(x_begin, x_end) ? CellLabels{static_cast<int32_t>(rows_[x_begin]), 0, 0}
                                      : take_apart(x_begin, x_end);
  }

 private:
  bool is_uniform(int32_t x_begin, int32_t x_end) const {
    return all_clear(down_, x_begin, x_end) && all_clear(right_, x_begin, x_end - 1);
  }

  static bool all_clear(const std::vector<uint64_t>& bits, int64_t x_begin, int64_t x_end) {
    if (x_begin == x_end) return true;
    const int64_t begin = x_begin / kPixels, end = (x_end - 1) / kPixels;
    uint64_t set = 0;
    for (int64_t word = begin; word <= end; ++word) {
      uint64_t wanted = kAllPixels;
      if (word == begin) wanted &= kAllPixels << (kBits * (x_begin % kPixels));
      if (word == end) wanted &= kAllPixels >> (kBits * (kPixels - 1 - (x_end - 1) % kPixels));
      set |= bits[word] & wanted;
    }
    return set == 0;
  }

  CellLabels take_apart(int32_t x_begin, int32_t x_end) {
    const int32_t begin = static_cast<int32_t>(owner_.concept_of.size());
    std::fill_n(left_.begin(), n_rows_, kAllPixels >> (kBits * (kPixels - (x_end - x_begin))));
    std::fill_n(left_.begin() + n_rows_, 8, 0);
    for (int64_t y = 0;;) {  // the first row with a pixel left
      while (left_[y] == 0) ++y;
      const Id id = rows_[y * stride_ + x_begin + __builtin_ctzll(left_[y]) / kBits];
      const int32_t end = static_cast<int32_t>(owner_.concept_of.size());
      if (!add_segment(id, x_begin, y / 8 * 8)) {
        owner_.intervals.resize(owner_.intervals.size() - 2 * padded_rows_);
        return {static_cast<int32_t>(id), begin, end};
      }
      owner_.concept_of.push_back(static_cast<int32_t>(id));
    }
  }

  // Moves this id's first run in each row from y on to new intervals; whether another id is left.
  bool add_segment(Id id, int32_t x_begin, int64_t y) {
    owner_.intervals.resize(owner_.intervals.size() + 2 * padded_rows_, 0);
    uint8_t* interval = owner_.intervals.data() + owner_.intervals.size() - 2 * padded_rows_ + y;
    return kernels_.take_runs(rows_ + y * stride_ + x_begin, stride_, n_rows_ - y, id, left_.data() + y, interval,
                              interval + padded_rows_);
  }

  const LabelKernels<Id>& kernels_ = label_kernels<Id>();
  static constexpr int64_t kPixels = kPixelsAWord<Id>, kBits = sizeof(Id);
  static constexpr uint64_t kAllPixels = ~uint64_t{0};
  LabelOwner& owner_;
  const Id* rows_ = nullptr;  // [n_rows, stride]
  int64_t stride_ = 0, n_rows_ = 0, padded_rows_ = 0;
  std::vector<uint64_t> down_, right_;  // where the band changes
  std::vector<uint64_t> left_;          // [n_rows + 8]: of a strip, the pixels whose id is not yet noted
};

// Numbers the ids in the table by their place in the image's own list.
void list_concepts(LabelOwner& image, int64_t n_concepts) {
  std::vector<int32_t> place(n_concepts, 0);
  image.listed.assign(1, 0);
  const auto place_of = [&](int32_t id) {
    if (id != 0 && place[id] == 0) {
      place[id] = static_cast<int32_t>(image.listed.size());
      image.listed.push_back(id);
    }
    return place[id];
  };
  for (CellLabels& cell : image.cells) cell.rest = place_of(cell.rest);
  for (int32_t& concept_id : image.concept_of) concept_id = place_of(concept_id);
}

template <typename Reader>
bool read_image(Reader& reader, int64_t layers, const std::vector<int64_t>& covering, const AxisOwner& rows,
                const AxisOwner& columns, LabelOwner& image) {
  const int64_t n_strips = columns.strips.back();
  image.layers = layers;
  image.covering = covering;
  image.cells.resize(rows.axis.cells * n_strips * layers);
  image.concept_of.reserve(image.cells.size());
  image.intervals.reserve(image.cells.size() * 2 * padded_rows(rows.max_pixels));
  CellReader<typename Reader::Id> cell_reader(image, rows.max_pixels);
  for (int64_t row = 0; row < rows.axis.cells; ++row) {
    const int64_t n_rows = rows.first[row + 1] - rows.first[row];
    if (!reader.read(rows.first[row], rows.first[row + 1])) return false;
    image.bands.push_back({padded_rows(n_rows), static_cast<int64_t>(image.concept_of.size()),
                           static_cast<int64_t>(image.intervals.size())});
    for (int64_t layer = 0; layer < layers && n_rows > 0; ++layer) {
      cell_reader.start(reader.rows(layer), reader.stride(), n_rows, image.bands[row].rows, reader.padded_width());
      for (int64_t strip = 0; strip < n_strips; ++strip) {
        image.cells[(row * n_strips + strip) * layers + layer] =
            cell_reader.read(columns.strip_first[strip], columns.strip_first[strip + 1]);
      }
    }
  }
  return true;
}

}  // namespace

int64_t padded_rows(int64_t n_rows) {
  const int64_t step = 2 * kernels().lanes;
  return (n_rows + step - 1) / step * step;
}

std::vector<LabelOwner> read_labels(const Tensor& labels, const Tensor& image_labels, int64_t n_concepts,
                                    const AxisOwner& rows, const AxisOwner& columns, FirstBad& bad) {
  std::vector<LabelOwner> images(labels.size(0));
  bad = for_each_image(labels, image_labels, n_concepts, rows.max_pixels,
                       [&](int64_t i, const std::vector<int64_t>& covering, auto& reader) {
                         LabelOwner image;  // not in place: neighbours in a vector share cache lines
                         if (!read_image(reader, labels.size(1), covering, rows, columns, image)) return false;
                         list_concepts(image, n_concepts);
                         images[i] = std::move(image);
                         return true;
                       });
  return images;
}

}  // namespace netinterp_fast
