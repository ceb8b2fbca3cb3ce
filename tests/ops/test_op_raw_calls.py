"""The raw ops, called without the wrappers' checks: wrong arguments raise and never end the interpreter."""

import json
import os
import subprocess
import sys

import pytest
import torch

from netinterp_fast import _library

OVERLAP = """dict(
    acts=torch.zeros(2, 3, 4, 4), thresholds=torch.zeros(3),
    labels=torch.zeros(2, 2, 8, 8, dtype=torch.int64), image_labels=torch.zeros(2, 1, dtype=torch.int64),
    n_concepts=5, inclusive=False, scale_y=2.0, scale_x=2.0, offset_y=0.5, offset_x=0.5,
    intersection=torch.zeros(3, 5, dtype=torch.int64))"""
AREA = """dict(
    labels=torch.zeros(2, 2, 8, 8, dtype=torch.int64), image_labels=torch.zeros(2, 1, dtype=torch.int64),
    n_concepts=5)"""
QUANTILE = """dict(
    acts=torch.ones(2, 3, 4, 4), keep=4, buffer=torch.zeros(3, 8), count=torch.zeros(3, dtype=torch.int64),
    bound=torch.full((3,), float("-inf")))"""
STABILIZED = "dict(relevance=torch.ones(2, 3, 4, 5), z=torch.ones(2, 3, 4, 5), epsilon=1e-6)"
PRODUCT = "dict(x=torch.ones(2, 3, 4), grad=torch.ones(2, 3, 4), z=torch.ones(2, 3, 4), epsilon=1e-6)"
GATE = "dict(grad=torch.ones(2, 3, 4), output=torch.ones(2, 3, 4), epsilon=1e-6)"
POINTS = "dict(inputs=torch.ones(2, 6), baseline=torch.ones(2, 6), alphas=torch.ones(3, 1), relu=False)"
SUMS = """dict(
    grads=torch.ones(6, 5), gate=torch.ones(6, 5), weights=torch.ones(3, 2), value=0, out=torch.ones(2, 5))"""
NOISE = """dict(
    inputs=torch.ones(2, 6), sigma=torch.ones(2), seed=-1, samples=3, first_sample=0, first_example=0)"""
MARK = "dict(acts=torch.ones(2, 3, 4, 9), levels=torch.zeros(3), inclusive=False)"
TAKE = """dict(
    acts=torch.ones(2, 3, 4, 9), planes=torch.tensor([1, 4]), bits=torch.full((2, 4, 2), 255, dtype=torch.uint8),
    starts=torch.tensor([0, 36]), n_values=72)"""
PUT = """dict(
    values=torch.ones(72), planes=torch.tensor([1, 4]), bits=torch.full((2, 4, 2), 255, dtype=torch.uint8),
    starts=torch.tensor([0, 36]), n_images=2, n_units=3, width=9)"""
BAD_MARKS = [  # of maps 4 x 9, for take_cells and put_cells
    "planes=torch.tensor([1, 6])",
    "planes=torch.tensor([1, 2**62])",
    "planes=torch.tensor([-1, 4])",
    "planes=torch.tensor([4, 1])",
    "planes=torch.tensor([4, 4])",
    "planes=torch.tensor([1])",
    "planes=torch.tensor([1, 4, 5])",
    "planes=torch.tensor([[1, 4]])",
    "planes=torch.tensor([1, 4], dtype=torch.int32)",
    "planes=torch.tensor([1, 0, 4, 0])[::2]",
    "bits=torch.full((2, 4, 1), 255, dtype=torch.uint8)",
    "bits=torch.full((2, 4, 3), 255, dtype=torch.uint8)",
    "bits=torch.full((2, 0, 2), 255, dtype=torch.uint8)",
    "bits=torch.full((1, 4, 2), 255, dtype=torch.uint8)",
    "bits=torch.full((8, 2), 255, dtype=torch.uint8)",
    "bits=torch.full((2, 4, 2), 255)",
    "bits=torch.full((2, 4, 2), True)",
    "bits=torch.full((2, 4, 4), 255, dtype=torch.uint8)[..., ::2]",
    "bits=torch.full((2, 4, 2), 254, dtype=torch.uint8)",
    "bits=torch.zeros(2, 4, 2, dtype=torch.uint8)",
    "starts=torch.tensor([0, 35])",
    "starts=torch.tensor([0, 37])",
    "starts=torch.tensor([1, 36])",
    "starts=torch.tensor([-1, 36])",
    "starts=torch.tensor([-36, 0])",
    "starts=torch.tensor([36, 72])",
    "starts=torch.tensor([36, 0])",
    "starts=torch.tensor([0, 2**62])",
    "planes=torch.tensor([1, 2, 4]), bits=torch.full((3, 4, 2), 255, dtype=torch.uint8), "
    "starts=torch.tensor([0, 2**63 - 20, 16 - 2**63])",  # 36 apart, modulo 2^64
    "starts=torch.tensor([0])",
    "starts=torch.tensor([0, 36, 72])",
    "starts=torch.tensor([0, 36], dtype=torch.int32)",
    "starts=torch.tensor([0, 0, 36, 0])[::2]",
]
NO_PLANES = "planes=torch.zeros(0).long(), bits=torch.zeros(0, 4, 2).byte(), starts=torch.zeros(0).long()"
NAN, INF, LONG = 'float("nan")', 'float("inf")', "dtype=torch.int64"
BAD = {
    "unit_concept_overlap": (OVERLAP, [
        "acts=torch.zeros(2, 3, 4)",
        "acts=torch.zeros(2, 4, 4, 4)",
        "acts=torch.zeros(1, 3, 4, 4)",
        "acts=torch.zeros(2, 3, 0, 4)",
        "acts=torch.zeros(2, 3, 4, 4).double()",
        "acts=torch.zeros(2, 3, 4, 8)[..., ::2]",
        "thresholds=torch.zeros(2)",
        "thresholds=torch.zeros(3).double()",
        "thresholds=torch.zeros(6)[::2]",
        f"labels=torch.zeros(2, 8, 8, {LONG})",
        f"labels=torch.zeros(1, 2, 8, 8, {LONG})",
        f"labels=torch.zeros(2, 2, 8, 16, {LONG})[..., ::2]",
        "labels=torch.zeros(2, 2, 8, 8)",
        "labels=torch.zeros(2, 1, 1, 40000, dtype=torch.uint8)",
        f"image_labels=torch.zeros(3, 1, {LONG})",
        "image_labels=torch.zeros(2, 1, dtype=torch.int32)",
        "n_concepts=0",
        "n_concepts=-5",
        "n_concepts=6",
        f"n_concepts=2**62, intersection=torch.zeros(3, 0, {LONG})",
        f"n_concepts=-1, intersection=torch.zeros(3, 0, {LONG})",
        f"intersection=torch.zeros(3, 4, {LONG})",
        f"intersection=torch.zeros(2, 5, {LONG})",
        f"intersection=torch.zeros(5, 3, {LONG}).T",
        "intersection=torch.zeros(3, 5)",
        "intersection=torch.zeros(3, 5, dtype=torch.int32)",
        "scale_y=0.0",
        "scale_x=-1.0",
        f"scale_x={NAN}",
        f"offset_y={NAN}",
        f"scale_y={INF}, offset_y={INF}",
    ]),
    "concept_area": (AREA, [
        f"labels=torch.zeros(2, 8, 8, {LONG})",
        f"labels=torch.zeros(3, 2, 8, 8, {LONG})",
        f"labels=torch.zeros(2, 2, 0, 8, {LONG})",
        "labels=torch.zeros(2, 2, 8, 8)",
        f"labels=torch.zeros(2, 2, 8, 16, {LONG})[..., ::2]",
        "labels=torch.zeros(2, 1, 1, 40000, dtype=torch.uint8)",
        "image_labels=torch.zeros(2, 1)",
        f"image_labels=torch.zeros(2, {LONG})",
        "n_concepts=0",
        "n_concepts=-1",
    ]),
    "top_quantile_update": (QUANTILE, [
        "acts=torch.ones(2, 3, 4)",
        "acts=torch.ones(2, 4, 4, 4)",
        "acts=torch.ones(2, 3, 0, 4)",
        "acts=torch.ones(2, 3, 4, 4).double()",
        "acts=torch.ones(2, 3, 4, 8)[..., ::2]",
        "keep=0, buffer=torch.zeros(3, 0)",
        "keep=-4",
        "keep=5",
        "keep=2**63 - 1",
        "buffer=torch.zeros(3, 7)",
        "buffer=torch.zeros(2, 8)",
        "buffer=torch.zeros(3, 8).double()",
        "buffer=torch.zeros(8, 3).T",
        f"count=torch.zeros(2, {LONG})",
        "count=torch.zeros(3, dtype=torch.int32)",
        f"count=torch.full((3,), 1000, {LONG})",
        f"count=torch.full((3,), -1000000000, {LONG})",
        "bound=torch.zeros(2)",
        "bound=torch.zeros(3).double()",
    ]),
    "stabilized_ratio": (STABILIZED, [
        "z=torch.ones(2, 3, 4)",
        "z=torch.ones(1, 3, 4, 5)",
        "z=torch.ones(2, 3, 5, 4)",
        "z=torch.ones(2, 3, 5, 4).mT",
        "z=torch.ones(2, 3, 4, 10)[..., ::2]",
        "z=torch.ones(1, 1, 1, 1).expand(2, 3, 4, 5)",
        "z=torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)",
        "relevance=torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)",
        "relevance=torch.ones(2, 3, 4, 10)[..., ::2], z=torch.ones(2, 3, 4, 10)[..., ::2]",
        "relevance=torch.ones(5).expand(2, 3, 4, 5), z=torch.ones(5).expand(2, 3, 4, 5)",
        "z=torch.ones(2, 3, 4, 5).half()",
        "z=torch.ones(2, 3, 4, 5).double()",
        "relevance=torch.ones(2, 3, 4, 5).int(), z=torch.ones(2, 3, 4, 5).int()",
        f"epsilon={NAN}",
        f"epsilon={INF}",
        "epsilon=-1e-6",
        "epsilon=1e39",
    ]),
    "product_ratio": (PRODUCT, [
        "x=torch.ones(2, 3)",
        "grad=torch.ones(2, 4, 3).mT",
        "z=torch.ones(24)",
        "grad=torch.ones(2, 3, 4).bfloat16()",
        "epsilon=-1.0",
    ]),
    "relu_gate": (GATE, [
        "grad=torch.ones(2, 3)",
        "output=torch.ones(2, 4, 3).mT",
        "output=torch.ones(2, 3, 4).double()",
        "epsilon=-1.0",
    ]),
    "path_points": (POINTS, [
        "inputs=torch.ones(12)",
        "inputs=torch.ones(2, 3, 2), baseline=torch.ones(2, 3, 2)",
        "inputs=torch.ones(2, 7)",
        "inputs=torch.ones(3, 6)",
        "inputs=torch.ones(6, 2).T",
        "inputs=torch.ones(2, 6).int(), baseline=torch.ones(2, 6).int()",
        "baseline=torch.ones(2, 5)",
        "baseline=torch.ones(1, 6)",
        "baseline=torch.ones(1, 6).expand(2, 6)",
        "baseline=torch.ones(2, 12)[:, ::2]",
        "baseline=torch.ones(2, 6).half()",
        "alphas=torch.ones(3)",
        "alphas=torch.ones(3, 3)",
        "alphas=torch.ones(3, 0)",
        "alphas=torch.ones(2, 3).T",
        "alphas=torch.ones(3, 1).double()",
        "inputs=torch.ones(2, 6).half(), baseline=torch.ones(2, 6).half(), alphas=torch.ones(3, 1).half()",
        "inputs=torch.ones(2, 6).double(), baseline=torch.ones(2, 6).double()",
    ]),
    "path_accumulate": (SUMS, [
        "grads=torch.ones(30), gate=None",
        "grads=torch.ones(5, 5), gate=None",
        "grads=torch.ones(6, 4), gate=None",
        "grads=torch.ones(5, 6).T, gate=None",
        "grads=torch.ones(6, 5).double(), gate=None",
        "grads=torch.ones(6, 5).int(), gate=None",
        "gate=torch.ones(2, 5)",
        "gate=torch.ones(6, 4)",
        "gate=torch.ones(5, 6).T",
        "gate=torch.ones(6, 5).half()",
        "weights=torch.ones(3)",
        "weights=torch.ones(3, 3)",
        "weights=torch.ones(2, 2)",
        "weights=torch.ones(2, 3).T",
        "weights=torch.ones(3, 2).double()",
        "value=-1",
        "value=3",
        "out=torch.ones(2, 4)",
        "out=torch.ones(3, 5)",
        "out=torch.ones(10)",
        "out=torch.ones(5, 2).T",
        "out=torch.ones(1, 5).expand(2, 5)",
        "out=torch.ones(2, 5).half()",
        "out=torch.ones(2, 5).double()",
    ]),
    "noise_points": (NOISE, [
        "inputs=torch.ones(12)",
        "inputs=torch.ones(6, 2).T",
        "inputs=torch.ones(2, 6).int()",
        "inputs=torch.ones(2, 6).double()",
        "sigma=torch.ones(1)",
        "sigma=torch.ones(3)",
        "sigma=torch.ones(2, 1)",
        "sigma=torch.ones(4)[::2]",
        "sigma=torch.ones(2).double()",
        "samples=-1",
        "samples=2**32 + 1",
        "samples=2**63 - 1",
        "first_sample=-1",
        "first_sample=2**32 - 2",
        "first_sample=2**63 - 1",
        "first_example=-1",
        "first_example=2**32 - 1",
        "samples=2**32, inputs=torch.ones(0, 6)",
    ]),
    "mark_cells": (MARK, [
        "acts=torch.ones(3, 4, 9)",
        "acts=torch.ones(2, 4, 4, 9)",
        "acts=torch.ones(2, 3, 0, 9)",
        "acts=torch.ones(2, 3, 4, 0)",
        "acts=torch.ones(0, 3, 2**20, 2**20)",
        "acts=torch.ones(2, 3, 4, 9).double()",
        "acts=torch.ones(2, 3, 4, 9).int()",
        "acts=torch.ones(2, 3, 4, 18)[..., ::2]",
        "acts=torch.ones(2, 3, 9, 4).mT",
        "levels=torch.zeros(2)",
        "levels=torch.zeros(6)[::2]",
        "levels=torch.zeros(1).expand(3)",
        "levels=torch.zeros(3).double()",
        "levels=torch.zeros(3).half()",
        "levels=torch.zeros(1, 3)",
    ]),
    "take_cells": (TAKE, [
        *BAD_MARKS,
        "acts=torch.ones(6, 4, 9)",
        "acts=torch.ones(1, 3, 4, 9)",
        "acts=torch.ones(0, 3, 4, 9)",
        "acts=torch.ones(2, 3, 5, 9)",
        "acts=torch.ones(2, 3, 3, 9)",
        "acts=torch.ones(2, 3, 4, 10)",
        "acts=torch.ones(2, 3, 4, 17)",
        "acts=torch.ones(2, 3, 4, 0)",
        "acts=torch.ones(2, 3, 4, 9).double()",
        "acts=torch.ones(2, 3, 4, 18)[..., ::2]",
        "n_values=71",
        "n_values=73",
        "n_values=0",
        "n_values=-1",
        f"n_values=1, {NO_PLANES}",
        "starts=torch.tensor([3, 39]), n_values=75",
    ]),
    "put_cells": (PUT, [
        *BAD_MARKS,
        "values=torch.ones(71)",
        "values=torch.ones(73)",
        "values=torch.ones(0)",
        "values=torch.ones(8, 9)",
        "values=torch.ones(72).half()",
        "values=torch.ones(72).double()",
        "values=torch.ones(144)[::2]",
        f"values=torch.ones(1), {NO_PLANES}",
        "starts=torch.tensor([3, 39]), values=torch.ones(75)",
        "width=8",
        "width=10",
        "width=17",
        "width=0",
        "width=-9",
        "width=2**63 - 1",
        "n_images=1",
        "n_images=0",
        "n_images=-2",
        "n_images=-2, n_units=-3",
        "n_units=0",
        "n_units=-1",
        "n_images=2**62",
    ]),
}  # fmt: skip
SCRIPT = """
import json, torch, netinterp_fast
refused = []
for changes in json.loads({changes!r}):
    print("calling with", changes, flush=True)
    arguments = {arguments} | eval(f"dict({{changes}})")
    try:
        torch.ops.netinterp_fast.{op}(**arguments)
        refused.append(False)
    except Exception:
        refused.append(True)
print(json.dumps(refused))
"""


@pytest.mark.skipif(not _library.cpu_levels(), reason="there are no native kernels")
@pytest.mark.parametrize("op", BAD)
def test_native_kernels_refuse_what_does_not_fit(op):
    arguments, cases = BAD[op]
    script = SCRIPT.format(changes=json.dumps(cases), arguments=arguments, op=op)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"ended with {done.returncode}, last output: {done.stdout.splitlines()[-1:]}"
    refused = json.loads(done.stdout.splitlines()[-1])
    assert [case for case, was_refused in zip(cases, refused, strict=True) if not was_refused] == []


def test_the_cases_are_wrong_only_in_what_they_change():
    for op, (arguments, _) in BAD.items():
        getattr(torch.ops.netinterp_fast, op)(**eval(arguments))


COMPARISON = """
from op_cases import fresh, overlap_cases
from netinterp_fast import _library, ops
import torch
for name, case in overlap_cases().items():
    print(name, flush=True)
    for op, part in (("unit_concept_overlap", slice(None)), ("concept_area", slice(2, 5))):
        expected, got = fresh(case)[part], fresh(case)[part]
        results = zip(_library.reference(op)(*expected), getattr(torch.ops.netinterp_fast, op)(*got))
        assert all(torch.equal(a, b) for a, b in results), f"{op} on {name!r} returns something else"
        if op == "unit_concept_overlap":
            assert torch.equal(got[-1], expected[-1]), f"{op} on {name!r} tallies something else"
"""


@pytest.mark.parametrize("level", _library.cpu_levels())
def test_raw_results_are_those_of_the_reference_also_for_ids_out_of_range(level):
    """Ids out of range are reported and nothing is counted."""
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", COMPARISON],
        env=os.environ | {"NETINTERP_FAST_CPU": level, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"at {done.stdout.splitlines()[-1:]}: {done.returncode} {done.stderr[-500:]}"
