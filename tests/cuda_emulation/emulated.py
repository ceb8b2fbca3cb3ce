"""The CUDA kernels on the host runner `cuda_on_cpu.h`, with the signatures of the raw ops."""

from __future__ import annotations

import ctypes
import subprocess
from ctypes import c_bool, c_char_p, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from pathlib import Path

import torch

HERE = Path(__file__).parent


class _Launch(ctypes.Structure):
    _fields_ = [("blocks", c_int32), ("seed", c_uint32)]


class _LabelShape(ctypes.Structure):
    _fields_ = [(name, c_int64) for name in ("images", "layers", "pixels", "image_labels", "concepts")]


class _Axis(ctypes.Structure):
    _fields_ = [("cells", c_int64), ("pixels", c_int64), ("scale", c_double), ("offset", c_double)]


class _PathShape(ctypes.Structure):
    _fields_ = [("by_example", c_bool), ("steps", c_int64), ("examples", c_int64), ("size", c_int64)]


class _NoiseRows(ctypes.Structure):
    _fields_ = [(name, c_int64) for name in ("samples", "examples", "size", "first_sample", "first_example")]


class _CellShape(ctypes.Structure):
    _fields_ = [(name, c_int64) for name in ("planes", "units", "height", "width", "bytes")]


def build(folder: Path) -> Path:
    """Compile the kernels for the CPU; RuntimeError with the compiler's words where they do not compile."""
    library = folder / "kernels.so"
    command = ["g++", "-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Werror"]
    command += ["-Wno-unknown-pragmas"]  # nvcc's own
    command += [f"-I{HERE}", str(HERE / "kernels.cpp"), "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return library


class EmulatedKernels:
    """Each method runs an op's kernels, `blocks` blocks of threads in an order set by `seed`."""

    def __init__(self, library: Path, blocks: int = 3, seed: int = 0):
        self._path = library
        self._library = ctypes.CDLL(str(library))
        self._library.last_error_message.restype = c_char_p
        self._launch = _Launch(blocks, seed)

    def with_launch(self, blocks: int, seed: int) -> EmulatedKernels:
        return EmulatedKernels(self._path, blocks, seed)

    def concept_area(self, labels, image_labels, n_concepts):
        area = labels.new_zeros((labels.shape[0], n_concepts), dtype=torch.int64)
        first_bad = torch.empty(2, dtype=torch.int64)
        shape = _label_shape(labels, image_labels, n_concepts)
        self._call("concept_area", self._launch, *_typed(labels), image_labels, shape, area, first_bad)
        return area, first_bad

    def unit_concept_overlap(
        self, acts, thresholds, labels, image_labels, n_concepts, inclusive, sy, sx, oy, ox, intersection
    ):
        unit_area = acts.new_zeros(acts.shape[:2], dtype=torch.int64)
        first_bad = torch.empty(2, dtype=torch.int64)
        self._call(
            "unit_concept_overlap",
            self._launch,
            *_typed(acts),
            thresholds,
            c_int64(acts.shape[1]),
            *_typed(labels),
            image_labels,
            _label_shape(labels, image_labels, n_concepts),
            c_bool(inclusive),
            _Axis(acts.shape[2], labels.shape[2], sy, oy),
            _Axis(acts.shape[3], labels.shape[3], sx, ox),
            intersection,
            unit_area,
            first_bad,
        )
        return unit_area, first_bad

    def top_quantile_update(self, acts, keep, buffer, count, bound):
        maxima = torch.empty(acts.shape[:2])
        n_images, n_units, h, w = acts.shape
        sizes = map(c_int64, (n_images, n_units, h * w, keep))
        self._call("top_quantile_update", self._launch, *_typed(acts), *sizes, buffer, count, bound, maxima)
        return maxima

    def stabilized_ratio(self, relevance, z, epsilon):
        return self._map("stabilized_ratio", epsilon, relevance, z)

    def product_ratio(self, x, grad, z, epsilon):
        return self._map("product_ratio", epsilon, x, grad, z)

    def relu_gate(self, grad, output, epsilon):
        return self._map("relu_gate", epsilon, grad, output)

    def _map(self, name, epsilon, first, *others):
        out = torch.empty_like(first)
        self._call(name, self._launch, *_typed(first), *others, c_double(epsilon), c_int64(out.numel()), out)
        return out

    def path_points(self, inputs, baseline, alphas, relu):
        out = inputs.new_empty((alphas.shape[0] * inputs.shape[0], inputs.shape[1]))
        shape = _PathShape(alphas.shape[1] != 1, alphas.shape[0], *inputs.shape)
        self._call("path_points", self._launch, *_typed(inputs), baseline, alphas, shape, c_bool(relu), out)
        return out

    def path_accumulate(self, grads, gate, weights, value, out):
        shape = _PathShape(weights.shape[1] != 1, weights.shape[0], *out.shape)
        gate = c_void_p() if gate is None else gate
        self._call("path_accumulate", self._launch, *_typed(grads), gate, weights, shape, c_int64(value), out)

    def noise_points(self, inputs, sigma, seed, samples, first_sample, first_example):
        out = inputs.new_empty((samples * inputs.shape[0], inputs.shape[1]))
        rows = _NoiseRows(samples, *inputs.shape, first_sample, first_example)
        self._call("noise_points", self._launch, *_typed(inputs), sigma, c_uint64(seed), rows, out)
        return out

    def mark_cells(self, acts, levels, inclusive):
        n_images, n_units, h, w = acts.shape
        bits = torch.full((n_images, n_units, h, -(-w // 8)), 0xA5, dtype=torch.uint8)
        counts = torch.zeros((n_images, n_units), dtype=torch.int32)
        shape = _cell_shape(acts, bits)
        self._call("mark_cells", self._launch, *_typed(acts), levels, c_bool(inclusive), shape, bits, counts)
        return bits, counts

    def take_cells(self, acts, planes, bits, starts, n_values):
        values = torch.zeros(n_values)
        listed, shape = c_int64(planes.numel()), _cell_shape(acts, bits)
        marks = (planes, bits, starts, listed, shape, c_int64(n_values))
        self._call("take_cells", self._launch, *_typed(acts), *marks, values)
        return values

    def put_cells(self, values, planes, bits, starts, n_images, n_units, width):
        acts = torch.full((n_images, n_units, bits.shape[1], width), float("-inf"))
        listed, shape = c_int64(planes.numel()), _cell_shape(acts, bits)
        marks = (planes, bits, starts, listed, shape, c_int64(values.numel()))
        self._call("put_cells", self._launch, values, *marks, acts)
        return acts

    def philox_words(self, counter: list[int], key: list[int]) -> list[int]:
        words = (c_uint32 * 4)(*counter)
        self._call("philox_words", words, (c_uint32 * 2)(*key))
        return list(words)

    def runner_check(self, kind: str) -> None:
        self._call("runner_check", kind.encode(), c_uint32(self._launch.seed))

    def _call(self, name, *args):
        pointers = [c_void_p(arg.data_ptr()) if isinstance(arg, torch.Tensor) else arg for arg in args]
        if getattr(self._library, name)(*pointers) != 0:
            raise RuntimeError(self._library.last_error_message().decode())


def _typed(tensor: torch.Tensor) -> tuple[torch.Tensor, bytes]:
    return tensor, str(tensor.dtype).removeprefix("torch.").encode()


def _label_shape(labels: torch.Tensor, image_labels: torch.Tensor, n_concepts: int) -> _LabelShape:
    images, layers, height, width = labels.shape
    return _LabelShape(images, layers, height * width, image_labels.shape[1], n_concepts)


def _cell_shape(acts: torch.Tensor, bits: torch.Tensor) -> _CellShape:
    n_images, n_units, height, width = acts.shape
    return _CellShape(n_images * n_units, n_units, height, width, bits.shape[-1])
