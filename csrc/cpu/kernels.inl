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

// ---- labels ---------------------------------------------------------------------------------------------------------

// Fixed: the number of layers where it is known when compiling, which keeps their vectors in registers; else 0.
template <typename Id, int Fixed>
inline bool check_layers(const Id* ids, int64_t layers, int64_t layer_stride, int64_t n, Id* largest) {
  typename VectorOf<Id>::type shared{}, most{};
  const int64_t count = Fixed ? Fixed : layers;
  for (int64_t x = 0; x < n; x += 4 * LANES / sizeof(Id)) {
#pragma GCC unroll 4
    for (int64_t layer = 0; layer < count; ++layer) {
      const auto v = load(ids + layer * layer_stride + x);
      most = larger(most, v);
#pragma GCC unroll 4
      for (int64_t earlier = 0; earlier < layer; ++earlier) {
        shared |= (v == load(ids + earlier * layer_stride + x)) & v;  // not where both are 0
      }
    }
  }
  Id lanes[4 * LANES / sizeof(Id)];
  store(lanes, most);
  for (const Id lane : lanes) *largest = lane > *largest ? lane : *largest;
  return any(shared != 0);
}

template <typename Id>
bool check_row(const Id* ids, int64_t layers, int64_t layer_stride, int64_t n, Id* largest) {
  const auto check = layers == 1   ? check_layers<Id, 1>
                     : layers == 2 ? check_layers<Id, 2>
                     : layers == 3 ? check_layers<Id, 3>
                     : layers == 4 ? check_layers<Id, 4>
                                   : check_layers<Id, 0>;
  return check(ids, layers, layer_stride, n, largest);
}

// A concept counts once a pixel: later layers lose what an earlier layer, or the whole image, says already.
template <typename Id>
void drop_duplicates(Id* ids, int64_t layers, int64_t layer_stride, int64_t n, const int64_t* covering,
                     int64_t n_covering) {
  for (int64_t layer = 0; layer < layers; ++layer) {
    Id* row = ids + layer * layer_stride;
    for (int64_t i = 0; i < n_covering; ++i) {
      const Id id = static_cast<Id>(covering[i]);
      for (int64_t x = 0; x < n; ++x) row[x] = row[x] == id ? 0 : row[x];
    }
    for (int64_t earlier = 0; earlier < layer; ++earlier) {
      const Id* other = ids + earlier * layer_stride;
      for (int64_t x = 0; x < n; ++x) row[x] = row[x] == other[x] ? 0 : row[x];
    }
  }
}

template <typename Id>
void find_changes(const Id* rows, int64_t stride, int64_t n_rows, int64_t n, uint64_t* down, uint64_t* right) {
  for (int64_t word = 0; word < n / kPixelsAWord<Id>; ++word) {
    down[word] = right[word] = 0;
    for (int64_t i = 0; i < kPixelsAWord<Id>; i += 4 * LANES / sizeof(Id)) {
      const Id* pixels = rows + word * kPixelsAWord<Id> + i;
      const auto first = load(pixels);
      auto changed = first ^ first;
      for (int64_t y = 1; y < n_rows; ++y) changed |= load(pixels + y * stride) ^ first;
      down[word] |= byte_bits((Bytes)(changed != 0)) << (i * sizeof(Id));
      right[word] |= byte_bits((Bytes)(first != load(pixels + 1))) << (i * sizeof(Id));
    }
  }
}

// Where the pixels of one word have this id.
template <typename Id>
inline uint64_t same_pixels(const Id* pixels, Id id) {
  uint64_t same = 0;
  for (int64_t x = 0; x < kPixelsAWord<Id>; x += 4 * LANES / sizeof(Id)) {
    same |= byte_bits((Bytes)(load(pixels + x) == id)) << (x * sizeof(Id));
  }
  return same;
}

// Adding the lowest bit of a word carries through its first run of ones: what is then gone is the run.
inline uint64_t first_run(uint64_t word) { return word & ~(word + (word & -word)); }

#if LANES == 16
// take_runs for eight rows; returns the pixels of other ids.
inline __m512i take_eight_runs(const uint64_t* same, uint64_t* left, int bits, uint8_t* begin, uint8_t* end) {
  const __m512i before = _mm512_loadu_si512(left);
  const __m512i found = _mm512_and_si512(before, _mm512_loadu_si512(same));
  const __m512i low = _mm512_and_si512(found, _mm512_sub_epi64(_mm512_setzero_si512(), found));
  const __m512i run = _mm512_andnot_si512(_mm512_add_epi64(found, low), found);
  _mm512_storeu_si512(left, _mm512_andnot_si512(run, before));
  const __m512i first = _mm512_sub_epi64(_mm512_set1_epi64(63), _mm512_lzcnt_epi64(low));  // huge where low is 0
  const __m512i last = _mm512_sub_epi64(_mm512_set1_epi64(64), _mm512_lzcnt_epi64(run));
  const __m128i shift = _mm_cvtsi32_si128(bits / 2);
  _mm_storel_epi64((__m128i*)begin, _mm512_cvtepi64_epi8(_mm512_srl_epi64(_mm512_min_epu64(first, last), shift)));
  _mm_storel_epi64((__m128i*)end, _mm512_cvtepi64_epi8(_mm512_srl_epi64(last, shift)));
  return _mm512_andnot_si512(found, before);
}
#endif

template <typename Id>
bool take_runs(const Id* rows, int64_t stride, int64_t n_rows, Id id, uint64_t* left, uint8_t* begin, uint8_t* end) {
  constexpr int kBits = sizeof(Id);
#if LANES == 16
  constexpr int64_t kRows = 64;
  alignas(64) uint64_t same[kRows];
  __m512i others = _mm512_setzero_si512();
  for (int64_t top = 0; top < n_rows; top += kRows) {
    const int64_t here = n_rows - top < kRows ? n_rows - top : kRows;
    for (int64_t y = 0; y < here; ++y) same[y] = same_pixels(rows + (top + y) * stride, id);
    for (int64_t y = here; y % 8 != 0; ++y) same[y] = 0;
    for (int64_t y = top; y < top + here; y += 8) {
      others = _mm512_or_si512(others, take_eight_runs(same + y - top, left + y, kBits, begin + y, end + y));
    }
  }
  return _mm512_reduce_or_epi64(others) != 0;
#else
  uint64_t others = 0;
  for (int64_t y = 0; y < n_rows; ++y) {
    const uint64_t found = left[y] & same_pixels(rows + y * stride, id);
    // Adding the lowest bit carries through the first run of ones: what is then gone is the run.
    const uint64_t run = found & ~(found + (found & -found));
    const int first = (found ? __builtin_ctzll(found) : 0) / kBits;
    others |= left[y] & ~found;
    left[y] &= ~run;
    begin[y] = static_cast<uint8_t>(first);
    end[y] = static_cast<uint8_t>(first + __builtin_popcountll(run) / kBits);
  }
  return others != 0;
#endif
}

template <typename Id>
int64_t find_runs(const Id* row, int64_t width, int16_t* end, int32_t* id) {
  constexpr int64_t kStep = 4 * LANES / sizeof(Id);
  int64_t runs = 0, x = 0;
  const auto add = [&](int64_t last) {
    end[runs] = static_cast<int16_t>(last + 1);
    id[runs++] = row[last];
  };
  for (; x + kStep <= width; x += kStep) {
    for_each_lane<Id>(load(row + x) != load(row + x + 1), [&](int lane) { add(x + lane); });
  }
  for (; x < width; ++x) {
    if (row[x] != row[x + 1]) add(x);
  }
  return runs;
}

// ---- tally ----------------------------------------------------------------------------------------------------------

// The lit pixels of one strip of a cell, row by row: they are contiguous, as the surface is monotone along a row.
// lit [2, stride]: the first lit pixel and one past the last. Returns how many there are.
template <bool Inclusive>
inline int64_t light_strip(float a, float b, float c, float d, float threshold, const float* weight_y, int64_t n_rows,
                           const float* weight_x, int32_t width, uint8_t* lit_pixels, int64_t stride) {
  const Floats level = threshold - Floats{};
  Ints total{};
  for (int64_t y = 0; y < n_rows; y += LANES) {
    const Floats wy = load(weight_y + y);
    const Floats left = a + wy * (c - a);
    const Floats right = b + wy * (d - b);
    const Floats rise = right - left;
    Ints n{};
    const Ints left_lit = lit<Inclusive>(left, level), right_lit = lit<Inclusive>(right, level);
    const Ints finite = rise - rise == 0;
    if (!any(~(left_lit & right_lit & finite))) {
      n += width;
    } else if (any(left_lit | right_lit)) {
#pragma GCC unroll 4
      for (int32_t x = 0; x < width; ++x) n -= lit<Inclusive>(left + rise * weight_x[x], level);
    }
    n &= lane_index() + static_cast<int32_t>(y) < static_cast<int32_t>(n_rows);
    const Ints start = rise < 0 ? Ints{} : width - n;
    store(lit_pixels + y, __builtin_convertvector(start, FewBytes));
    store(lit_pixels + stride + y, __builtin_convertvector(start + n, FewBytes));
    total += n;
  }
  return sum((UInts)total);
}

inline int64_t sum(HalfBytes v) {
#if LANES == 16
  const __m256i sums = _mm256_sad_epu8((__m256i)v, __m256i{});
  return sums[0] + sums[1] + sums[2] + sums[3];
#elif LANES == 8
  const __m128i sums = _mm_sad_epu8((__m128i)v, __m128i{});
  return sums[0] + sums[1];
#else
  uint64_t bytes;
  __builtin_memcpy(&bytes, &v, sizeof bytes);
  const uint64_t pairs = (bytes & 0x00ff00ff00ff00ffu) + (bytes >> 8 & 0x00ff00ff00ff00ffu);
  return pairs * 0x0001000100010001u >> 48;
#endif
}

// Pixels that two intervals a row have in common: both [2, stride].
inline int64_t common_pixels(const uint8_t* a, const uint8_t* b, int64_t stride) {
  int64_t total = 0;
  for (int64_t y = 0; y < stride; y += 2 * LANES) {
    const HalfBytes begin = larger(load_half(a + y), load_half(b + y));
    const HalfBytes end = smaller(load_half(a + stride + y), load_half(b + stride + y));
    total += sum(larger(end, begin) - begin);
  }
  return total;
}

template <bool Inclusive>
int64_t tally_strip(const float* plane, int64_t row, int64_t column, int64_t strip, float threshold,
                    const AxisTable& rows, const AxisTable& columns, const LabelTable& labels, uint8_t* lit_pixels,
                    int32_t* counts, const int64_t* totals) {
  const int32_t y_begin = rows.first[row], x_begin = columns.strip_first[strip];
  const LabelBand& band = labels.bands[row];
  const int64_t down = next_cell(row, rows.cells) - row, across = next_cell(column, columns.cells) - column;
  const float* corner = plane + row * columns.cells + column;
  const CellLabels* cell = labels.cells + (row * columns.n_strips + strip) * labels.layers;
  const auto intervals_of = [&](const CellLabels& layer) {
    return labels.intervals + band.first_interval + (layer.begin - band.first_segment) * 2 * band.rows;
  };
  for (int64_t layer = 0; layer < labels.layers; ++layer) __builtin_prefetch(intervals_of(cell[layer]));
  const int64_t area = light_strip<Inclusive>(corner[0], corner[across], corner[down * columns.cells],
                                              corner[down * columns.cells + across], threshold, rows.weight + y_begin,
                                              rows.first[row + 1] - y_begin, columns.weight + x_begin,
                                              columns.strip_first[strip + 1] - x_begin, lit_pixels, band.rows);
  if (area == 0) return 0;
  // Both counts below are later added to the totals, which are seldom in the cache: they are fetched meanwhile.
  const auto add = [&](int32_t listed, int64_t n) {
    __builtin_prefetch(totals + labels.listed[listed], 1);
    counts[listed] += static_cast<int32_t>(n);
  };
  for (int64_t layer = 0; layer < labels.layers; ++layer) {
    const uint8_t* intervals = intervals_of(cell[layer]);
    int64_t rest = area;
    for (int32_t segment = cell[layer].begin; segment < cell[layer].end; ++segment, intervals += 2 * band.rows) {
      const int64_t n = common_pixels(lit_pixels, intervals, band.rows);
      add(labels.concept_of[segment], n);
      rest -= n;
    }
    add(cell[layer].rest, rest);
  }
  return area;
}

template <bool Inclusive>
inline int64_t tally_cell(const float* plane, int64_t row, int64_t column, float threshold, const AxisTable& rows,
                          const AxisTable& columns, const LabelTable& labels, uint8_t* lit_pixels, int32_t* counts,
                          const int64_t* totals) {
  int64_t area = 0;
  for (int32_t strip = columns.strips[column]; strip < columns.strips[column + 1]; ++strip) {
    area +=
        tally_strip<Inclusive>(plane, row, column, strip, threshold, rows, columns, labels, lit_pixels, counts, totals);
  }
  return area;
}

// Marks the values of a plane that are lit; false if there is none.
template <bool Inclusive>
inline bool mark_lit(const float* plane, int64_t n, float threshold, uint8_t* above) {
  const Floats level = threshold - Floats{};
  Ints above_level{};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) above_level |= lit<Inclusive>(load(plane + i), level);
  bool found = any(above_level);
  for (; i < n; ++i) found |= lit<Inclusive>(plane[i], threshold);
  if (!found) return false;
  for (i = 0; i < n; ++i) above[i] = lit<Inclusive>(plane[i], threshold);
  return true;
}

// No pixel of a cell exceeds its largest corner (core/bilinear.h), so only cells with a lit corner are looked at.
// Eight columns a step; a byte read past the row's end can only add a cell that then turns out dark.
template <bool Inclusive>
int64_t tally_lit_cells(const float* plane, float threshold, const AxisTable& rows, const AxisTable& columns,
                        const LabelTable& labels, uint8_t* above, uint8_t* lit_pixels, int32_t* counts,
                        const int64_t* totals) {
  const int64_t width = columns.cells;
  int64_t area = 0;
  for (int64_t row = 0; row < rows.cells; ++row) {
    const uint8_t* upper = above + row * width;
    const uint8_t* lower = above + next_cell(row, rows.cells) * width;
    for (int64_t column = 0; column < width; column += 8) {
      uint64_t corner[4];
      __builtin_memcpy(corner + 0, upper + column, 8);
      __builtin_memcpy(corner + 1, upper + column + 1, 8);
      __builtin_memcpy(corner + 2, lower + column, 8);
      __builtin_memcpy(corner + 3, lower + column + 1, 8);
      uint64_t active = corner[0] | corner[1] | corner[2] | corner[3];
      while (active) {
        const int64_t next = column + __builtin_ctzll(active) / 8;
        if (next >= width) break;
        active &= active - 1;
        area += tally_cell<Inclusive>(plane, row, next, threshold, rows, columns, labels, lit_pixels, counts, totals);
      }
    }
  }
  return area;
}

int64_t tally_plane(const float* plane, float threshold, bool inclusive, const AxisTable& rows,
                    const AxisTable& columns, const LabelTable& labels, uint8_t* above, uint8_t* lit_pixels,
                    int32_t* listed_counts, int64_t* counts) {
  const auto mark = inclusive ? mark_lit<true> : mark_lit<false>;
  const auto tally = inclusive ? tally_lit_cells<true> : tally_lit_cells<false>;
  if (!mark(plane, rows.cells * columns.cells, threshold, above)) return 0;
  const int64_t area = tally(plane, threshold, rows, columns, labels, above, lit_pixels, listed_counts, counts);
  for (int64_t i = 0; i < labels.n_listed; i += LANES) {  // all misses of the cache at once
    for_each_lane<int32_t>(load(listed_counts + i) != 0, [&](int lane) {
      counts[labels.listed[i + lane]] += listed_counts[i + lane];
      listed_counts[i + lane] = 0;
    });
  }
  return area;
}

// ---- quantiles ------------------------------------------------------------------------------------------------------

float maximum(const float* values, int64_t n) {
  Floats best = values[0] - Floats{};
  Ints nan{};
  float largest = values[0];
  bool any_nan = false;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const Floats v = load(values + i);
    best = v > best ? v : best;
    nan |= v != v;
  }
  for (; i < n; ++i) {
    largest = values[i] > largest ? values[i] : largest;
    any_nan |= values[i] != values[i];
  }
  for (int lane = 0; lane < LANES; ++lane) largest = best[lane] > largest ? best[lane] : largest;
  return any_nan || any(nan) ? __builtin_nanf("") : largest;
}

// Stores the lanes of v that the comparison holds in, one after another, and returns how many; up to LANES are written.
inline int64_t store_lanes(float* to, Floats v, Ints mask) {
#if LANES == 16
  const __mmask16 lanes = _mm512_movepi32_mask((__m512i)mask);
  _mm512_storeu_ps(to, _mm512_maskz_compress_ps(lanes, (__m512)v));
  return __builtin_popcount(lanes);
#elif LANES == 8
  const int lanes = _mm256_movemask_ps((__m256)mask);
  store(to, _mm256_permutevar8x32_ps((__m256)v, (__m256i)load(kLanesInOrder.of[lanes])));
  return __builtin_popcount(lanes);
#else
  int64_t n = 0;
  for_each_lane<float>(mask, [&](int lane) { to[n++] = v[lane]; });
  return n;
#endif
}

int64_t append_above(const float* values, int64_t n, int64_t* position, float bound, float* buffer, int64_t count,
                     int64_t capacity) {
  const Floats level = bound - Floats{};
  int64_t i = *position;
  for (; i + LANES <= n && count + LANES <= capacity; i += LANES) {
    const Floats v = load(values + i);
    count += store_lanes(buffer + count, v, v > level);
  }
  for (; i < n && count < capacity; ++i) {
    if (values[i] > bound) buffer[count++] = values[i];
  }
  *position = i;
  return count;
}

#include "kernels_paths.inl"
#include "kernels_relevance.inl"

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
                    kRelevance<float>,
                    kRelevance<double>,
                    kRelevance<torch::headeronly::Half>,
                    kRelevance<torch::headeronly::BFloat16>,
                    normal_noise,
                    kPaths<float>,
                    kPaths<double>,
                    kPaths<torch::headeronly::Half>,
                    kPaths<torch::headeronly::BFloat16>};
