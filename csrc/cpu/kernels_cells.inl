// Which values of a plane may still matter, and moving those: included in kernels.inl, once an instruction set.
// A row is looked at in words of 64 columns; what lies past its end is 0.

constexpr int64_t kColumnsAWord = 64;

// A comparison's result as one bit a lane.
inline uint64_t lane_bits(Ints mask) {
#if LANES == 16
  return _mm512_movepi32_mask((__m512i)mask);
#elif LANES == 8
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#else
  uint64_t result = 0;
  for (int lane = 0; lane < LANES; ++lane) result |= static_cast<uint64_t>(mask[lane] & 1) << lane;
  return result;
#endif
}

// Sets words [width / 64] to where a row is lit.
template <bool Inclusive>
inline void find_lit(const float* row, int64_t width, float level, uint64_t* words) {
  const Floats levels = level - Floats{};
  for (int64_t first = 0; first < width; first += kColumnsAWord) {
    const int64_t n = width - first < kColumnsAWord ? width - first : kColumnsAWord;
    const float* values = row + first;
    uint64_t word = 0;
    int64_t x = 0;
    for (; x + LANES <= n; x += LANES) word |= lane_bits(lit<Inclusive>(load(values + x), levels)) << x;
#if LANES == 16
    if (x < n) {
      const __mmask16 rest = (1u << (n - x)) - 1;
      const Floats last = (Floats)_mm512_maskz_loadu_ps(rest, values + x);
      word |= (lane_bits(lit<Inclusive>(last, levels)) & rest) << x;
    }
#else
    for (; x < n; ++x) word |= static_cast<uint64_t>(lit<Inclusive>(values[x], level)) << x;
#endif
    *words++ = word;
  }
}

// The first n bytes, n >= 1, of which eight at most count; the lowest first.
inline uint64_t load_bytes(const uint8_t* p, int64_t n) {
  const auto read = [p](auto value, int64_t at) {
    __builtin_memcpy(&value, p + at, sizeof value);
    return static_cast<uint64_t>(value);
  };
  if (n >= 8) return read(uint64_t{}, 0);
  if (n >= 4) return read(uint32_t{}, 0) | read(uint32_t{}, n - 4) << 8 * (n - 4);  // the same where both read
  if (n >= 2) return read(uint16_t{}, 0) | read(uint16_t{}, n - 2) << 8 * (n - 2);
  return *p;
}

// As many bytes of the word.
inline void store_bytes(uint8_t* p, uint64_t word, int64_t n) {
  const auto write = [p](auto value, int64_t at) { __builtin_memcpy(p + at, &value, sizeof value); };
  if (n >= 8) {
    write(word, 0);
  } else if (n >= 4) {
    write(static_cast<uint32_t>(word), 0);
    write(static_cast<uint32_t>(word >> 8 * (n - 4)), n - 4);
  } else if (n >= 2) {
    write(static_cast<uint16_t>(word), 0);
    write(static_cast<uint16_t>(word >> 8 * (n - 2)), n - 2);
  } else {
    *p = static_cast<uint8_t>(word);
  }
}

inline uint64_t columns_of_word(int64_t first, int64_t width) {
  return width - first < kColumnsAWord ? (uint64_t{1} << (width - first)) - 1 : ~uint64_t{0};
}

int64_t mark_plane(const float* plane, int64_t height, int64_t width, float level, bool inclusive, uint64_t* lit_words,
                   uint8_t* marks) {
  const auto is_lit_anywhere = inclusive ? any_lit<true> : any_lit<false>;
  const auto find = inclusive ? find_lit<true> : find_lit<false>;
  if (!is_lit_anywhere(plane, height * width, level)) return 0;
  const int64_t words = (width + kColumnsAWord - 1) / kColumnsAWord, bytes = bytes_of_row(width);
  for (int64_t y = 0; y < height; ++y) find(plane + y * width, width, level, lit_words + (y + 1) * words);
  int64_t count = 0;
  for (int64_t y = 0; y < height; ++y) {
    const uint64_t* above = lit_words + y * words;
    const auto near = [&](int64_t k) { return above[k] | above[words + k] | above[2 * words + k]; };
    uint64_t left = 0, here = near(0);
    for (int64_t k = 0; k < words; ++k) {
      const uint64_t right = k + 1 < words ? near(k + 1) : 0;
      const int64_t first = k * kColumnsAWord;
      const uint64_t marked = (here | here << 1 | here >> 1 | left >> 63 | right << 63) & columns_of_word(first, width);
      store_bytes(marks + y * bytes + first / 8, marked, bytes - first / 8);
      count += __builtin_popcountll(marked);
      left = here, here = right;
    }
  }
  return count;
}

// Calls move(cell, word, n) for every word of a plane's marks [h, bytes_of_row(w)] that is not 0: the place in the
// plane of its first column, and how many values were marked before it. False once there are more than `total`, and
// where there are fewer in the end.
template <typename F>
inline bool each_marked_word(const uint8_t* marks, int64_t height, int64_t width, int64_t total, const F& move) {
  const int64_t bytes = bytes_of_row(width);
  int64_t n = 0;
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t first = 0; first < width; first += kColumnsAWord) {
      const uint64_t word =
          load_bytes(marks + y * bytes + first / 8, bytes - first / 8) & columns_of_word(first, width);
      if (word == 0) continue;
      const int64_t here = __builtin_popcountll(word);
      if (n + here > total) return false;
      move(y * width + first, word, n);
      n += here;
    }
  }
  return n == total;
}

bool take_marked(const float* plane, const uint8_t* marks, int64_t height, int64_t width, int64_t n, float* values) {
  return each_marked_word(marks, height, width, n, [&](int64_t cell, uint64_t word, int64_t before) {
    float* to = values + before;
#if LANES == 16
    for (; word; word >>= LANES, cell += LANES) {
      const __mmask16 lanes = word & 0xffff;
      const int count = __builtin_popcount(lanes);
      const __m512 packed = _mm512_maskz_compress_ps(lanes, _mm512_maskz_loadu_ps(lanes, plane + cell));
      _mm512_mask_storeu_ps(to, (1u << count) - 1, packed);
      to += count;
    }
#else
    for (; word; word &= word - 1) *to++ = plane[cell + __builtin_ctzll(word)];
#endif
  });
}

bool put_marked(const float* values, const uint8_t* marks, int64_t height, int64_t width, int64_t n, float* plane) {
  return each_marked_word(marks, height, width, n, [&](int64_t cell, uint64_t word, int64_t before) {
    const float* from = values + before;
#if LANES == 16
    for (; word; word >>= LANES, cell += LANES) {
      const __mmask16 lanes = word & 0xffff;
      _mm512_mask_storeu_ps(plane + cell, lanes, _mm512_maskz_expandloadu_ps(lanes, from));
      from += __builtin_popcount(lanes);
    }
#else
    for (; word; word &= word - 1) plane[cell + __builtin_ctzll(word)] = *from++;
#endif
  });
}
