// The bilinear surface of an activation map, spelled out so that every backend computes the same bits.
// Compiled without contraction (-ffp-contract=off, --fmad=false); netinterp_fast/ops/_grid.py is the same in torch.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace netinterp_fast {

// How one axis of the coarse grid lies over the label pixels: the centre of cell i is at pixel offset + i * scale.
struct Axis {
  int64_t cells;   // coarse cells, >= 1
  int64_t pixels;  // label pixels
  double scale;    // > 0
  double offset;
};

// Where a label pixel falls on the coarse grid: between `cell` and the next one, at `weight` in [0, 1).
struct GridPoint {
  int64_t cell;
  float weight;
};

// Positions outside the outermost centres are clamped to them. Rounding to 2^-20 of a cell keeps weight <= 1 - 2^-20,
// so that lerp never leaves [min(a, b), max(a, b)]: a cell without a corner above T has no pixel above T.
NIF_HD GridPoint grid_point(const Axis& axis, int64_t pixel) {
  const double last = static_cast<double>(axis.cells - 1);
  double position = (static_cast<double>(pixel) - axis.offset) / axis.scale;
  position = position < 0.0 ? 0.0 : (position > last ? last : position);
  position = floor(position * 1048576.0 + 0.5) / 1048576.0;
  const double cell = floor(position);
  return {static_cast<int64_t>(cell), static_cast<float>(position - cell)};
}

// The cell after `cell`; the last one is its own neighbour.
NIF_HD int64_t next_cell(int64_t cell, int64_t cells) { return cell + 1 < cells ? cell + 1 : cell; }

// a at weight 0; exactly a wherever a == b. Monotone in the weight, in float32 too.
NIF_HD float lerp(float a, float b, float weight) { return a + weight * (b - a); }

// The surface inside one cell with corners a b / c d: down the two sides first, then across.
NIF_HD float bilinear(float a, float b, float c, float d, float weight_y, float weight_x) {
  return lerp(lerp(a, c, weight_y), lerp(b, d, weight_y), weight_x);
}

NIF_HD bool is_lit(float value, float threshold, bool inclusive) {
  return inclusive ? value >= threshold : value > threshold;
}

}  // namespace netinterp_fast
