// Normal noise: included in kernels.inl, once an instruction set.

inline Floats square_roots(Floats v) {
#if LANES == 16
  return (Floats)_mm512_sqrt_ps((__m512)v);
#elif LANES == 8
  return (Floats)_mm256_sqrt_ps((__m256)v);
#elif defined(__SSE2__)
  return (Floats)_mm_sqrt_ps((__m128)v);
#else
  for (int lane = 0; lane < LANES; ++lane) v[lane] = square_root(v[lane]);
  return v;
#endif
}

// Plain loops over blocks, of which the compiler makes vectors; those past the end are computed and not stored.
void normal_noise(PhiloxKey key, uint32_t sample, uint32_t example, int64_t first_block, int64_t n, float* out) {
  float radius[2][kMaxLanes], x[2][kMaxLanes], y[2][kMaxLanes], values[kNoiseBlock * kMaxLanes];
  for (int64_t start = 0; start < n; start += kNoiseBlock * kMaxLanes) {
    const PhiloxWords first = philox_counter(first_block + start / kNoiseBlock, sample, example);
    for (uint32_t i = 0; i < kMaxLanes; ++i) {
      const PhiloxWords random = philox({{first.words[0] + i, first.words[1], first.words[2], first.words[3]}}, key);
      for (int pair = 0; pair < 2; ++pair) {
        radius[pair][i] = squared_radius(random.words[2 * pair]);
        const Direction to = direction(random.words[2 * pair + 1]);
        x[pair][i] = to.x;
        y[pair][i] = to.y;
      }
    }
    for (int pair = 0; pair < 2; ++pair) {
      for (int i = 0; i < kMaxLanes; i += LANES) store(radius[pair] + i, square_roots(load(radius[pair] + i)));
      for (int i = 0; i < kMaxLanes; ++i) {
        values[kNoiseBlock * i + 2 * pair] = radius[pair][i] * x[pair][i];
        values[kNoiseBlock * i + 2 * pair + 1] = radius[pair][i] * y[pair][i];
      }
    }
    const int64_t left = n - start, full = kNoiseBlock * kMaxLanes;
    __builtin_memcpy(out + start, values, sizeof(float) * (left < full ? left : full));
  }
}

template <typename Scalar>
void add_noise(const Scalar* inputs, const float* noise, RealOf<Scalar> sigma, int64_t n, Scalar* __restrict out) {
  using Real = RealOf<Scalar>;
  for (int64_t i = 0; i < n; ++i) {
    const Real scaled = sigma * static_cast<Real>(noise[i]);
    out[i] = static_cast<Scalar>(static_cast<Real>(inputs[i]) + scaled);
  }
}
