#include <algorithm>
#include <tuple>

#include "label_tables.h"
#include "planes.h"

namespace netinterp_fast {
namespace {

template <typename Scalar>
void tally_units(const Scalar* acts, const float* thresholds, bool inclusive, const std::vector<LabelOwner>& labels,
                 const AxisOwner& row_axis, const AxisOwner& column_axis, int64_t n_units, int64_t n_concepts,
                 int64_t* intersection, int64_t* unit_area) {
  const AxisTable rows = row_axis.table(), columns = column_axis.table();
  const int64_t n_images = labels.size(), cells = rows.cells * columns.cells;
  torch::stable::parallel_for(0, n_units, 1, [&](int64_t begin, int64_t end) {
    Planes<Scalar> planes(acts, cells);
    std::vector<uint8_t> above(cells + 16, 0);
    std::vector<uint8_t> lit(2 * padded_rows(row_axis.max_pixels));
    std::vector<int32_t> listed_counts(n_concepts + kMaxLanes, 0);
    for (int64_t image = 0; image < n_images; ++image) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t plane = image * n_units + unit;
        int64_t* counts = intersection + unit * n_concepts;
        unit_area[plane] =
            kernels().tally_plane(planes[plane], thresholds[unit], inclusive, rows, columns, labels[image].table(),
                                  above.data(), lit.data(), listed_counts.data(), counts);
        for (int64_t id : labels[image].covering) counts[id] += unit_area[plane];
      }
    }
  });
}

std::tuple<Tensor, Tensor> unit_concept_overlap(const Tensor& acts, const Tensor& thresholds, const Tensor& labels,
                                                const Tensor& image_labels, int64_t n_concepts, bool inclusive,
                                                double scale_y, double scale_x, double offset_y, double offset_x,
                                                Tensor intersection) {
  check_tensor(acts, "acts", 4, acts);
  check_tensor(thresholds, "thresholds", 1, acts, ScalarType::Float);
  check_tensor(labels, "labels", 4, acts);
  check_tensor(image_labels, "image_labels", 2, acts, ScalarType::Long);
  check_tensor(intersection, "intersection", 2, acts, ScalarType::Long);
  const int64_t n_images = acts.size(0), n_units = acts.size(1);
  STD_TORCH_CHECK(thresholds.size(0) == n_units && intersection.size(0) == n_units &&
                      intersection.size(1) == n_concepts && labels.size(0) == n_images &&
                      image_labels.size(0) == n_images && n_concepts > 0 && acts.size(2) > 0 && acts.size(3) > 0 &&
                      labels.size(2) <= kMaxPixels && labels.size(3) <= kMaxPixels,
                  "unit_concept_overlap: shapes do not match");
  check_placement(scale_y, scale_x, offset_y, offset_x);

  const int64_t strip = n_concepts <= kMaxNarrowConcepts ? kPixelsAWord<uint16_t> : kPixelsAWord<uint32_t>;
  const AxisOwner rows({acts.size(2), labels.size(2), scale_y, offset_y}, strip);
  const AxisOwner columns({acts.size(3), labels.size(3), scale_x, offset_x}, strip);
  FirstBad bad;
  const std::vector<LabelOwner> tables = read_labels(labels, image_labels, n_concepts, rows, columns, bad);
  Tensor unit_area = torch::stable::new_zeros(acts, {n_images, n_units}, ScalarType::Long);
  if (!bad.none()) return {unit_area, bad.tensor(acts)};
  int64_t* counts = intersection.mutable_data_ptr<int64_t>();
  if (n_images > 0) {
    dispatch_floating(acts, "acts", [&](auto* tag) {
      using Scalar = ScalarOf<decltype(tag)>;
      tally_units(static_cast<const Scalar*>(acts.const_data_ptr()), thresholds.const_data_ptr<float>(), inclusive,
                  tables, rows, columns, n_units, n_concepts, counts, unit_area.mutable_data_ptr<int64_t>());
    });
  }
  for (int64_t unit = 0; unit < n_units; ++unit) counts[unit * n_concepts] = 0;
  return {unit_area, bad.tensor(acts)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CPU, m) { m.impl("unit_concept_overlap", TORCH_BOX(&unit_concept_overlap)); }

}  // namespace netinterp_fast
