// The choice of instruction set, for the Python module.
#pragma once

#include <vector>

namespace netinterp_fast {

std::vector<const char*> cpu_levels();  // what this machine can run, slowest first
bool set_cpu_level(const char* name);   // false if it is not among them

}  // namespace netinterp_fast
