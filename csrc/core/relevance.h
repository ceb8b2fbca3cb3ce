// The denominators of layer-wise relevance propagation, one number at a time. netinterp_fast/ops/relevance.py is the
// same in torch.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "host_device.h"

namespace netinterp_fast {

// What values of T are computed in, and rounded from once.
template <typename T>
using RealOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// z + epsilon * sign(z) with sign(0) = 1. One addition for both signs: a loop over it needs no branch.
template <typename Real>
NIF_HD Real stabilized(Real z, Real epsilon) {
  return z + (z < Real(0) ? -epsilon : epsilon);
}

// What a ReLU passes on of grad, as a ratio of its output: 0 where output <= 0, NaN where it is NaN. The 0 is made by
// clearing the bits of a quotient that is computed everywhere: compilers make branches of a plain choice.
template <typename Real>
NIF_HD Real gated(Real grad, Real output, Real epsilon) {
  using Bits = std::conditional_t<sizeof(Real) == 8, uint64_t, uint32_t>;
  Real passed = (grad * output) / (output + epsilon);
  Bits bits;
  memcpy(&bits, &passed, sizeof bits);
  bits &= Bits{0} - Bits{!(output <= Real(0))};
  memcpy(&passed, &bits, sizeof bits);
  return passed;
}

}  // namespace netinterp_fast
