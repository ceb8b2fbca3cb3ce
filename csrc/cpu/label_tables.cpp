#include "label_tables.h"

#include <algorithm>

namespace netinterp_fast {

AxisOwner::AxisOwner(const Axis& axis)
    : axis(axis), first(axis.cells + 1, 0), weight(axis.pixels + kMaxLanes, 0.0f) {
  for (int64_t pixel = 0; pixel < axis.pixels; ++pixel) {
    const GridPoint point = grid_point(axis, pixel);
    weight[pixel] = point.weight;
    ++first[point.cell + 1];
  }
  for (int64_t i = 0; i < axis.cells; ++i) {
    max_pixels = std::max<int64_t>(max_pixels, first[i + 1]);
    first[i + 1] += first[i];
  }
}

AxisTable AxisOwner::table() const { return {axis.cells, axis.pixels, first.data(), weight.data()}; }

LabelTable LabelOwner::table() const { return {layers, max_rows, cells.data(), static_cast<int64_t>(listed.size()), listed.data(), concept_of.data(),
          intervals.data()}; }

namespace {

// One label layer of a band of pixel rows, those of one row of cells, as runs of one id; and the cell now looked at.
struct Band {
  Band(int64_t max_rows, int64_t width) : width(width), end(max_rows * width), id(max_rows * width), run(max_rows) {}

  void rewind(int64_t n_rows) {
    rows = n_rows;
    for (int64_t y = 0; y < rows; ++y) run[y] = static_cast<int32_t>(y * width);
  }

  // Moves each row's current run to the one that holds pixel x; x may only grow. Without branches for the usual two steps.
  void seek(int16_t x) {
    for (int64_t y = 0; y < rows; ++y) {
      int32_t r = run[y];
      r += end[r] <= x;
      r += end[r] <= x;
      while (end[r] <= x) ++r;
      run[y] = r;
    }
  }

  // Whether the pixels up to x_end have the id of the current run of row 0.
  bool uniform(int16_t x_end) const {
    const int32_t wanted = id[run[0]];
    bool same = true;
    for (int64_t y = 0; y < rows; ++y) same &= (end[run[y]] >= x_end) & (id[run[y]] == wanted);
    return same;
  }

  int64_t width;
  int64_t rows = 0;
  std::vector<int16_t> end;  // [max_rows, width]: one past the last pixel of each run of a row
  std::vector<int32_t> id;   // [max_rows, width]
  std::vector<int32_t> run;  // [max_rows]: the current run
};

// The segments of one mixed cell, taken down row by row.
class CellSegments {
 public:
  explicit CellSegments(LabelOwner& owner) : owner_(owner), begin_(owner.concept_of.size()) {}

  // Pixels [x, stop) of row y, the k-th interval of that row. They go to a segment with this id that has nothing in the
  // row yet: most often the k-th.
  void add(int32_t id, int64_t y, int64_t k, int16_t x, int16_t stop) {
    int64_t segment = begin_ + k;
    if (!takes(segment, id, y)) {
      segment = begin_;
      while (segment < size() && !takes(segment, id, y)) ++segment;
      if (segment == size()) {
        owner_.concept_of.push_back(id);
        owner_.intervals.resize(owner_.intervals.size() + 2 * owner_.max_rows, 0);
      }
    }
    int16_t* interval = at(segment) + y;
    interval[0] = x;
    interval[owner_.max_rows] = stop;
  }

  // The last segment becomes the rest: its pixels are those that are left.
  CellLabels finish() {
    const int32_t rest = owner_.concept_of.back();
    owner_.concept_of.pop_back();
    owner_.intervals.resize(size() * 2 * owner_.max_rows);
    return {rest, static_cast<int32_t>(begin_), static_cast<int32_t>(size())};
  }

 private:
  int64_t size() const { return owner_.concept_of.size(); }
  int16_t* at(int64_t segment) { return owner_.intervals.data() + segment * 2 * owner_.max_rows; }
  bool takes(int64_t segment, int32_t id, int64_t y) {
    return segment < size() && owner_.concept_of[segment] == id && at(segment)[owner_.max_rows + y] == 0;
  }

  LabelOwner& owner_;
  int64_t begin_;
};

CellLabels mixed_cell(const Band& band, int16_t x_begin, int16_t x_end, LabelOwner& owner) {
  CellSegments segments(owner);
  for (int64_t y = 0; y < band.rows; ++y) {
    int16_t x = x_begin;
    for (int64_t run = band.run[y]; x < x_end; ++run) {
      const int16_t stop = std::min(band.end[run], x_end);
      segments.add(band.id[run], y, run - band.run[y], x, stop);
      x = stop;
    }
  }
  return segments.finish();
}

void read_band(Band& band, const AxisTable& columns, int64_t layer, CellLabels* cells, LabelOwner& owner) {
  for (int64_t column = 0; column < columns.cells; ++column) {
    const int16_t x_begin = columns.first[column], x_end = columns.first[column + 1];
    if (x_begin == x_end) continue;
    band.seek(x_begin);
    CellLabels& cell = cells[column * owner.layers + layer];
    cell = band.uniform(x_end) ? CellLabels{band.id[band.run[0]], 0, 0} : mixed_cell(band, x_begin, x_end, owner);
  }
}

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

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

template <typename Reader>
bool read_image(Reader& reader, int64_t layers, const std::vector<int64_t>& covering, const AxisOwner& rows,
                const AxisOwner& columns, LabelOwner& image) {
  const int64_t width = columns.axis.pixels, cells_a_row = columns.axis.cells * layers;
  image.layers = layers;
  image.max_rows = round_up(rows.max_pixels, 2 * kernels().lanes);
  image.covering = covering;
  image.cells.resize(rows.axis.cells * cells_a_row);
  image.concept_of.reserve(image.cells.size());
  image.intervals.reserve(image.cells.size() * 2 * image.max_rows);
  std::vector<Band> bands(layers, Band(rows.max_pixels, width));
  for (int64_t row = 0; row < rows.axis.cells; ++row) {
    const int64_t y_begin = rows.first[row], n_rows = rows.first[row + 1] - y_begin;
    for (int64_t y = 0; y < n_rows; ++y) {
      if (!reader.read(y_begin + y)) return false;
      for (int64_t layer = 0; layer < layers; ++layer) {
        reader.runs(layer, bands[layer].end.data() + y * width, bands[layer].id.data() + y * width);
      }
    }
    for (int64_t layer = 0; layer < layers && n_rows > 0; ++layer) {
      bands[layer].rewind(n_rows);
      read_band(bands[layer], columns.table(), layer, image.cells.data() + row * cells_a_row, image);
    }
  }
  return true;
}

}  // namespace

std::vector<LabelOwner> read_labels(const Tensor& labels, const Tensor& image_labels, int64_t n_concepts,
                                    const AxisOwner& rows, const AxisOwner& columns, FirstBad& bad) {
  std::vector<LabelOwner> images(labels.size(0));
  bad = for_each_image(labels, image_labels, n_concepts,
                       [&](int64_t i, const std::vector<int64_t>& covering, auto& reader) {
                         if (!read_image(reader, labels.size(1), covering, rows, columns, images[i])) return false;
                         list_concepts(images[i], n_concepts);
                         return true;
                       });
  return images;
}

}  // namespace netinterp_fast
