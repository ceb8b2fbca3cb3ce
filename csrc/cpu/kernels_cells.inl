// Which values of a plane may still matter: included in kernels.inl, once an instruction set.

// A comparison's result as one bit a lane.
inline uint32_t lane_bits(Ints mask) {
#if LANES == 16
  return _mm512_movepi32_mask((__m512i)mask);
#elif LANES == 8
  return _mm256_movemask_ps((__m256)mask);
#else
  uint32_t result = 0;
  for (int lane = 0; lane < LANES; ++lane) result |= static_cast<uint32_t>(mask[lane] & 1) << lane;
  return result;
#endif
}

// One bit a value, those above the level set, to bits; false if there is none.
template <bool Inclusive>
inline bool find_above(const float* plane, int64_t n, float level, uint8_t* bits) {
  const Floats levels = level - Floats{};
  Ints found{};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) found |= lit<Inclusive>(load(plane + i), levels);
  bool any_above = any(found);
  for (; i < n; ++i) any_above |= lit<Inclusive>(plane[i], level);
  if (!any_above) return false;
  constexpr int64_t kStep = LANES < 8 ? 8 : LANES;
  for (i = 0; i + kStep <= n; i += kStep) {
    uint32_t word = lane_bits(lit<Inclusive>(load(plane + i), levels));
    if constexpr (LANES < 8) word |= lane_bits(lit<Inclusive>(load(plane + i + LANES), levels)) << LANES;
    __builtin_memcpy(bits + i / 8, &word, kStep / 8);
  }
  for (; i < n; i += 8) {
    uint32_t byte = 0;
    for (int64_t x = 0; x < 8 && i + x < n; ++x) {
      byte |= static_cast<uint32_t>(lit<Inclusive>(plane[i + x], level)) << x;
    }
    bits[i / 8] = static_cast<uint8_t>(byte);
  }
  return true;
}

// The bits of columns [x - 1, x + 33) of a row, from a plane's bits with a byte to spare before them; those outside the
// row are 0. n_columns: from x to the row's end.
inline uint64_t row_bits(const uint8_t* bits, int64_t first_of_row, int64_t x, int64_t n_columns) {
  const int64_t first = first_of_row + x - 1 + 8;  // of the spare byte on
  uint64_t word;
  __builtin_memcpy(&word, bits + first / 8 - 1, sizeof word);
  word >>= first % 8;
  if (x == 0) word &= ~uint64_t{1};
  const int64_t n = n_columns < 33 ? n_columns : 33;
  return word & ((uint64_t{2} << n) - 1);
}

int64_t mark_plane(const float* plane, int64_t height, int64_t width, float level, bool inclusive, uint8_t* above,
                   uint8_t* marks) {
  const auto find = inclusive ? find_above<true> : find_above<false>;
  if (!find(plane, height * width, level, above)) return 0;
  const int64_t bytes = bytes_of_row(width);
  int64_t count = 0;
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; x += 32) {
      uint64_t near = row_bits(above, y * width, x, width - x);
      if (y > 0) near |= row_bits(above, (y - 1) * width, x, width - x);
      if (y + 1 < height) near |= row_bits(above, (y + 1) * width, x, width - x);
      if (near == 0) continue;
      const int64_t n = width - x < 32 ? width - x : 32;
      const uint64_t marked = (near | near >> 1 | near >> 2) & ((uint64_t{1} << n) - 1);
      for (int64_t byte = 0; byte < bytes_of_row(n); ++byte) {
        marks[y * bytes + x / 8 + byte] = static_cast<uint8_t>(marked >> (8 * byte));
      }
      count += __builtin_popcountll(marked);
    }
  }
  return count;
}
