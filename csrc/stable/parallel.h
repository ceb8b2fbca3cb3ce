// Work shared out over torch's threads as they become free: a fixed split would wait for the slowest.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace netinterp_fast {

// Runs work(next) on each thread at once; next() gives each number of [0, n) to one of them, then n or more.
template <typename F>
void share_out(int64_t n, const F& work) {
  const int64_t workers = std::min<int64_t>(n, torch::stable::get_num_threads());
  std::atomic<int64_t> taken{0};
  const auto next = [&taken] { return taken.fetch_add(1, std::memory_order_relaxed); };
  torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) { work(next); });
}

}  // namespace netinterp_fast
