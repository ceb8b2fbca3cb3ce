// Room for points: so many that the system hands out most of their memory afresh, page by page, at a cost.
#pragma once

#if defined(__linux__)
#  include <sys/mman.h>
#endif

#include <cstdint>

#include "../stable/paths.h"

namespace netinterp_fast {

// As empty_points, in huge pages where the system has them for the asking.
inline Tensor fresh_points(const Tensor& inputs, const PointShape& shape) {
  Tensor points = empty_points(inputs, shape);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  constexpr uintptr_t kFewPages = 4;  // smaller ones are mostly memory that was in use before
  const uintptr_t data = reinterpret_cast<uintptr_t>(points.mutable_data_ptr());
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage;
  const uintptr_t end = (data + points.numel() * points.element_size()) / kPage * kPage;
  if (end >= begin + kFewPages * kPage) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
  return points;
}

}  // namespace netinterp_fast
