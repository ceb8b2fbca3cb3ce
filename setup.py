"""Builds the two native objects; everything else about the package is in pyproject.toml.

FORCE_CUDA             1: build the CUDA kernels or fail; 0: never; unset: when torch has CUDA and a toolkit is found
NETINTERP_FAST_NATIVE  1: fail without a C++ compiler; 0: build nothing native; auto (default): build what can be built
TORCH_CUDA_ARCH_LIST, MAX_JOBS, CXX  as usual for torch extensions
"""

import os
import shutil
import sys
from pathlib import Path

import torch
from pybind11 import get_include
from setuptools import setup
from torch.utils import cpp_extension

TORCH_TARGET = "0x020b000000000000"  # 2.11, the oldest torch that the stable ABI build serves
CSRC = Path("csrc")
CXX_FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off", "-Wno-psabi"]
NVCC_FLAGS = ["-std=c++17", "-O3", "--fmad=false", "-DUSE_CUDA", "-Xcompiler=-fPIC,-fvisibility=hidden"]
DEFINES = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]


def choice(name: str, allowed: tuple[str, ...]) -> str:
    value = os.environ.get(name, "auto")
    if value not in allowed:
        sys.exit(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
    return value


def cpu_extension():
    extension = cpp_extension.CppExtension(
        "netinterp_fast._C",
        ["csrc/module.cpp", *map(str, sorted(CSRC.glob("cpu/*.cpp")))],
        include_dirs=[get_include()],
        extra_compile_args={"cxx": [*CXX_FLAGS, *DEFINES, '-DNIF_TORCH_TARGET="2.11"']},
    )
    extension.libraries = ["torch_cpu", "c10"]  # not torch_python: its ABI changes with every release
    return extension


def cuda_extension():
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0;10.0+PTX")
    extension = cpp_extension.CUDAExtension(
        "netinterp_fast._C_cuda",
        list(map(str, sorted(CSRC.glob("cuda/*.cu")))),
        extra_compile_args={"cxx": [*CXX_FLAGS, *DEFINES], "nvcc": [*NVCC_FLAGS, *DEFINES]},
    )
    extension.libraries = ["torch_cpu", "torch_cuda", "c10", "cudart_static", "dl", "pthread", "rt"]
    return extension


def wants_cuda() -> bool:
    force = choice("FORCE_CUDA", ("0", "1", "auto"))
    available = torch.version.cuda is not None and cpp_extension.CUDA_HOME is not None
    if force == "1" and not available:
        sys.exit(f"FORCE_CUDA=1, but torch has CUDA {torch.version.cuda} and the toolkit is {cpp_extension.CUDA_HOME}")
    return available and force != "0"


def extensions() -> list:
    native = choice("NETINTERP_FAST_NATIVE", ("0", "1", "auto"))
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if native == "0":
        return []
    if compiler is None:
        if native == "1":
            sys.exit("NETINTERP_FAST_NATIVE=1, but no C++ compiler was found (CXX, c++ or g++)")
        print("netinterp_fast: no C++ compiler found; installing the pure-torch reference only", file=sys.stderr)
        return []
    return [cpu_extension(), *([cuda_extension()] if wants_cuda() else [])]


setup(ext_modules=extensions(), cmdclass={"build_ext": cpp_extension.BuildExtension})
