"""Loads the two native objects and owns the `torch.library` namespace and what is known about the build.

`_C` holds the CPU kernels and a small pybind11 module, `_C_cuda` the CUDA kernels. Both register against LibTorch's
stable ABI and either may be missing: every op then runs on its pure-torch reference.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

NAMESPACE = "netinterp_fast"
_library = torch.library.Library(NAMESPACE, "DEF")
_references: dict[str, Callable] = {}
_cpu_module = None
_missing: dict[str, str] = {}


def define_op(schema: str, reference: Callable, fake: Callable) -> str:
    """Define an op by its schema, with the pure-torch reference as kernel of last resort and a fake for tracing.

    Returns the op's name. Native kernels register themselves from C++ under the same name and take precedence.
    """
    name = schema.split("(", 1)[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    _references[name] = reference
    return name


def _load_native() -> None:
    global _cpu_module
    try:
        _cpu_module = importlib.import_module("netinterp_fast._C")
    except ImportError as error:
        _missing["cpu"] = _why_missing("_C", error)
        warnings.warn(
            f"netinterp_fast runs without its native kernels ({_missing['cpu']}); results are the same, slower. "
            "`netinterp-fast doctor` says how to get them.",
            stacklevel=3,
        )
    wanted = os.environ.get("NETINTERP_FAST_CPU")
    if wanted and _cpu_module:
        set_cpu_level(wanted, origin="NETINTERP_FAST_CPU")
    if torch.version.cuda is None:
        _missing["cuda"] = "this torch has no CUDA"
        return
    spec = importlib.util.find_spec("netinterp_fast._C_cuda")
    if spec is None:
        _missing["cuda"] = "the package was built without CUDA kernels"
        return
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        _missing["cuda"] = f"_C_cuda does not load: {error}"


def _why_missing(name: str, error: ImportError) -> str:
    if importlib.util.find_spec(f"netinterp_fast.{name}") is None:
        return f"{name} was not built: no C++ compiler was used when the package was installed"
    return f"{name} does not load: {error}"


def reference(op: str) -> Callable:
    """The pure-torch implementation of an op; ValueError for a name that is none."""
    if op not in _references:
        raise ValueError(f"op is {op!r}; the ops are {', '.join(sorted(_references))}")
    return _references[op]


def native_kernel(op: str, device: torch.device) -> bool:
    """Whether a native kernel of `op` is registered for `device`."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device.type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", key)


def why_missing(device_type: str) -> str:
    """Why there are no native kernels for a device type."""
    return _missing.get(device_type, f"there are no native kernels for {device_type} devices")


def cpu_level() -> str | None:
    """The instruction set that the CPU kernels use now: "default", "avx2", "avx512", or None without native kernels."""
    return _cpu_module.cpu_level() if _cpu_module else None


def set_cpu_level(level: str, origin: str = "CPU level") -> None:
    """Choose the CPU kernels' instruction set, one of `cpu_levels()`; NETINTERP_FAST_CPU does the same at import."""
    if level not in cpu_levels():
        raise ValueError(f"{origin} is {level!r}; this machine and build offer {', '.join(cpu_levels()) or 'none'}")
    _cpu_module.set_cpu_level(level)


def cpu_levels() -> list[str]:
    """The instruction sets that this build has and this machine can run."""
    return list(_cpu_module.cpu_levels()) if _cpu_module else []


def build_info() -> dict:
    """How the package was built and what it uses, as plain values: `netinterp-fast doctor` says the same in words."""
    from . import __version__

    kernels = {"native_cpu": "cpu" not in _missing, "native_cuda": "cuda" not in _missing}
    return {
        "version": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        **kernels,
        "missing": dict(_missing),
        "compiler": _cpu_module.build_info() if _cpu_module else None,
        "cpu_level": cpu_level(),
        "cpu_levels": cpu_levels(),
        "ops": sorted(_references),
        "location": str(Path(__file__).parent),
    }


_load_native()
