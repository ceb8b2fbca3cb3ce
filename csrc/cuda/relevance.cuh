// The elementwise steps of layer-wise relevance propagation: one number from those at the same place of the operands.
#pragma once

#include "../core/relevance.h"
#include "elements.cuh"

namespace netinterp_fast {

template <typename T>
struct alignas(16) Pack {
  T values[kPacked<T>];
};

template <typename T>
__device__ __forceinline__ bool starts_pack(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Pack<T>) == 0;
}

// out[i] = rule(in[i]...) for i in [0, n): in packs where all begin as packs do, and what is left singly.
template <typename T, typename Rule, typename... In>
__device__ __forceinline__ void map(const Rule& rule, int64_t n, T* __restrict__ out, const In* __restrict__... in) {
  const int64_t packs = (starts_pack(out) && ... && starts_pack(in)) ? n / kPacked<T> : 0;
#pragma unroll 1
  for (int64_t p = thread_in_grid(); p < packs; p += threads_in_grid()) {
    Pack<T> result;
    const auto map_pack = [&](const Pack<In>&... loaded) {
#pragma unroll
      for (int i = 0; i < kPacked<T>; ++i) assign(result.values[i], rule(to_real(loaded.values[i])...));
    };
    map_pack(Pack<In>(reinterpret_cast<const Pack<In>*>(in)[p])...);
    reinterpret_cast<Pack<T>*>(out)[p] = result;
  }
#pragma unroll 1
  for (int64_t i = packs * kPacked<T> + thread_in_grid(); i < n; i += threads_in_grid()) {
    assign(out[i], rule(to_real(in[i])...));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    map_stabilized_ratio(const T* __restrict__ relevance, const T* __restrict__ z, RealOf<T> epsilon, int64_t n,
                         T* __restrict__ out) {
  using Real = RealOf<T>;
  map([=](Real r, Real z) { return r / stabilized(z, epsilon); }, n, out, relevance, z);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    map_product_ratio(const T* __restrict__ x, const T* __restrict__ grad, const T* __restrict__ z, RealOf<T> epsilon,
                      int64_t n, T* __restrict__ out) {
  using Real = RealOf<T>;
  map([=](Real x, Real grad, Real z) { return (x * grad) / stabilized(z, epsilon); }, n, out, x, grad, z);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    map_relu_gate(const T* __restrict__ grad, const T* __restrict__ output, RealOf<T> epsilon, int64_t n,
                  T* __restrict__ out) {
  using Real = RealOf<T>;
  map([=](Real grad, Real output) { return gated(grad, output, epsilon); }, n, out, grad, output);
}

}  // namespace netinterp_fast
