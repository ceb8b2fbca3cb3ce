"""Inputs with normal noise that depends on nothing but its place: the same bits on every backend, in any chunks.

The noise comes from the counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011) by the transform of Box and Muller.
"""

from __future__ import annotations

import math

import torch

from .._library import define_op
from ..backends import run_op
from ._checks import check_alike, check_size, check_tensor, real_dtype
from .paths import DTYPES, check_batched

_WORD = 0xFFFFFFFF
_SQRT_HALF_BITS = 0x3F3504F3  # of the float32


# As csrc/core/noise.h, from here to _noise_points: each operation is rounded by itself.
def _philox(counter, key):
    """The four words of a counter of four words, int64 tensors that hold 32 bits each; key: two ints."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # the upper half is right though int64 overflows
        c0, c1, c2, c3 = (
            (second >> 32 & _WORD) ^ c1 ^ k0,
            second & _WORD,
            (first >> 32 & _WORD) ^ c3 ^ k1,
            first & _WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def _log(u):
    """The natural logarithm of positive normal float32: e log 2 + log m with m in [sqrt(1/2), sqrt(2))."""
    bits = u.view(torch.int32)
    exponent = (bits - _SQRT_HALF_BITS) >> 23
    mantissa = (bits - (exponent << 23)).view(torch.float32)
    t = (mantissa - 1) / (mantissa + 1)
    square = t * t
    series = square * (1 / 9) + 1 / 7
    for coefficient in (1 / 5, 1 / 3):
        series = series * square + coefficient
    double = t + t
    log_mantissa = double + double * (square * series)
    wide = exponent.to(torch.float32)
    return wide * 0.693359375 + (wide * -2.12194440e-4 + log_mantissa)  # log 2 in two parts, the first product exact


def _sine_cosine(x):
    """Of |x| <= pi / 4, by their Taylor series."""
    square = x * x
    sine = square * (1 / 362880) - 1 / 5040
    for coefficient in (1 / 120, -1 / 6):
        sine = sine * square + coefficient
    cosine = square * (-1 / 3628800) + 1 / 40320
    for coefficient in (-1 / 720, 1 / 24, -0.5, 1.0):
        cosine = cosine * square + coefficient
    return x + x * (square * sine), cosine


def _normal_pair(first, second):
    u = ((first >> 8) + 1).to(torch.float32) * 2**-24
    radius = (_log(u) * -2).double().sqrt().float()  # the right rounding, which torch's root in float32 may miss
    fraction = (second >> 6 & 0xFFFFFF).to(torch.float32) * 2**-24 - 0.5
    sine, cosine = _sine_cosine(fraction * (math.pi / 2))
    quarter = second >> 30
    odd = quarter & 1 != 0
    x, y = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    x = torch.where((quarter == 1) | (quarter == 2), -x, x)
    y = torch.where(quarter >= 2, -y, y)
    return radius * x, radius * y


def _normal_noise(seed, sample, examples, size):
    """[examples, size], for the numbers of the examples."""
    blocks = torch.arange((size + 3) // 4, device=examples.device)
    counter = (blocks & _WORD, sample, examples.unsqueeze(1), blocks >> 32)
    r0, r1, r2, r3 = _philox(counter, (seed & _WORD, seed >> 32 & _WORD))
    normals = torch.stack((*_normal_pair(r0, r1), *_normal_pair(r2, r3)), 2)
    return normals.view(len(examples), 4 * len(blocks))[:, :size]


def _noise_points(inputs, sigma, seed, samples, first_sample, first_example):
    wide, scale = inputs.to(sigma.dtype), sigma.unsqueeze(1)
    examples = torch.arange(first_example, first_example + inputs.shape[0], device=inputs.device)
    points = inputs.new_empty((samples, *inputs.shape))
    for sample in range(samples):
        noise = _normal_noise(seed, first_sample + sample, examples, inputs.shape[1])
        points[sample] = (wide + scale * noise.to(sigma.dtype)).to(inputs.dtype)
    return points.view(samples * inputs.shape[0], inputs.shape[1])


def _fake(inputs, sigma, seed, samples, first_sample, first_example):
    return inputs.new_empty((samples * inputs.shape[0], inputs.shape[1]))


_OP = define_op(
    "noise_points(Tensor inputs, Tensor sigma, SymInt seed, SymInt samples, SymInt first_sample, "
    "SymInt first_example) -> Tensor",
    _noise_points,
    _fake,
)


def noise_points(
    inputs: torch.Tensor,
    sigma: float | torch.Tensor,
    seed: int,
    samples: int,
    *,
    first_sample: int = 0,
    first_example: int = 0,
) -> torch.Tensor:
    """inputs + sigma times standard normal noise, `samples` times: row s B + b is sample s of example b.

    The noise is a function of (seed, first_sample + s, first_example + b, index of the element in its example) alone:
    a part of the samples or of the examples has the noise that it has among all.

    Args:
        inputs: [B, ...], float32, float64, float16 or bfloat16. float64 is computed in float64, with noise of float32
            precision, the others in float32; rounded once.
        sigma: a number or, by example, a tensor [B], float32 or float64; finite, >= 0. Inside torch.compile the values
            of a tensor are not checked.
        seed: in [0, 2^64).
        samples: S >= 0.
        first_sample, first_example: the numbers of sample 0 and of example 0; all numbers lie below 2^32.

    Returns:
        A new contiguous tensor [S B, ...]; identical on every backend, detached whatever requires grad.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device or value, naming the argument.
    """
    check_alike(("inputs",), (inputs,), DTYPES)
    check_batched("inputs", inputs)
    n_examples = inputs.shape[0]
    _check_int("seed", seed, 2**64 - 1)
    _check_int("samples", samples, 2**32)
    _check_int("first_sample", first_sample, 2**32 - samples)
    _check_int("first_example", first_example, 2**32 - n_examples)
    sigma = _by_example(sigma, inputs)
    signed_seed = seed - 2**64 if seed >= 2**63 else seed  # the schema's integers are signed
    rows = inputs.detach().contiguous().view(n_examples, math.prod(inputs.shape[1:]))
    points = run_op(_OP, inputs.device, rows, sigma, signed_seed, samples, first_sample, first_example)
    return points.view(samples * n_examples, *inputs.shape[1:])


def _check_int(name: str, value: object, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; it must be an int")
    if not 0 <= value <= largest:
        raise ValueError(f"{name} is {value}; it must be in [0, {largest}]")


def _by_example(sigma: object, inputs: torch.Tensor) -> torch.Tensor:
    """sigma, checked, as [B] of what is computed in."""
    real = real_dtype(inputs.dtype)
    if isinstance(sigma, torch.Tensor):
        check_tensor("sigma", sigma, "[B]", (torch.float32, torch.float64), inputs.device)
        check_size("sigma", sigma, 0, inputs.shape[0], "the B of inputs")
        sigma = sigma.detach().to(real).contiguous()
        if not torch.compiler.is_compiling() and sigma.device.type != "meta":
            bad = ~(sigma.isfinite() & (sigma >= 0))
            if bad.any():
                raise ValueError(f"sigma has the value {float(sigma[bad][0])}; all must be finite and >= 0")
        return sigma
    if isinstance(sigma, bool) or not isinstance(sigma, (float, int)):
        raise TypeError(f"sigma is {sigma!r}; it must be a number or a tensor [B]")
    if not 0 <= sigma <= torch.finfo(real).max:
        raise ValueError(f"sigma is {sigma}; it must be finite, >= 0 and within the range of {real}")
    return torch.full((inputs.shape[0],), sigma, dtype=real, device=inputs.device)
