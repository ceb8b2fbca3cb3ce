// How the marked values of a map are numbered: a bit a column, bytes of a row from the left, the lowest bit first.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace netinterp_fast {

constexpr int64_t kColumnsAByte = 8;

NIF_HD int64_t bytes_of_row(int64_t width) { return (width + kColumnsAByte - 1) / kColumnsAByte; }

// The bits of a row's byte that belong to columns of the map.
NIF_HD uint32_t columns_of_byte(int64_t byte, int64_t width) {
  const int64_t columns = width - byte * kColumnsAByte;
  return columns < kColumnsAByte ? (1u << columns) - 1 : 0xffu;
}

}  // namespace netinterp_fast
