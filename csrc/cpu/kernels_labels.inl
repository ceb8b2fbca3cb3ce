// Rows of concept ids: included in kernels.inl, once an instruction set.

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
