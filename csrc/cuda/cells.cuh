// Which values of activation maps may still matter, and moving those: netinterp_fast/ops/cells.py.
#pragma once

#include "../core/bilinear.h"
#include "../core/cells.h"
#include "device.cuh"

namespace netinterp_fast {

// The shape of maps, and the bytes that mark a row of them.
struct CellShape {
  int64_t planes;
  int64_t units;
  int64_t height;
  int64_t width;
  int64_t bytes;
};

// One thread a byte of marks.
template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    mark_maps(const T* __restrict__ acts,        // [planes, h, w]
              const float* __restrict__ levels,  // [units]
              bool inclusive, CellShape shape,
              uint8_t* __restrict__ bits,    // [planes, h, bytes]
              int32_t* __restrict__ counts)  // [planes], zeros beforehand
{
  for (int64_t i = thread_in_grid(); i < shape.planes * shape.height * shape.bytes; i += threads_in_grid()) {
    const int64_t row = i / shape.bytes, byte = i % shape.bytes;
    const int64_t plane = row / shape.height, y = row % shape.height;
    const float level = levels[plane % shape.units];
    unsigned near = 0;  // bit j: a lit value in column 8 byte - 1 + j of the three rows
    for (int64_t v = y > 0 ? y - 1 : 0; v <= y + 1 && v < shape.height; ++v) {
      const T* values = acts + (plane * shape.height + v) * shape.width;
      for (int j = 0; j < kColumnsAByte + 2; ++j) {
        const int64_t x = byte * kColumnsAByte - 1 + j;
        if (x >= 0 && x < shape.width && is_lit(to_float(values[x]), level, inclusive)) near |= 1u << j;
      }
    }
    const unsigned marked = (near | near >> 1 | near >> 2) & columns_of_byte(byte, shape.width);
    bits[i] = static_cast<uint8_t>(marked);
    if (marked) atomicAdd(counts + plane, __popc(marked));
  }
}

// Calls move(cell, value) for each marked value of the plane that this warp has: the cell's place in the plane and the
// value's among all, from `first` on. Values past n_values are left out.
template <typename F>
__device__ __forceinline__ void for_each_marked(const uint8_t* bits, const CellShape& shape, int64_t first,
                                                int64_t n_values, const F& move) {
  for (int64_t chunk = 0; chunk < shape.height * shape.bytes; chunk += kWarp) {
    const int64_t i = chunk + lane_id(), byte = i % shape.bytes;
    unsigned left = i < shape.height * shape.bytes ? bits[i] & columns_of_byte(byte, shape.width) : 0;
    const int own = __popc(left);
    int64_t value = first + warp_inclusive_sum(own) - own;
    for (; left; left &= left - 1, ++value) {
      const int64_t cell = i / shape.bytes * shape.width + byte * kColumnsAByte + __ffs(static_cast<int>(left)) - 1;
      if (value >= 0 && value < n_values) move(cell, value);
    }
    first += warp_sum(own);
  }
}

// One warp a listed plane.
template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    gather_marked(const T* __restrict__ acts,          // [shape.planes, h, w]
                  const int64_t* __restrict__ planes,  // [n_listed]
                  const uint8_t* __restrict__ bits,    // [n_listed, h, bytes]
                  const int64_t* __restrict__ starts,  // [n_listed]
                  int64_t n_listed, CellShape shape, int64_t n_values,
                  float* __restrict__ values)  // [n_values]
{
  for (int64_t p = thread_in_grid() / kWarp; p < n_listed; p += threads_in_grid() / kWarp) {
    if (planes[p] < 0 || planes[p] >= shape.planes) continue;
    const T* plane = acts + planes[p] * shape.height * shape.width;
    for_each_marked(bits + p * shape.height * shape.bytes, shape, starts[p], n_values,
                    [&](int64_t cell, int64_t value) { values[value] = to_float(plane[cell]); });
  }
}

__global__ void __launch_bounds__(kThreads, kMinBlocks)
    scatter_marked(const float* __restrict__ values,    // [n_values]
                   const int64_t* __restrict__ planes,  // [n_listed]
                   const uint8_t* __restrict__ bits,    // [n_listed, h, bytes]
                   const int64_t* __restrict__ starts,  // [n_listed]
                   int64_t n_listed, CellShape shape, int64_t n_values,
                   float* __restrict__ acts)  // [shape.planes, h, w], -inf beforehand
{
  for (int64_t p = thread_in_grid() / kWarp; p < n_listed; p += threads_in_grid() / kWarp) {
    if (planes[p] < 0 || planes[p] >= shape.planes) continue;
    float* plane = acts + planes[p] * shape.height * shape.width;
    for_each_marked(bits + p * shape.height * shape.bytes, shape, starts[p], n_values,
                    [&](int64_t cell, int64_t value) { plane[cell] = values[value]; });
  }
}

}  // namespace netinterp_fast
