// Inputs with normal noise: a thread makes the noise of a block of neighbouring elements of a row.
#pragma once

#include "../core/noise.h"
#include "paths.cuh"

namespace netinterp_fast {

// Rows: sample by sample, the examples; the numbers of the first of both are below 2^32, and those of all others.
struct NoiseRows {
  int64_t samples;
  int64_t examples;
  int64_t size;
  int64_t first_sample;
  int64_t first_example;
};

template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    add_noise(const T* __restrict__ inputs, const RealOf<T>* __restrict__ sigma, PhiloxKey key, NoiseRows rows,
              T* __restrict__ out) {
  using Real = RealOf<T>;
  const int64_t blocks = (rows.size + kNoiseBlock - 1) / kNoiseBlock;
  const int64_t items = rows.samples * rows.examples * blocks;
  const bool whole = in_fews<kNoiseBlock>(rows.size, inputs, out);
#pragma unroll 1
  for (int64_t item = thread_in_grid(); item < items; item += threads_in_grid()) {
    const int64_t row = item / blocks, block = item - row * blocks;
    const int64_t sample = row / rows.examples, example = row - sample * rows.examples;
    const NoiseBlock noise =
        noise_block(static_cast<uint64_t>(block), static_cast<uint32_t>(rows.first_sample + sample),
                    static_cast<uint32_t>(rows.first_example + example), key);
    const int64_t first = block * kNoiseBlock;
    const T* from = inputs + example * rows.size + first;
    T* to = out + row * rows.size + first;
    const Real scale = sigma[example];
    const auto noisy = [&](T value, int i) {
      const Real scaled = scale * static_cast<Real>(noise.values[i]);
      T result;
      assign(result, to_real(value) + scaled);
      return result;
    };
    if (whole) {
      Few<T, kNoiseBlock> values = few_at<kNoiseBlock>(from);
#pragma unroll
      for (int i = 0; i < kNoiseBlock; ++i) values.values[i] = noisy(values.values[i], i);
      few_at<kNoiseBlock>(to) = values;
    } else {
#pragma unroll
      for (int i = 0; i < kNoiseBlock; ++i) {
        if (first + i < rows.size) to[i] = noisy(from[i], i);
      }
    }
  }
}

}  // namespace netinterp_fast
