// The kernels of relevance.cpp: included in kernels.inl, once an instruction set.

// No branch and no aliasing: the compiler makes vectors of these loops.
template <typename Scalar>
void stabilized_ratio(const Scalar* const* in, RealOf<Scalar> epsilon, int64_t begin, int64_t end,
                      Scalar* __restrict out) {
  using Real = RealOf<Scalar>;
  const Scalar *relevance = in[0], *z = in[1];
  for (int64_t i = begin; i < end; ++i) {
    out[i] = static_cast<Scalar>(static_cast<Real>(relevance[i]) / stabilized(static_cast<Real>(z[i]), epsilon));
  }
}

template <typename Scalar>
void product_ratio(const Scalar* const* in, RealOf<Scalar> epsilon, int64_t begin, int64_t end,
                   Scalar* __restrict out) {
  using Real = RealOf<Scalar>;
  const Scalar *x = in[0], *grad = in[1], *z = in[2];
  for (int64_t i = begin; i < end; ++i) {
    const Real product = static_cast<Real>(x[i]) * static_cast<Real>(grad[i]);
    out[i] = static_cast<Scalar>(product / stabilized(static_cast<Real>(z[i]), epsilon));
  }
}

template <typename Scalar>
void relu_gate(const Scalar* const* in, RealOf<Scalar> epsilon, int64_t begin, int64_t end, Scalar* __restrict out) {
  using Real = RealOf<Scalar>;
  const Scalar *grad = in[0], *output = in[1];
  for (int64_t i = begin; i < end; ++i) {
    out[i] = static_cast<Scalar>(gated(static_cast<Real>(grad[i]), static_cast<Real>(output[i]), epsilon));
  }
}
