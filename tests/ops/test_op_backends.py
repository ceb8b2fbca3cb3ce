"""Which implementation runs, how it is chosen, and what is said where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import netinterp_fast
from netinterp_fast import _library
from netinterp_fast.backends import current_backend, use_backend, why_not
from netinterp_fast.ops import concept_area

OPS = [
    "concept_area",
    "mark_cells",
    "noise_points",
    "path_accumulate",
    "path_points",
    "product_ratio",
    "put_cells",
    "relu_gate",
    "stabilized_ratio",
    "take_cells",
    "top_quantile_update",
    "unit_concept_overlap",
]
native = pytest.mark.skipif(not _library.cpu_levels(), reason="there are no native kernels")


def area():
    return concept_area(torch.tensor([[[[1, 2]]]]), 3).tolist()


@pytest.fixture
def no_native_kernels(monkeypatch):
    monkeypatch.setattr(_library, "native_kernel", lambda op, device: False)
    monkeypatch.setitem(_library._missing, "cpu", "_C was not built")


def test_use_backend_holds_inside_the_block_only():
    before = current_backend()
    with use_backend("reference"):
        with use_backend("native"):
            assert current_backend() == "native"
        assert current_backend() == "reference"
    assert current_backend() == before
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert current_backend() == before


@pytest.mark.parametrize("value", ["cuda", "", "Native", None])
def test_use_backend_refuses_other_names(value):
    with pytest.raises(ValueError, match=rf"backend is {value!r}; it must be one of auto, native, reference"):
        use_backend(value).__enter__()


@pytest.mark.parametrize(("backend", "calls"), [("reference", 1), pytest.param("native", 0, marks=native)])
def test_the_backend_decides_what_runs(monkeypatch, backend, calls):
    reference, seen = _library.reference("concept_area"), []
    monkeypatch.setitem(_library._references, "concept_area", lambda *args: seen.append(args) or reference(*args))
    with use_backend(backend):
        assert area() == [[0, 1, 1]]
    assert len(seen) == calls


def test_native_says_why_it_cannot(no_native_kernels):
    with (
        use_backend("native"),
        pytest.raises(RuntimeError, match=r"^no native kernel of concept_area for cpu: _C was not built$"),
    ):
        area()


def test_why_not(no_native_kernels):
    assert why_not("concept_area") == "_C was not built"
    assert why_not("concept_area", "mps") == "there are no native kernels for mps devices"
    with use_backend("reference"):
        assert why_not("concept_area") == "the backend is set to 'reference'"


@native
@pytest.mark.parametrize("op", OPS)
def test_why_not_is_none_where_the_native_kernel_serves(op):
    with use_backend("auto"):
        assert why_not(op) is None
        assert why_not(op, torch.device("cpu")) is None


def test_why_not_refuses_other_names():
    with pytest.raises(ValueError, match="op is 'overlap'; the ops are concept_area, mark_cells, noise_points, path"):
        why_not("overlap")


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch has CUDA")
def test_why_not_for_cuda_without_cuda():
    with use_backend("auto"):
        assert why_not("concept_area", "cuda") == "this torch has no CUDA"


def test_build_info():
    info = netinterp_fast.build_info()
    assert info["ops"] == OPS
    assert info["version"] == netinterp_fast.__version__
    assert info["torch"] == torch.__version__
    assert info["cpu_levels"] == _library.cpu_levels()
    assert info["cpu_level"] in [*info["cpu_levels"], None]
    assert info["native_cpu"] == bool(info["cpu_levels"])
    assert ("cuda" in info["missing"]) == (not info["native_cuda"])


@native
def test_cpu_levels_can_be_set():
    before = _library.cpu_level()
    try:
        for level in _library.cpu_levels():
            _library.set_cpu_level(level)
            assert _library.cpu_level() == level
    finally:
        _library.set_cpu_level(before)
    with pytest.raises(ValueError, match="CPU level is 'sse9'; this machine and build offer default"):
        _library.set_cpu_level("sse9")
    assert _library.cpu_level() == before


def python(script, *arguments, **environment):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | environment
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("variable", "value", "script", "printed"),
    [
        ("NETINTERP_FAST_BACKEND", "reference", "n.backends.current_backend()", "reference"),
        ("NETINTERP_FAST_BACKEND", "auto", "n.backends.current_backend()", "auto"),
        pytest.param("NETINTERP_FAST_CPU", "default", "n.build_info()['cpu_level']", "default", marks=native),
    ],
)
def test_environment_variables(variable, value, script, printed):
    done = python(f"import netinterp_fast as n; print({script})", **{variable: value})
    assert (done.stdout.strip(), done.returncode) == (printed, 0)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("NETINTERP_FAST_BACKEND", "gpu", "ValueError: NETINTERP_FAST_BACKEND is 'gpu'; it must be one of"),
        pytest.param("NETINTERP_FAST_CPU", "sse9", "ValueError: NETINTERP_FAST_CPU is 'sse9'; this machine",
                     marks=native),
    ],
)  # fmt: skip
def test_environment_variables_with_wrong_values(variable, value, message):
    done = python("import netinterp_fast", **{variable: value})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message)


def test_without_the_native_object_one_warning_and_the_same_results(tmp_path):
    """The Python files alone, as on a machine without a compiler."""
    source = Path(netinterp_fast.__file__).parent
    shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "demo"))
    script = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f)]  # which would find the checkout's _C
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import netinterp_fast as n
import torch
said = [str(w.message) for w in caught if "netinterp_fast" in str(w.message)]
print(len(said), "_C was not built" in said[0], n.build_info()["native_cpu"], n.build_info()["cpu_level"])
print(n.why_not("concept_area"))
print(n.ops.concept_area(torch.tensor([[[[1, 2]]]]), 3).tolist())
"""
    done = python(script, tmp_path)
    assert done.stdout.splitlines() == [
        "1 True False None",
        "_C was not built: no C++ compiler was used when the package was installed",
        "[[0, 1, 1]]",
    ], done.stderr
