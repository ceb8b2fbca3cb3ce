// Points on paths and sums along them: included in kernels.inl, once an instruction set.

// The values as they are computed with: themselves, or moved to `room`.
template <typename Scalar>
inline const RealOf<Scalar>* widened(const Scalar* values, int64_t n, RealOf<Scalar>* room) {
  if constexpr (std::is_same_v<Scalar, RealOf<Scalar>>) {
    return values;
  } else {
    for (int64_t i = 0; i < n; ++i) room[i] = static_cast<RealOf<Scalar>>(values[i]);
    return room;
  }
}

// Writes past the caches: what is written is more than they hold, and lines need not be read before.
inline void stream(float* to, Floats v) {
#if LANES == 16
  _mm512_stream_ps(to, (__m512)v);
#elif LANES == 8
  _mm256_stream_ps(to, (__m256)v);
#elif defined(__SSE2__)
  _mm_stream_ps(to, (__m128)v);
#else
  store(to, v);
#endif
}

// `Count` steps from `first` on: inputs and baseline are read once for several rows.
template <int Count, bool Relu, typename Scalar>
inline void write_rows(const RealOf<Scalar>* x, const RealOf<Scalar>* base, const PathSteps<RealOf<Scalar>>& alphas,
                       int64_t first, int64_t n, Scalar* out) {
  using Real = RealOf<Scalar>;
  Real alpha[Count];
  Scalar* rows[Count];
  for (int step = 0; step < Count; ++step) {
    alpha[step] = alphas.numbers[(first + step) * alphas.number_stride];
    rows[step] = out + (first + step) * alphas.row_stride;
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const Real difference = x[i] - base[i];
#pragma GCC unroll 8
    for (int step = 0; step < Count; ++step) {
      rows[step][i] = static_cast<Scalar>(path_point<Relu>(base[i], difference, alpha[step]));
    }
  }
}

template <int Count, bool Relu>
inline void stream_rows(const float* x, const float* base, const PathSteps<float>& alphas, int64_t first, int64_t n,
                        float* out) {
  for (int64_t i = 0; i + LANES <= n; i += LANES) {
    const Floats from = load(base + i), difference = load(x + i) - from;
#pragma GCC unroll 8
    for (int step = 0; step < Count; ++step) {
      const Floats point = from + alphas.numbers[(first + step) * alphas.number_stride] * difference;
      const Floats kept = Relu ? (point <= 0 ? Floats{} : point) : point;
      stream(out + (first + step) * alphas.row_stride + i, kept);
    }
  }
}

template <bool Relu, bool Streamed, typename Scalar>
void write_points(const Scalar* inputs, const Scalar* baseline, const PathSteps<RealOf<Scalar>>& alphas, int64_t n,
                  Scalar* out) {
  RealOf<Scalar> room[2][kPointRun];
  const RealOf<Scalar>*x = widened(inputs, n, room[0]), *base = widened(baseline, n, room[1]);
  const auto write = [&](auto count, int64_t step) {
    if constexpr (Streamed) {
      stream_rows<count, Relu>(x, base, alphas, step, n, out);
    } else {
      write_rows<count, Relu>(x, base, alphas, step, n, out);
    }
  };
  int64_t step = 0;
  for (; step + 8 <= alphas.steps; step += 8) write(std::integral_constant<int, 8>{}, step);
  for (; step + 2 <= alphas.steps; step += 2) write(std::integral_constant<int, 2>{}, step);
  for (; step < alphas.steps; ++step) write(std::integral_constant<int, 1>{}, step);
#if defined(__SSE2__)
  if constexpr (Streamed) _mm_sfence();  // whoever reads the points next may be another thread
#endif
}

template <typename Scalar>
void path_points(const Scalar* inputs, const Scalar* baseline, const PathSteps<RealOf<Scalar>>& alphas, bool relu,
                 bool streamed, int64_t n, Scalar* out) {
  if constexpr (std::is_same_v<Scalar, float>) {
    if (streamed) {
      return relu ? write_points<true, true>(inputs, baseline, alphas, n, out)
                  : write_points<false, true>(inputs, baseline, alphas, n, out);
    }
  }
  return relu ? write_points<true, false>(inputs, baseline, alphas, n, out)
              : write_points<false, false>(inputs, baseline, alphas, n, out);
}

// Adds `Count` steps from `first` on, one after another in each element.
template <int Count, PathValue Value, bool Gated, typename Scalar>
inline void add_few_steps(const Scalar* grads, const Scalar* gate, const PathSteps<RealOf<Scalar>>& weights,
                          int64_t first, int64_t n, RealOf<Scalar>* __restrict out) {
  using Real = RealOf<Scalar>;
  const auto start = [&](int step) { return (first + step) * weights.row_stride; };
  Real weight[Count];
  for (int step = 0; step < Count; ++step) weight[step] = weights.numbers[(first + step) * weights.number_stride];
  for (int64_t i = 0; i < n; ++i) {
    Real sum = out[i];
#pragma GCC unroll 4
    for (int step = 0; step < Count; ++step) {
      const Real grad = static_cast<Real>(grads[start(step) + i]);
      const Real passed = Gated && static_cast<Real>(gate[start(step) + i]) <= Real(0) ? Real(0) : grad;
      const Real product = weight[step] * path_value<Value>(passed);
      sum = sum + product;
    }
    out[i] = sum;
  }
}

// Four rows at a time are fetched sooner than one; out stays in the cache from step to step.
template <PathValue Value, bool Gated, typename Scalar>
void add_steps(const Scalar* grads, const Scalar* gate, const PathSteps<RealOf<Scalar>>& weights, int64_t n,
               RealOf<Scalar>* out) {
  int64_t step = 0;
  for (; step + 4 <= weights.steps; step += 4) add_few_steps<4, Value, Gated>(grads, gate, weights, step, n, out);
  for (; step < weights.steps; ++step) add_few_steps<1, Value, Gated>(grads, gate, weights, step, n, out);
}

template <typename Scalar>
void path_accumulate(const Scalar* grads, const Scalar* gate, const PathSteps<RealOf<Scalar>>& weights, PathValue value,
                     int64_t n, RealOf<Scalar>* out) {
  const auto add = [&](auto gated) {
    constexpr bool kGated = decltype(gated)::value;
    switch (value) {
      case PathValue::kSigned: return add_steps<PathValue::kSigned, kGated>(grads, gate, weights, n, out);
      case PathValue::kAbsolute: return add_steps<PathValue::kAbsolute, kGated>(grads, gate, weights, n, out);
      case PathValue::kSquare: return add_steps<PathValue::kSquare, kGated>(grads, gate, weights, n, out);
    }
  };
  gate ? add(std::true_type{}) : add(std::false_type{});
}
