// Points on paths for all steps and sums along the paths: a thread works on a few neighbours at several steps.
#pragma once

#include "../core/paths.h"
#include "../core/relevance.h"  // RealOf
#include "elements.cuh"

namespace netinterp_fast {

// Values that are loaded and stored together.
template <typename T, int Width>
struct alignas(Width * sizeof(T)) Few {
  T values[Width];
};

template <int Width, typename T>
__device__ __forceinline__ Few<T, Width>& few_at(T* p) {
  return *reinterpret_cast<Few<T, Width>*>(p);
}
template <int Width, typename T>
__device__ __forceinline__ const Few<T, Width>& few_at(const T* p) {
  return *reinterpret_cast<const Few<T, Width>*>(p);
}

// Whether examples of `size` elements can be moved a few at a time.
template <int Width, typename... T>
__device__ __forceinline__ bool in_fews(int64_t size, const T*... begin) {
  return size % Width == 0 && (... && (reinterpret_cast<uintptr_t>(begin) % sizeof(Few<T, Width>) == 0));
}

// What the kernels know of a path: `steps` numbers, or [steps, examples], and so many elements in each example.
template <typename Real>
struct PathNumbers {
  const Real* values;
  bool by_example;
  int64_t steps;
  int64_t examples;
  int64_t size;

  __device__ __forceinline__ Real at(int64_t step, int64_t example) const {
    return values[by_example ? step * examples + example : step];
  }
};

constexpr int64_t kStepsAThread = 4;

template <bool Relu, int Width, typename T>
__device__ __forceinline__ void write_points(const T* __restrict__ inputs, const T* __restrict__ baseline,
                                             const PathNumbers<RealOf<T>>& alphas, T* __restrict__ out) {
  using Real = RealOf<T>;
  const int64_t numbers = alphas.examples * alphas.size, fews = numbers / Width;
  const int64_t items = fews * ((alphas.steps + kStepsAThread - 1) / kStepsAThread);
#pragma unroll 1
  for (int64_t item = thread_in_grid(); item < items; item += threads_in_grid()) {
    const int64_t first = item / fews * kStepsAThread, at = item % fews * Width, example = at / alphas.size;
    const int64_t last = first + kStepsAThread < alphas.steps ? first + kStepsAThread : alphas.steps;
    const Few<T, Width> x = few_at<Width>(inputs + at), base = few_at<Width>(baseline + at);
#pragma unroll 1
    for (int64_t step = first; step < last; ++step) {
      const Real alpha = alphas.at(step, example);
      Few<T, Width> points;
#pragma unroll
      for (int i = 0; i < Width; ++i) {
        const Real from = to_real(base.values[i]);
        assign(points.values[i], path_point<Relu>(from, to_real(x.values[i]) - from, alpha));
      }
      few_at<Width>(out + step * numbers + at) = points;
    }
  }
}

template <bool Relu, typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    write_path_points(const T* __restrict__ inputs, const T* __restrict__ baseline, PathNumbers<RealOf<T>> alphas,
                      T* __restrict__ out) {
  if (in_fews<kPacked<T>>(alphas.size, inputs, baseline, out)) {
    write_points<Relu, kPacked<T>>(inputs, baseline, alphas, out);
  } else {
    write_points<Relu, 1>(inputs, baseline, alphas, out);
  }
}

// gate is null where there is none.
template <PathValue Value, int Width, typename T>
__device__ __forceinline__ void add_steps(const T* __restrict__ grads, const T* __restrict__ gate,
                                          const PathNumbers<RealOf<T>>& weights, RealOf<T>* __restrict__ out) {
  using Real = RealOf<T>;
  const int64_t numbers = weights.examples * weights.size;
#pragma unroll 1
  for (int64_t at = thread_in_grid() * Width; at < numbers; at += threads_in_grid() * Width) {
    const int64_t example = at / weights.size;
    Few<Real, Width> sums = few_at<Width>(out + at);
#pragma unroll 2
    for (int64_t step = 0; step < weights.steps; ++step) {
      const Real weight = weights.at(step, example);
      const Few<T, Width> grad = few_at<Width>(grads + step * numbers + at);
      Few<T, Width> gates = grad;
      if (gate) gates = few_at<Width>(gate + step * numbers + at);
#pragma unroll
      for (int i = 0; i < Width; ++i) {
        const bool shut = gate && to_real(gates.values[i]) <= Real(0);
        const Real product = weight * path_value<Value>(shut ? Real(0) : to_real(grad.values[i]));
        sums.values[i] = sums.values[i] + product;
      }
    }
    few_at<Width>(out + at) = sums;
  }
}

constexpr int kSummed = 4;  // elements a thread sums: their sums are wider than they may be

template <PathValue Value, typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    add_path_steps(const T* __restrict__ grads, const T* __restrict__ gate, PathNumbers<RealOf<T>> weights,
                   RealOf<T>* __restrict__ out) {
  constexpr int kWidth = sizeof(T) == 8 ? 2 : kSummed;
  if (in_fews<kWidth>(weights.size, grads, gate, out)) {
    add_steps<Value, kWidth>(grads, gate, weights, out);
  } else {
    add_steps<Value, 1>(grads, gate, weights, out);
  }
}

}  // namespace netinterp_fast
