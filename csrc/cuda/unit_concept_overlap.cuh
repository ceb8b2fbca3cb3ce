// intersection[u, c] += |M_u and L_c| over the images; unit_area[b, u] = |M_u| on image b; M_u = [S_u > T_u],
// S_u the bilinear surface of unit u's map.
//
// Inside a cell S_u never exceeds the largest corner (of finite activations), so a cell without a corner
// above T_u is done with four comparisons. Only the other cells are expanded to pixels, and only lit pixels
// touch a label.
#pragma once

#include "../core/bilinear.h"
#include "labels.cuh"

namespace netinterp_fast {

// How the label pixels of one axis fall on its cells.
struct AxisTable {
  float* weight;   // [pixels] where the pixel lies between its cell and the next
  int32_t* first;  // [cells + 1] first pixel of the cell; its pixels end where the next cell's begin
};

__device__ inline void fill_axis_table(const Axis& axis, int64_t pixel, const AxisTable& table) {
  const GridPoint point = grid_point(axis, pixel);
  table.weight[pixel] = point.weight;
  const int64_t cell_before = pixel == 0 ? -1 : grid_point(axis, pixel - 1).cell;
  for (int64_t cell = cell_before + 1; cell <= point.cell; ++cell) {
    table.first[cell] = static_cast<int32_t>(pixel);
  }
  if (pixel + 1 < axis.pixels) return;
  for (int64_t cell = point.cell + 1; cell <= axis.cells; ++cell) {
    table.first[cell] = static_cast<int32_t>(axis.pixels);
  }
}

__global__ void __launch_bounds__(kThreads, kMinBlocks)
    fill_axis_tables(Axis y, Axis x, AxisTable table_y, AxisTable table_x) {
  for (int64_t i = thread_in_grid(); i < y.pixels + x.pixels; i += threads_in_grid()) {
    if (i < y.pixels) {
      fill_axis_table(y, i, table_y);
    } else {
      fill_axis_table(x, i - y.pixels, table_x);
    }
  }
}

// One unit's activation map on one image.
template <typename T>
struct Plane {
  const T* values;  // [h, w]
  int h;
  int w;
};

// The corners a b / c d of a cell.
struct Corners {
  float a, b, c, d;
};

template <typename T>
__device__ __forceinline__ Corners corners_of(const Plane<T>& plane, int y, int x) {
  const int upper = y * plane.w;
  const int lower = static_cast<int>(next_cell(y, plane.h)) * plane.w;
  const int right = static_cast<int>(next_cell(x, plane.w));
  return {to_float(plane.values[upper + x]), to_float(plane.values[upper + right]), to_float(plane.values[lower + x]),
          to_float(plane.values[lower + right])};
}

struct Threshold {
  float value;
  bool inclusive;

  __device__ __forceinline__ bool passed_by(float v) const { return is_lit(v, value, inclusive); }
  __device__ __forceinline__ bool passed_by_any(const Corners& q) const {
    return passed_by(q.a) || passed_by(q.b) || passed_by(q.c) || passed_by(q.d);
  }
};

// Each lane holds `end`, the running sum of its share; returns the lane whose share contains `item`.
__device__ __forceinline__ int lane_with_item(int item, int end) {
  int lane = 0;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    if (__shfl_sync(kAllLanes, end, lane + step - 1) <= item) lane += step;
  }
  return lane;
}

// One warp: calls visit(pixel, lit) for the pixels of every cell that can be lit, all lanes together.
template <typename T, typename Visit>
__device__ __forceinline__ void for_each_candidate(const Plane<T>& plane, const Threshold& threshold,
                                                   const AxisTable& table_y, const AxisTable& table_x, int width,
                                                   const Visit& visit) {
  const int n_cells = plane.h * plane.w;
  for (int first_cell = 0; first_cell < n_cells; first_cell += kWarp) {
    const int own_cell = first_cell + lane_id();
    int own_pixels = 0;
    if (own_cell < n_cells) {
      const int y = own_cell / plane.w, x = own_cell % plane.w;
      if (threshold.passed_by_any(corners_of(plane, y, x))) {
        own_pixels = (table_y.first[y + 1] - table_y.first[y]) * (table_x.first[x + 1] - table_x.first[x]);
      }
    }
    // The pixels of these cells, one cell after another, are dealt out evenly to the lanes.
    const int own_end = warp_inclusive_sum(own_pixels);
    const int total = __shfl_sync(kAllLanes, own_end, kWarp - 1);
    for (int first_item = 0; first_item < total; first_item += kWarp) {
      const int item = first_item + lane_id();
      const int owner = lane_with_item(item, own_end);
      const int begin = __shfl_sync(kAllLanes, own_end - own_pixels, owner);
      int pixel = 0;
      bool lit = false;
      if (item < total) {
        const int y = (first_cell + owner) / plane.w, x = (first_cell + owner) % plane.w;
        const int columns = table_x.first[x + 1] - table_x.first[x];
        const int pixel_y = table_y.first[y] + (item - begin) / columns;
        const int pixel_x = table_x.first[x] + (item - begin) % columns;
        const Corners q = corners_of(plane, y, x);
        pixel = pixel_y * width + pixel_x;
        lit = threshold.passed_by(bilinear(q.a, q.b, q.c, q.d, table_y.weight[pixel_y], table_x.weight[pixel_x]));
      }
      visit(pixel, lit);
    }
  }
}

// One warp an (image, unit). Adds nothing where an id was out of range; otherwise column 0 of intersection
// ends as 0.
template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    tally_overlap(const T* __restrict__ acts,            // [B, C, h, w]
                  const float* __restrict__ thresholds,  // [C]
                  int64_t units, int h, int w, bool inclusive,
                  const int32_t* __restrict__ pixel_ids,             // [B, L, H * W], from prepare_labels
                  const int32_t* __restrict__ image_ids,             // [B, S], from prepare_labels
                  const unsigned long long* __restrict__ first_bad,  // [2]
                  LabelShape shape, int width,                       // W
                  AxisTable table_y, AxisTable table_x,
                  int64_t* __restrict__ intersection,  // [C, K]
                  int64_t* __restrict__ unit_area)     // [B, C], zeros beforehand
{
  if (any_bad(first_bad)) return;
  for (int64_t unit = thread_in_grid(); unit < units; unit += threads_in_grid())
    intersection[unit * shape.concepts] = 0;

  const int64_t n_warps = threads_in_grid() / kWarp;
  for (int64_t pair = thread_in_grid() / kWarp; pair < shape.images * units; pair += n_warps) {
    const int64_t image = pair / units, unit = pair % units;
    const Plane<T> plane{acts + pair * h * w, h, w};
    const Threshold threshold{thresholds[unit], inclusive};
    const int32_t* ids = pixel_ids + image * shape.layers * shape.pixels;
    int64_t* row = intersection + unit * shape.concepts;

    int area = 0;
    for_each_candidate(plane, threshold, table_y, table_x, width, [&](int pixel, bool lit) {
      if (__ballot_sync(kAllLanes, lit) == 0) return;
      area += lit;
      for (int64_t layer = 0; layer < shape.layers; ++layer) {
        warp_count(lit ? ids[layer * shape.pixels + pixel] : 0, row);
      }
    });
    area = warp_sum(area);

    if (area == 0) continue;
    if (lane_id() == 0) unit_area[pair] = area;
    for (int64_t s = lane_id(); s < shape.image_labels; s += kWarp) {
      const int32_t id = image_ids[image * shape.image_labels + s];
      if (id != 0) atomicAdd(reinterpret_cast<unsigned long long*>(row + id), static_cast<unsigned long long>(area));
    }
  }
}

}  // namespace netinterp_fast
