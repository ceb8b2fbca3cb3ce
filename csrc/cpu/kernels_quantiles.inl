// Streaming quantiles: included in kernels.inl, once an instruction set.

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
