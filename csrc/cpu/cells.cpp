// The ops of netinterp_fast/ops/cells.py.
#include "../stable/cells.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <tuple>

#include "kernels.h"
#include "planes.h"

namespace netinterp_fast {
namespace {

constexpr int64_t kPlanesAtOnce = 64;

template <typename Scalar>
void mark_planes(const Scalar* acts, const float* levels, bool inclusive, int64_t n_planes, int64_t n_units,
                 int64_t height, int64_t width, uint8_t* bits, int32_t* counts) {
  const int64_t cells = height * width, row_bytes = height * bytes_of_row(width);
  torch::stable::parallel_for(0, n_planes, 1 + 32768 / cells, [&](int64_t begin, int64_t end) {
    Planes<Scalar> planes(acts, cells);
    std::vector<uint64_t> lit((height + 2) * ((width + 63) / 64), 0);
    for (int64_t i = begin; i < end; ++i) {
      counts[i] = static_cast<int32_t>(kernels().mark_plane(planes[i], height, width, levels[i % n_units], inclusive,
                                                            lit.data(), bits + i * row_bytes));
    }
  });
}

std::tuple<Tensor, Tensor> mark_cells(const Tensor& acts, const Tensor& levels, bool inclusive) {
  check_mark_cells(acts, levels);
  const int64_t n_images = acts.size(0), n_units = acts.size(1), height = acts.size(2), width = acts.size(3);
  Tensor bits = torch::stable::new_zeros(acts, {n_images, n_units, height, bytes_of_row(width)}, ScalarType::Byte);
  Tensor counts = torch::stable::new_empty(acts, {n_images, n_units}, ScalarType::Int);
  dispatch_floating(acts, "acts", [&](auto* tag) {
    using Scalar = ScalarOf<decltype(tag)>;
    mark_planes(static_cast<const Scalar*>(acts.const_data_ptr()), levels.const_data_ptr<float>(), inclusive,
                n_images * n_units, n_units, height, width, bits.mutable_data_ptr<uint8_t>(),
                counts.mutable_data_ptr<int32_t>());
  });
  return {bits, counts};
}

// The marked values of P of the planes, as the ops receive them.
struct Marks {
  Marks(const Tensor& planes, const Tensor& bits, const Tensor& starts, const Tensor& like, int64_t width,
        int64_t n_values)
      : n_planes(planes.size(0)), height(bits.size(1)), width(width), bytes(bytes_of_row(width)), n_values(n_values) {
    check_marks(planes, bits, starts, like, width, n_values);
    plane = planes.const_data_ptr<int64_t>();
    start = starts.const_data_ptr<int64_t>();
    marked = bits.const_data_ptr<uint8_t>();
  }

  void check_planes(int64_t n) const {
    for (int64_t p = 0; p < n_planes; ++p) {
      STD_TORCH_CHECK(plane[p] > (p ? plane[p - 1] : -1) && plane[p] < n, "planes must be ascending numbers of planes");
    }
  }

  // Calls move(marks, n, first) with the marks of the p-th plane, how many values it has and the number of its first;
  // false where that is outside the values, and where move returns it.
  template <typename F>
  bool with(int64_t p, const F& move) const {
    const int64_t first = start[p], end = p + 1 < n_planes ? start[p + 1] : n_values;
    if (first < 0 || (p == 0 && first != 0) || end < first || end > n_values) return false;
    return move(marked + p * height * bytes, end - first, first);
  }

  int64_t n_planes, height, width, bytes, n_values;
  const int64_t *plane, *start;
  const uint8_t* marked;
};

constexpr const char* kMismatch = "starts and the number of values do not match bits";

Tensor take_cells(const Tensor& acts, const Tensor& planes, const Tensor& bits, const Tensor& starts,
                  int64_t n_values) {
  check_tensor(acts, "acts", 4, acts);
  const Marks marks(planes, bits, starts, acts, acts.size(3), n_values);
  marks.check_planes(acts.size(0) * acts.size(1));
  STD_TORCH_CHECK(marks.height == acts.size(2), "bits must have the rows of acts");
  Tensor values = torch::stable::new_empty(acts, {n_values}, ScalarType::Float);
  float* to = values.mutable_data_ptr<float>();
  std::atomic<bool> fits{marks.n_planes > 0 || n_values == 0};
  dispatch_floating(acts, "acts", [&](auto* tag) {
    using Scalar = ScalarOf<decltype(tag)>;
    torch::stable::parallel_for(0, marks.n_planes, kPlanesAtOnce, [&](int64_t begin, int64_t end) {
      Planes<Scalar> from(static_cast<const Scalar*>(acts.const_data_ptr()), marks.height * marks.width);
      for (int64_t p = begin; p < end; ++p) {
        const float* plane = from[marks.plane[p]];
        const auto take = [&](const uint8_t* bits_of_plane, int64_t n, int64_t first) {
          return kernels().take_marked(plane, bits_of_plane, marks.height, marks.width, n, to + first);
        };
        if (!marks.with(p, take)) fits = false;
      }
    });
  });
  STD_TORCH_CHECK(fits, kMismatch);
  return values;
}

Tensor put_cells(const Tensor& values, const Tensor& planes, const Tensor& bits, const Tensor& starts, int64_t n_images,
                 int64_t n_units, int64_t width) {
  check_tensor(values, "values", 1, values, ScalarType::Float);
  const Marks marks(planes, bits, starts, values, width, values.size(0));
  Tensor acts = empty_maps(values, bits, n_images, n_units, width);
  const int64_t cells = marks.height * width, n_planes = n_images * n_units;
  marks.check_planes(n_planes);
  const float* from = values.const_data_ptr<float>();
  float* to = acts.mutable_data_ptr<float>();
  std::atomic<bool> fits{marks.n_planes > 0 || marks.n_values == 0};
  torch::stable::parallel_for(0, n_planes, 1 + 32768 / cells, [&](int64_t begin, int64_t end) {
    std::fill(to + begin * cells, to + end * cells, -std::numeric_limits<float>::infinity());
    int64_t p = std::lower_bound(marks.plane, marks.plane + marks.n_planes, begin) - marks.plane;
    for (; p < marks.n_planes && marks.plane[p] < end; ++p) {
      float* plane = to + marks.plane[p] * cells;
      const auto put = [&](const uint8_t* bits_of_plane, int64_t n, int64_t first) {
        return kernels().put_marked(from + first, bits_of_plane, marks.height, width, n, plane);
      };
      if (!marks.with(p, put)) fits = false;
    }
  });
  STD_TORCH_CHECK(fits, kMismatch);
  return acts;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CPU, m) {
  m.impl("mark_cells", TORCH_BOX(&mark_cells));
  m.impl("take_cells", TORCH_BOX(&take_cells));
  m.impl("put_cells", TORCH_BOX(&put_cells));
}

}  // namespace netinterp_fast
