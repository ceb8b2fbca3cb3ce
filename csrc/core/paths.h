// Points on a path and what is summed along it, one number at a time. netinterp_fast/ops/paths.py is the same in torch.
#pragma once

#include <cmath>

#include "host_device.h"

namespace netinterp_fast {

template <bool Relu, typename Real>
NIF_HD Real path_point(Real baseline, Real difference, Real alpha) {
  const Real step = alpha * difference;
  const Real point = baseline + step;
  return Relu && point <= Real(0) ? Real(0) : point;
}

enum class PathValue { kSigned, kAbsolute, kSquare };  // VALUES of netinterp_fast/ops/paths.py

template <PathValue Value, typename Real>
NIF_HD Real path_value(Real grad) {
  if constexpr (Value == PathValue::kAbsolute) return std::fabs(grad);
  if constexpr (Value == PathValue::kSquare) return grad * grad;
  return grad;
}

}  // namespace netinterp_fast
