// The CPU kernels as a table of functions, compiled once an instruction set and chosen at run time.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

#include "../core/noise.h"
#include "../core/paths.h"
#include "../core/relevance.h"

namespace netinterp_fast {

constexpr int64_t kMaxLanes = 16;

// One axis of the label grid, tabulated: which coarse cell a pixel lies in, and how far. A cell is one strip of pixels,
// or several where it is wide: a row of a strip fits 64 bits, kPixelsAWord.
struct AxisTable {
  int64_t cells;
  int64_t pixels;
  const int32_t* first;        // [cells + 1]: the first pixel of each cell; pixels of a cell are contiguous
  const float* weight;         // [pixels + kMaxLanes]
  const int32_t* strips;       // [cells + 1]: the first strip of each cell
  const int32_t* strip_first;  // [n_strips + 1]: the first pixel of each strip
  int64_t n_strips;
};

// What one label layer says inside one strip of a coarse cell: segments [begin, end), and `rest` on all other pixels.
// Concepts are numbered by where they stand in the image's own short list: counts of a few ids stay in the cache.
struct CellLabels {
  int32_t rest;  // an index into `listed`, below
  int32_t begin;
  int32_t end;
};

// The segments of a row of cells.
struct LabelBand {
  int64_t rows;  // of pixels, rounded up to twice the lanes
  int64_t first_segment;
  int64_t first_interval;  // where its intervals begin in the table's
};

// The label layers of an image, strip by strip. A segment is an id with, in each row of pixels, one interval.
struct LabelTable {
  int64_t layers;
  const LabelBand* bands;   // [h]
  const CellLabels* cells;  // [h, n_strips, L]
  int64_t n_listed;
  const int32_t* listed;      // [n_listed]: the ids that the image has; the first is 0
  const int32_t* concept_of;  // [segments]: an index into `listed`
  const uint8_t* intervals;   // a segment: [2, rows of its band], first pixel and one past the last; 0 0 where none is
};

constexpr int64_t kMaxPixels = 32767;          // of a side of the label grid, so that an int16 holds a column
constexpr int64_t kMaxNarrowConcepts = 32768;  // label rows are uint16 up to here, uint32 above

// Pixels of a row of ids in 64 bits, a bit a byte.
template <typename Id>
constexpr int64_t kPixelsAWord = 64 / sizeof(Id);

// Work on rows of concept ids.
template <typename Id>
struct LabelKernels {
  // ids [L, layer_stride], n of them a layer: raises *largest to their largest, and returns whether an id other than 0
  // is at the same place in two layers. n is a multiple of 2 * kMaxLanes; the elements past the row's width are 0.
  bool (*check_row)(const Id* ids, int64_t layers, int64_t layer_stride, int64_t n, Id* largest);

  // Removes from such a row what an earlier layer or `covering` [n_covering] says already.
  void (*drop_duplicates)(Id* ids, int64_t layers, int64_t layer_stride, int64_t n, const int64_t* covering,
                          int64_t n_covering);

  // Where rows [n_rows, stride] change, for the first n columns, sizeof(Id) bits each: `down` in some row of a column,
  // `right` after the first pixel of it. n is a multiple of 2 * kMaxLanes.
  void (*find_changes)(const Id* rows, int64_t stride, int64_t n_rows, int64_t n, uint64_t* down, uint64_t* right);

  // Moves what of `left` [n_rows] has this id, in each row the first run of it, to begin and end [n_rows]: places in
  // the strip, rows [n_rows, stride]; begin = end for a row without. left has sizeof(Id) bits a pixel. All but the ids
  // have room for n_rows rounded up to 8; left is 0 there. Returns whether a pixel with another id is left.
  bool (*take_runs)(const Id* rows, int64_t stride, int64_t n_rows, Id id, uint64_t* left, uint8_t* begin,
                    uint8_t* end);

  // Splits row [width + 1] into runs of one id; row[width] must differ from row[width - 1]. Writes one past each run's
  // last pixel to end and its id to id, and returns the number of runs.
  int64_t (*find_runs)(const Id* row, int64_t width, int16_t* end, int32_t* id);
};

constexpr int kMaxOperands = 3;

// The ops of netinterp_fast/ops/relevance.py. out[i] from the operands in[0][i], in[1][i], ... for i in [begin, end).
template <typename Scalar>
struct RelevanceKernels {
  using Map = void (*)(const Scalar* const* in, RealOf<Scalar> epsilon, int64_t begin, int64_t end, Scalar* out);
  Map stabilized_ratio;
  Map product_ratio;
  Map relu_gate;
};

constexpr int64_t kPointRun = 1024;               // elements of an example that all steps' points are made of at a time
constexpr int64_t kSumRun = 2048;                 // and that all steps are summed of
constexpr int64_t kNoiseRun = kNoiseBlock * 256;  // elements that have their noise made at a time

// One example's alphas or weights, a step each; what belongs to a step begins row_stride after that of the step before.
template <typename Real>
struct PathSteps {
  const Real* numbers;
  int64_t number_stride;
  int64_t steps;
  int64_t row_stride;
};

// The ops of netinterp_fast/ops/paths.py and noise.py, for n elements of one example.
template <typename Scalar>
struct PathKernels {
  using Real = RealOf<Scalar>;

  // n <= kPointRun. streamed: past the caches, where the type is float; out, the rows and n are multiples of 64 bytes.
  void (*points)(const Scalar* inputs, const Scalar* baseline, const PathSteps<Real>& alphas, bool relu, bool streamed,
                 int64_t n, Scalar* out);

  // gate is null where there is none.
  void (*accumulate)(const Scalar* grads, const Scalar* gate, const PathSteps<Real>& weights, PathValue value,
                     int64_t n, Real* out);

  void (*add_noise)(const Scalar* inputs, const float* noise, Real sigma, int64_t n, Scalar* out);
};

struct Kernels {
  const char* level;
  int64_t lanes;  // floats a vector

  LabelKernels<uint16_t> narrow_labels;
  LabelKernels<uint32_t> wide_labels;

  // Adds to counts [K] how many lit pixels of one plane [h, w] carry each concept; returns how many are lit. counts[0]
  // takes some of the unlabelled ones.
  // Scratch: above [h * w + 16], lit [2, most rows of a band], listed_counts [n_listed + kMaxLanes] of zeros, left so.
  int64_t (*tally_plane)(const float* plane, float threshold, bool inclusive, const AxisTable& rows,
                         const AxisTable& columns, const LabelTable& labels, uint8_t* above, uint8_t* lit,
                         int32_t* listed_counts, int64_t* counts);

  // The largest of n >= 1 values; NaN if one is NaN.
  float (*maximum)(const float* values, int64_t n);

  // Appends to buffer the values above bound, from *position on, until the buffer of `capacity` is full or all n are
  // seen; moves *position and returns the new count.
  int64_t (*append_above)(const float* values, int64_t n, int64_t* position, float bound, float* buffer, int64_t count,
                          int64_t capacity);

  // Sets in marks [h, bytes_of_row(w)], zeros before, the values of a plane [h, w] above the level and the neighbours
  // of each; returns how many. Scratch: lit [h + 2, words of 64 columns], of which the first and last row are 0.
  int64_t (*mark_plane)(const float* plane, int64_t height, int64_t width, float level, bool inclusive, uint64_t* lit,
                        uint8_t* marks);

  // Moves the marked values of a plane [h, w] to values [n], or back; marks past the width are left out. False where
  // there are not n, with some moved then.
  bool (*take_marked)(const float* plane, const uint8_t* marks, int64_t height, int64_t width, int64_t n,
                      float* values);
  bool (*put_marked)(const float* values, const uint8_t* marks, int64_t height, int64_t width, int64_t n, float* plane);

  RelevanceKernels<float> float_relevance;
  RelevanceKernels<double> double_relevance;
  RelevanceKernels<torch::headeronly::Half> half_relevance;
  RelevanceKernels<torch::headeronly::BFloat16> bfloat16_relevance;

  // The noise of n elements of an example, from the first of first_block on, a multiple of kMaxLanes.
  void (*normal_noise)(PhiloxKey key, uint32_t sample, uint32_t example, int64_t first_block, int64_t n, float* out);

  PathKernels<float> float_paths;
  PathKernels<double> double_paths;
  PathKernels<torch::headeronly::Half> half_paths;
  PathKernels<torch::headeronly::BFloat16> bfloat16_paths;
};

const Kernels& kernels();  // the level in use

template <typename Id>
const LabelKernels<Id>& label_kernels() {
  if constexpr (sizeof(Id) == 2) {
    return kernels().narrow_labels;
  } else {
    return kernels().wide_labels;
  }
}

template <typename Scalar>
const RelevanceKernels<Scalar>& relevance_kernels() {
  if constexpr (std::is_same_v<Scalar, float>) {
    return kernels().float_relevance;
  } else if constexpr (std::is_same_v<Scalar, double>) {
    return kernels().double_relevance;
  } else if constexpr (std::is_same_v<Scalar, torch::headeronly::Half>) {
    return kernels().half_relevance;
  } else {
    return kernels().bfloat16_relevance;
  }
}

template <typename Scalar>
const PathKernels<Scalar>& path_kernels() {
  if constexpr (std::is_same_v<Scalar, float>) {
    return kernels().float_paths;
  } else if constexpr (std::is_same_v<Scalar, double>) {
    return kernels().double_paths;
  } else if constexpr (std::is_same_v<Scalar, torch::headeronly::Half>) {
    return kernels().half_paths;
  } else {
    return kernels().bfloat16_paths;
  }
}

}  // namespace netinterp_fast
