// The ops' kernels on the host runner, launched as csrc/cuda/<op>.cu launches them; called through ctypes.
#include "cuda_on_cpu.h"

#include "../../csrc/cuda/cells.cuh"
#include "../../csrc/cuda/concept_area.cuh"
#include "../../csrc/cuda/noise.cuh"
#include "../../csrc/cuda/paths.cuh"
#include "../../csrc/cuda/relevance.cuh"
#include "../../csrc/cuda/top_quantile_update.cuh"
#include "../../csrc/cuda/unit_concept_overlap.cuh"

using namespace netinterp_fast;

namespace {

struct Launch {
  int32_t blocks;
  uint32_t seed;
};

// What was thrown by the last call that returned 1.
std::string last_error;

template <typename F>
int32_t guarded(const F& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
    return 1;
  }
}

template <typename F>
void dispatch_floating(const std::string& dtype, const F& f) {
  if (dtype == "float32") return f(static_cast<const float*>(nullptr));
  if (dtype == "float16") return f(static_cast<const __half*>(nullptr));
  if (dtype == "bfloat16") return f(static_cast<const __nv_bfloat16*>(nullptr));
  throw std::runtime_error("no kernel for activations of type " + dtype);
}

template <typename F>
void dispatch_real(const std::string& dtype, const F& f) {
  if (dtype == "float64") return f(static_cast<const double*>(nullptr));
  dispatch_floating(dtype, f);
}

// Calls f with an std::integral_constant of the value.
template <typename F>
void dispatch_value(int64_t value, const F& f) {
  if (value == 0) return f(std::integral_constant<PathValue, PathValue::kSigned>{});
  if (value == 1) return f(std::integral_constant<PathValue, PathValue::kAbsolute>{});
  f(std::integral_constant<PathValue, PathValue::kSquare>{});
}

template <typename F>
void dispatch_integer(const std::string& dtype, const F& f) {
  if (dtype == "uint8") return f(static_cast<const uint8_t*>(nullptr));
  if (dtype == "int16") return f(static_cast<const int16_t*>(nullptr));
  if (dtype == "uint16") return f(static_cast<const uint16_t*>(nullptr));
  if (dtype == "int32") return f(static_cast<const int32_t*>(nullptr));
  if (dtype == "int64") return f(static_cast<const int64_t*>(nullptr));
  throw std::runtime_error("no kernel for labels of type " + dtype);
}

template <typename T>
const T* elements(const void* data, const T*) {
  return static_cast<const T*>(data);
}

struct PreparedLabels {
  std::vector<int32_t> pixel_ids;
  std::vector<int32_t> image_ids;
};

PreparedLabels launch_prepare_labels(Launch to, const void* labels, const char* labels_dtype,
                                     const int64_t* image_labels, const LabelShape& shape,
                                     int64_t* first_bad) {
  PreparedLabels prepared;
  prepared.pixel_ids.resize(shape.images * shape.layers * shape.pixels, -1);
  prepared.image_ids.resize(shape.images * shape.image_labels, -1);
  first_bad[0] = first_bad[1] = -1;
  dispatch_integer(labels_dtype, [&](const auto* type) {
    cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
      prepare_labels(elements(labels, type), image_labels, shape, prepared.pixel_ids.data(),
                     prepared.image_ids.data(), reinterpret_cast<unsigned long long*>(first_bad));
    });
  });
  return prepared;
}

}  // namespace

extern "C" {

const char* last_error_message() { return last_error.c_str(); }

int32_t concept_area(Launch to, const void* labels, const char* labels_dtype, const int64_t* image_labels,
                     LabelShape shape, int64_t* area, int64_t* first_bad) {
  return guarded([&] {
    const PreparedLabels prepared =
        launch_prepare_labels(to, labels, labels_dtype, image_labels, shape, first_bad);
    cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
      count_concepts(prepared.pixel_ids.data(), prepared.image_ids.data(),
                     reinterpret_cast<const unsigned long long*>(first_bad), shape, area);
    });
  });
}

int32_t unit_concept_overlap(Launch to, const void* acts, const char* acts_dtype, const float* thresholds,
                             int64_t units, const void* labels, const char* labels_dtype,
                             const int64_t* image_labels, LabelShape shape, bool inclusive, Axis y, Axis x,
                             int64_t* intersection, int64_t* unit_area, int64_t* first_bad) {
  return guarded([&] {
    const PreparedLabels prepared =
        launch_prepare_labels(to, labels, labels_dtype, image_labels, shape, first_bad);
    std::vector<float> weight_y(y.pixels), weight_x(x.pixels);
    std::vector<int32_t> first_y(y.cells + 1), first_x(x.cells + 1);
    const AxisTable table_y{weight_y.data(), first_y.data()}, table_x{weight_x.data(), first_x.data()};
    cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] { fill_axis_tables(y, x, table_y, table_x); });
    dispatch_floating(acts_dtype, [&](const auto* type) {
      cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
        tally_overlap(elements(acts, type), thresholds, units, static_cast<int>(y.cells),
                      static_cast<int>(x.cells), inclusive, prepared.pixel_ids.data(),
                      prepared.image_ids.data(), reinterpret_cast<const unsigned long long*>(first_bad),
                      shape, static_cast<int>(x.pixels), table_y, table_x, intersection, unit_area);
      });
    });
  });
}

int32_t top_quantile_update(Launch to, const void* acts, const char* acts_dtype, int64_t images,
                            int64_t units, int64_t plane_size, int64_t keep, float* buffer, int64_t* count,
                            float* bound, float* maxima) {
  return guarded([&] {
    int32_t any_nan = 0;
    dispatch_floating(acts_dtype, [&](const auto* type) {
      cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
        plane_maxima(elements(acts, type), images * units, plane_size, maxima, &any_nan);
      });
      cuda_on_cpu::launch(static_cast<unsigned>(units), kThreads, to.seed, [&] {
        append_largest(elements(acts, type), maxima, &any_nan, images, units, plane_size, keep, buffer, count,
                       bound);
      });
    });
  });
}

int32_t stabilized_ratio(Launch to, const void* relevance, const char* dtype, const void* z, double epsilon, int64_t n,
                         void* out) {
  return guarded([&] {
    dispatch_real(dtype, [&](auto* type) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
      cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
        map_stabilized_ratio(elements(relevance, type), elements(z, type), static_cast<RealOf<T>>(epsilon), n,
                             static_cast<T*>(out));
      });
    });
  });
}

int32_t product_ratio(Launch to, const void* x, const char* dtype, const void* grad, const void* z, double epsilon,
                      int64_t n, void* out) {
  return guarded([&] {
    dispatch_real(dtype, [&](auto* type) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
      cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
        map_product_ratio(elements(x, type), elements(grad, type), elements(z, type), static_cast<RealOf<T>>(epsilon),
                          n, static_cast<T*>(out));
      });
    });
  });
}

int32_t relu_gate(Launch to, const void* grad, const char* dtype, const void* output, double epsilon, int64_t n,
                  void* out) {
  return guarded([&] {
    dispatch_real(dtype, [&](auto* type) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
      cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
        map_relu_gate(elements(grad, type), elements(output, type), static_cast<RealOf<T>>(epsilon), n,
                      static_cast<T*>(out));
      });
    });
  });
}

struct PathShape {
  bool by_example;
  int64_t steps, examples, size;
};

int32_t path_points(Launch to, const void* inputs, const char* dtype, const void* baseline, const void* alphas,
                    PathShape shape, bool relu, void* out) {
  return guarded([&] {
    dispatch_real(dtype, [&](auto* type) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
      const PathNumbers<RealOf<T>> numbers{static_cast<const RealOf<T>*>(alphas), shape.by_example, shape.steps,
                                           shape.examples, shape.size};
      cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
        const auto kernel = relu ? write_path_points<true, T> : write_path_points<false, T>;
        kernel(elements(inputs, type), elements(baseline, type), numbers, static_cast<T*>(out));
      });
    });
  });
}

int32_t path_accumulate(Launch to, const void* grads, const char* dtype, const void* gate, const void* weights,
                        PathShape shape, int64_t value, void* out) {
  return guarded([&] {
    dispatch_real(dtype, [&](auto* type) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
      using Real = RealOf<T>;
      const PathNumbers<Real> numbers{static_cast<const Real*>(weights), shape.by_example, shape.steps, shape.examples,
                                      shape.size};
      dispatch_value(value, [&](auto constant) {
        cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
          add_path_steps<decltype(constant)::value>(elements(grads, type), elements(gate, type), numbers,
                                                    static_cast<Real*>(out));
        });
      });
    });
  });
}

int32_t noise_points(Launch to, const void* inputs, const char* dtype, const void* sigma, uint64_t seed, NoiseRows rows,
                     void* out) {
  return guarded([&] {
    dispatch_real(dtype, [&](auto* type) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
      cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
        add_noise(elements(inputs, type), static_cast<const RealOf<T>*>(sigma), philox_key(seed), rows,
                  static_cast<T*>(out));
      });
    });
  });
}

int32_t mark_cells(Launch to, const void* acts, const char* dtype, const float* levels, bool inclusive, CellShape shape,
                   uint8_t* bits, int32_t* counts) {
  return guarded([&] {
    dispatch_floating(dtype, [&](const auto* type) {
      cuda_on_cpu::launch(to.blocks, kThreads, to.seed,
                          [&] { mark_maps(elements(acts, type), levels, inclusive, shape, bits, counts); });
    });
  });
}

int32_t take_cells(Launch to, const void* acts, const char* dtype, const int64_t* planes, const uint8_t* bits,
                   const int64_t* starts, int64_t n_listed, CellShape shape, int64_t n_values, float* values) {
  return guarded([&] {
    dispatch_floating(dtype, [&](const auto* type) {
      cuda_on_cpu::launch(to.blocks, kThreads, to.seed, [&] {
        gather_marked(elements(acts, type), planes, bits, starts, n_listed, shape, n_values, values);
      });
    });
  });
}

int32_t put_cells(Launch to, const float* values, const int64_t* planes, const uint8_t* bits, const int64_t* starts,
                  int64_t n_listed, CellShape shape, int64_t n_values, float* acts) {
  return guarded([&] {
    cuda_on_cpu::launch(to.blocks, kThreads, to.seed,
                        [&] { scatter_marked(values, planes, bits, starts, n_listed, shape, n_values, acts); });
  });
}

// words: the counter's on entry, the random ones on return.
int32_t philox_words(uint32_t* words, const uint32_t* key) {
  return guarded([&] {
    const PhiloxWords random = philox({{words[0], words[1], words[2], words[3]}}, {{key[0], key[1]}});
    std::copy_n(random.words, 4, words);
  });
}

// Kernels that must fail, each in its own way, and one that must not: they test the runner.
int32_t runner_check(const char* name, uint32_t seed) {
  const std::string kind = name;
  return guarded([&] {
    cuda_on_cpu::launch(2, kThreads, seed, [&] {
      if (kind == "missing thread" && threadIdx.x == 7) return;
      if (kind == "diverging lanes" && threadIdx.x == 7) __shfl_sync(kAllLanes, 0, 0);
      if (kind == "partial mask") __ballot_sync(0xffffu, true);
      __shared__ unsigned sum, order[kThreads];
      if (kind == "uninitialised shared memory" && sum != 0)
        cuda_on_cpu::Block::current().fail("sum is not 0");
      if (threadIdx.x == 0) sum = 0;
      __syncthreads();
      order[threadIdx.x] = threadIdx.x;
      if (kind != "missing barrier") __syncthreads();
      atomicAdd(&sum, order[kThreads - 1 - threadIdx.x]);
      __syncthreads();
      if (sum != kThreads * (kThreads - 1) / 2) cuda_on_cpu::Block::current().fail("wrong sum");
      if (warp_inclusive_sum(1) != lane_id() + 1) cuda_on_cpu::Block::current().fail("wrong running sum");
    });
  });
}

}  // extern "C"
