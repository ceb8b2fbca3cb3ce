// The body of the CPU kernels. Included once an instruction set with LANES (floats a vector) and the matching target in
// force; headers are included before. Plain vector arithmetic: every level computes the same bits.

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t UInts __attribute__((vector_size(4 * LANES)));
typedef uint32_t FourUInts __attribute__((vector_size(16)));
typedef char Bytes __attribute__((vector_size(4 * LANES)));
typedef uint8_t FewBytes __attribute__((vector_size(LANES)));  // as many as floats
typedef uint8_t HalfBytes __attribute__((vector_size(2 * LANES)));

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(4 * LANES)));
};

template <typename T>
inline typename VectorOf<T>::type load(const T* p) {
  typename VectorOf<T>::type v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline HalfBytes load_half(const uint8_t* p) {
  HalfBytes v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <typename T, typename Vector>
inline void store(T* p, Vector v) {
  __builtin_memcpy(p, &v, sizeof v);
}

template <typename Vector>
inline Vector smaller(Vector a, Vector b) {
  return a < b ? a : b;
}

template <typename Vector>
inline Vector larger(Vector a, Vector b) {
  return a > b ? a : b;
}

// A comparison's result as one bit a byte.
inline uint64_t byte_bits(Bytes mask) {
#if LANES == 16
  return _mm512_movepi8_mask((__m512i)mask);
#elif LANES == 8
  return static_cast<uint32_t>(_mm256_movemask_epi8((__m256i)mask));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_epi8((__m128i)mask));
#else
  uint64_t result = 0;
  for (int i = 0; i < 4 * LANES; ++i) result |= static_cast<uint64_t>(mask[i] & 1) << i;
  return result;
#endif
}

template <typename Mask>
inline bool any(Mask mask) {
  return byte_bits((Bytes)mask) != 0;
}

// Calls f(lane) for each lane of T that a comparison holds in, in order.
template <typename T, typename Mask, typename F>
inline void for_each_lane(Mask mask, const F& f) {
  constexpr uint64_t kFirstByteOfLane = sizeof(T) == 2 ? 0x5555555555555555u : 0x1111111111111111u;
  for (uint64_t left = byte_bits((Bytes)mask) & kFirstByteOfLane; left; left &= left - 1) {
    f(__builtin_ctzll(left) / static_cast<int>(sizeof(T)));
  }
}

inline int64_t sum(UInts v) {
  FourUInts parts[LANES / 4];
  __builtin_memcpy(parts, &v, sizeof v);
  FourUInts total = parts[0];
  for (int part = 1; part < LANES / 4; ++part) total += parts[part];
  uint64_t halves[2];  // two sums each, which two additions join
  store(halves, total);
  const uint64_t pairs = halves[0] + halves[1];
  return (pairs & 0xffffffffu) + (pairs >> 32);
}

inline Ints lane_index() {
  Ints v;
  for (int lane = 0; lane < LANES; ++lane) v[lane] = lane;
  return v;
}

template <bool Inclusive, typename Value>
inline auto lit(Value value, Value threshold) {
  if constexpr (Inclusive) {
    return value >= threshold;
  } else {
    return value > threshold;
  }
}

// Whether one of n values is lit.
template <bool Inclusive>
inline bool any_lit(const float* values, int64_t n, float threshold) {
  const Floats level = threshold - Floats{};
  Ints found{};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) found |= lit<Inclusive>(load(values + i), level);
  bool rest = false;
  for (; i < n; ++i) rest |= lit<Inclusive>(values[i], threshold);
  return rest || any(found);
}

#include "kernels_cells.inl"
#include "kernels_labels.inl"
#include "kernels_noise.inl"
#include "kernels_paths.inl"
#include "kernels_quantiles.inl"
#include "kernels_relevance.inl"
#include "kernels_tally.inl"

template <typename Id>
constexpr LabelKernels<Id> kLabels{check_row<Id>, drop_duplicates<Id>, find_changes<Id>, take_runs<Id>, find_runs<Id>};

template <typename Scalar>
constexpr RelevanceKernels<Scalar> kRelevance{stabilized_ratio<Scalar>, product_ratio<Scalar>, relu_gate<Scalar>};

template <typename Scalar>
constexpr PathKernels<Scalar> kPaths{path_points<Scalar>, path_accumulate<Scalar>, add_noise<Scalar>};

const Kernels table{LEVEL_NAME,
                    LANES,
                    kLabels<uint16_t>,
                    kLabels<uint32_t>,
                    tally_plane,
                    maximum,
                    append_above,
                    mark_plane,
                    take_marked,
                    put_marked,
                    kRelevance<float>,
                    kRelevance<double>,
                    kRelevance<torch::headeronly::Half>,
                    kRelevance<torch::headeronly::BFloat16>,
                    normal_noise,
                    kPaths<float>,
                    kPaths<double>,
                    kPaths<torch::headeronly::Half>,
                    kPaths<torch::headeronly::BFloat16>};
