// Compiles the kernels for each instruction set and chooses one for this machine.
#include "kernels.h"

#include <cstring>
#include <vector>

#include "../core/bilinear.h"
#include "../core/cells.h"
#include "levels.h"

#if defined(__x86_64__)
#  include <immintrin.h>
#endif

namespace netinterp_fast {

namespace baseline {
#define LANES 4
#define LEVEL_NAME "default"
#include "kernels.inl"
#undef LANES
#undef LEVEL_NAME
}  // namespace baseline

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#  define NIF_X86_LEVELS 1

// For each set of lanes of an eight-lane vector, its members in order: AVX2 has no instruction that packs them.
struct LanesInOrder {
  constexpr LanesInOrder() : of() {
    for (int set = 0; set < 256; ++set) {
      for (int lane = 0, n = 0; lane < 8; ++lane) {
        if (set >> lane & 1) of[set][n++] = lane;
      }
    }
  }
  int32_t of[256][8];
};
constexpr LanesInOrder kLanesInOrder;

#  pragma GCC push_options
#  pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt")
namespace avx2 {
#  define LANES 8
#  define LEVEL_NAME "avx2"
#  include "kernels.inl"
#  undef LANES
#  undef LEVEL_NAME
}  // namespace avx2
#  pragma GCC pop_options

#  pragma GCC push_options
#  pragma GCC target("avx512f,avx512bw,avx512cd,avx512vl,avx512dq,bmi,bmi2,lzcnt,popcnt")
namespace avx512 {
#  define LANES 16
#  define LEVEL_NAME "avx512"
#  include "kernels.inl"
#  undef LANES
#  undef LEVEL_NAME
}  // namespace avx512
#  pragma GCC pop_options
#endif

namespace {

// The levels that this machine can run, slowest first.
std::vector<const Kernels*> available_levels() {
  std::vector<const Kernels*> levels{&baseline::table};
#ifdef NIF_X86_LEVELS
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  if (has_avx2) levels.push_back(&avx2::table);
  if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    levels.push_back(&avx512::table);
  }
#endif
  return levels;
}

const Kernels* find_level(const char* name) {
  for (const Kernels* level : available_levels()) {
    if (std::strcmp(level->level, name) == 0) return level;
  }
  return nullptr;
}

const Kernels*& current() {
  static const Kernels* level = available_levels().back();
  return level;
}

}  // namespace

const Kernels& kernels() { return *current(); }

std::vector<const char*> cpu_levels() {
  std::vector<const char*> names;
  for (const Kernels* level : available_levels()) names.push_back(level->level);
  return names;
}

bool set_cpu_level(const char* name) {
  const Kernels* level = find_level(name);
  if (level) current() = level;
  return level != nullptr;
}

}  // namespace netinterp_fast
