"""The reading of ptxas's output; the compilation itself is `python tests/cuda/compile_check.py`."""

import compile_check
import pytest
from compile_check import KernelUse, base_name, exceeded, parse_ptxas, table

LOG = """\
ptxas info    : 28 bytes gmem
ptxas info    : Compiling entry function '_ZN14netinterp_fast14append_largestI6__halfEEvPKT_' for 'sm_80'
ptxas info    : Function properties for _ZN14netinterp_fast14append_largestI6__halfEEvPKT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 37 registers, used 1 barriers, 1056 bytes smem
ptxas info    : Compile time = 101.664 ms
ptxas info    : 28 bytes gmem
ptxas info    : Compiling entry function '_ZN14netinterp_fast13tally_overlapIfEEvPKT_' for 'sm_100'
ptxas info    : Function properties for _ZN14netinterp_fast13tally_overlapIfEEvPKT_
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 99 registers, used 0 barriers, 8 bytes cumulative stack size
"""
USES = [KernelUse("append_largest", 80, 37, 0, 1056), KernelUse("tally_overlap", 100, 99, 16, 0)]


def test_parse_ptxas():
    assert parse_ptxas(LOG) == USES
    assert parse_ptxas("nothing was compiled") == []


def test_parse_ptxas_refuses_an_entry_without_numbers():
    with pytest.raises(ValueError, match="not understood"):
        parse_ptxas(LOG.replace("Used 37 registers", "Used registers: 37"))


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        ("_ZN14netinterp_fast12plane_maximaI13__nv_bfloat16EEvPKT_", "plane_maxima"),
        ("_Z3addPf", "add"),
        ("plain", "plain"),
    ],
)
def test_base_name(mangled, name):
    assert base_name(mangled) == name


def test_exceeded():
    assert exceeded(USES[0]) == []
    assert exceeded(USES[1]) == ["99 registers, at most 48 allowed", "16 bytes spilled, at most 0 allowed"]
    assert exceeded(KernelUse("append_largest", 80, 1, 0, 7000)) == [
        "7000 bytes of shared memory, at most 6144 allowed"
    ]


def test_table_shows_the_most_of_all_instances():
    row = table([USES[1], KernelUse("tally_overlap", 100, 40, 0, 8)]).splitlines()[1]
    assert row.split() == ["tally_overlap", "sm_100", "2", "99", "16", "8"]


def test_fails_without_nvcc_or_sources(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compile_check.shutil, "which", lambda name: None)
    assert compile_check.main() == 1
    monkeypatch.setattr(compile_check.shutil, "which", lambda name: "/bin/true")
    monkeypatch.setattr(compile_check, "SOURCES", tmp_path)
    assert compile_check.main() == 1
    assert "nvcc is not on the PATH" in (printed := capsys.readouterr().out)
    assert "there is no .cu file" in printed


@pytest.mark.parametrize(("code", "words"), [(2, "does not compile"), (0, "no kernel for sm_80")])
def test_fails_where_the_compiler_fails_or_makes_nothing(monkeypatch, tmp_path, capsys, code, words):
    compiler = tmp_path / "nvcc"
    compiler.write_text(f"#!/bin/sh\nexit {code}\n")
    compiler.chmod(0o755)
    (tmp_path / "op.cu").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(compile_check, "SOURCES", tmp_path)
    assert compile_check.main() == 1
    assert words in capsys.readouterr().out
