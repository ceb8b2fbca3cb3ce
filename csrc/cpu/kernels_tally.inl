// The tally of one plane: included in kernels.inl, once an instruction set.

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
  if (!any_lit<Inclusive>(plane, n, threshold)) return false;
  for (int64_t i = 0; i < n; ++i) above[i] = lit<Inclusive>(plane[i], threshold);
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
