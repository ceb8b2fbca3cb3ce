#include <algorithm>
#include <tuple>

#include "label_rows.h"

namespace netinterp_fast {
namespace {

std::tuple<Tensor, Tensor> concept_area(const Tensor& labels, const Tensor& image_labels, int64_t n_concepts) {
  check_tensor(labels, "labels", 4, labels);
  check_tensor(image_labels, "image_labels", 2, labels, ScalarType::Long);
  const int64_t n_images = labels.size(0), layers = labels.size(1), height = labels.size(2), width = labels.size(3);
  STD_TORCH_CHECK(image_labels.size(0) == n_images && n_concepts > 0 && height > 0 && width > 0 &&
                      height <= kMaxPixels && width <= kMaxPixels,
                  "concept_area: shapes do not match");

  Tensor areas = torch::stable::new_zeros(labels, {n_images, n_concepts}, ScalarType::Long);
  const auto add_image = [&](int64_t image, const std::vector<int64_t>& covering, auto& reader) {
    using Id = typename std::remove_reference_t<decltype(reader)>::Id;
    int64_t* area = areas.mutable_data_ptr<int64_t>() + image * n_concepts;
    std::vector<int16_t> end(width);
    std::vector<int32_t> id(width);
    for (int64_t y = 0; y < height; ++y) {
      if (!reader.read(y, y + 1)) return false;
      for (int64_t layer = 0; layer < layers; ++layer) {
        auto* row = reader.rows(layer);
        row[width] = static_cast<Id>(row[width - 1] + 1);  // ends the last run
        const int64_t runs = label_kernels<Id>().find_runs(row, width, end.data(), id.data());
        row[width] = 0;
        for (int64_t run = 0; run < runs; ++run) area[id[run]] += end[run] - (run ? end[run - 1] : 0);
      }
    }
    for (int64_t concept_id : covering) area[concept_id] = height * width;
    area[0] = 0;
    return true;
  };
  const FirstBad bad = for_each_image(labels, image_labels, n_concepts, 1, add_image);
  if (!bad.none()) std::fill_n(areas.mutable_data_ptr<int64_t>(), n_images * n_concepts, 0);
  return {areas, bad.tensor(labels)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(netinterp_fast, CPU, m) { m.impl("concept_area", TORCH_BOX(&concept_area)); }

}  // namespace netinterp_fast
