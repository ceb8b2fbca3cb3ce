// The Python module _C: what was built and which instruction set is in use. Tensors go through the registered ops.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "cpu/kernels.h"
#include "cpu/levels.h"

PYBIND11_MODULE(_C, module) {
  using namespace netinterp_fast;
  module.def("build_info", [] { return std::string("g++ " __VERSION__ ", stable ABI of torch ") + NIF_TORCH_TARGET; });
  module.def("cpu_level", [] { return std::string(kernels().level); });
  module.def("cpu_levels", [] {
    std::vector<std::string> names;
    for (const char* name : cpu_levels()) names.emplace_back(name);
    return names;
  });
  module.def("set_cpu_level", [](const std::string& name) {
    if (!set_cpu_level(name.c_str())) throw std::invalid_argument("this machine has no CPU level " + name);
  });
}
