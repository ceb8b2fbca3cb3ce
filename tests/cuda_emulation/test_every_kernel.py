"""No kernel goes untested: each that csrc/cuda has is launched on the host runner."""

import re
from pathlib import Path

CUDA = Path(__file__).parents[2] / "csrc" / "cuda"
KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(")


def test_every_kernel_is_launched_on_emulated_threads():
    runner = Path(__file__).with_name("kernels.cpp").read_text()
    sources = {path: path.read_text() for path in CUDA.iterdir() if path.suffix in (".cu", ".cuh")}
    kernels = [name for source in sources.values() for name in KERNEL.findall(source)]
    assert len(kernels) == sum(source.count("__global__") for source in sources.values()) > 10
    assert [name for name in kernels if not re.search(rf"\b{name}[<(]", runner)] == []
