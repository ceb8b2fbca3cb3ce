"""noise_points: published words, arithmetic by hand, the distribution, independence of chunks, errors."""

import math

import pytest
import torch
from op_cases import same_bits
from path_cases import PATH_DTYPES, noise_cases

from netinterp_fast import _library, ops
from netinterp_fast.ops import noise as reference

CASES = {dtype: noise_cases(dtype) for dtype in PATH_DTYPES}
KNOWN_WORDS = {  # counter and key; the known answers that come with Random123
    (0,) * 6: (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    (0xFFFFFFFF,) * 6: (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0): (
        *(0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


def philox(counter, key):
    """As the paper has it, on Python's integers."""
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = (
            *(second >> 32 ^ counter[1] ^ key[0], second % 2**32),
            *(first >> 32 ^ counter[3] ^ key[1], first % 2**32),
        )
        key = ((key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32)
    return counter


def normals(words):
    """The four normal numbers of four words, in float64 and by angles instead of quadrants."""
    result = []
    for radius_word, angle_word in (words[:2], words[2:]):
        radius = math.sqrt(-2 * math.log(((radius_word >> 8) + 1) / 2**24))
        angle = (angle_word >> 30) * math.pi / 2 + ((angle_word >> 6 & 0xFFFFFF) / 2**24 - 0.5) * math.pi / 2
        result += [radius * math.cos(angle), radius * math.sin(angle)]
    return result


@pytest.mark.parametrize("given", KNOWN_WORDS)
def test_philox_gives_the_published_words(given):
    words = reference._philox([torch.tensor(word) for word in given[:4]], given[4:])
    assert tuple(map(int, words)) == KNOWN_WORDS[given] == philox(given[:4], given[4:])


def test_the_noise_of_published_words(implementation):
    """Counter 0 and key 0: the first block of sample 0, example 0 under seed 0."""
    got = ops.noise_points(torch.zeros(1, 4), 1.0, 0, 1)
    expected = normals(KNOWN_WORDS[(0,) * 6])
    torch.testing.assert_close(got.flatten().double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_noise_by_hand(implementation):
    seed, samples, first_sample, first_example = 0xFEDCBA9876543210, 2, 2**32 - 2, 2**31
    inputs, sigma = torch.tensor([[10.0] * 11, [-3.0] * 11], dtype=torch.float64), torch.tensor([0.5, 4.0]).double()
    got = ops.noise_points(inputs, sigma, seed, samples, first_sample=first_sample, first_example=first_example)
    for sample in range(samples):
        for example in range(2):
            expected = []
            for block in range(3):
                counter = (block, first_sample + sample, first_example + example, 0)
                expected += normals(philox(counter, (seed % 2**32, seed >> 32)))
            expected = inputs[example] + sigma[example] * torch.tensor(expected[:11], dtype=torch.float64)
            torch.testing.assert_close(got[2 * sample + example], expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("dtype", PATH_DTYPES)
@pytest.mark.parametrize("name", CASES[torch.float32])
def test_every_implementation_gives_the_reference_bits(implementation, dtype, name):
    case = CASES[dtype][name]
    expected = _library.reference("noise_points")(*case)
    got = ops.noise_points(
        *(case.inputs, case.sigma, case.seed % 2**64, case.samples),
        **{"first_sample": case.first_sample, "first_example": case.first_example},
    )
    assert same_bits(got, expected)
    assert got.is_contiguous()


def test_sigma_scales_and_rounds_once(implementation):
    noise = ops.noise_points(torch.zeros(2, 500), 1.0, 5, 3)
    for dtype in PATH_DTYPES:
        inputs = torch.linspace(-2, 2, 1000, dtype=torch.float64).view(2, 500).to(dtype)
        sigma = torch.tensor([0.1, 3.0], dtype=torch.float64)
        real = torch.float64 if dtype == torch.float64 else torch.float32
        scaled = sigma.to(real).repeat(3)[:, None] * noise.to(real)
        expected = (inputs.to(real).repeat(3, 1) + scaled).to(dtype)
        assert same_bits(ops.noise_points(inputs, sigma, 5, 3), expected)


def test_a_number_as_sigma_and_0(implementation):
    inputs = torch.randn(3, 2, 5)
    assert same_bits(ops.noise_points(inputs, 0.1, 1, 2), ops.noise_points(inputs, torch.full((3,), 0.1), 1, 2))
    assert torch.equal(ops.noise_points(inputs, 0, 1, 2), inputs.repeat(2, 1, 1))


def test_chunks_change_nothing(implementation):
    inputs, sigma = torch.randn(4, 3, 7, 5), torch.rand(4)
    whole = ops.noise_points(inputs, sigma, 77, 5).unflatten(0, (5, 4))
    for first, last in ((0, 2), (2, 3), (3, 5)):
        part = ops.noise_points(inputs, sigma, 77, last - first, first_sample=first)
        assert same_bits(part.unflatten(0, (-1, 4)), whole[first:last])
    for first, last in ((0, 1), (1, 4)):
        part = ops.noise_points(inputs[first:last], sigma[first:last], 77, 5, first_example=first)
        assert same_bits(part.unflatten(0, (5, -1)), whole[:, first:last])
    part = ops.noise_points(inputs[2:3, :2], sigma[2:3], 77, 1, first_sample=4, first_example=2)
    assert same_bits(part, whole[4, 2:3, :2])


def test_everything_that_the_noise_depends_on_changes_it(implementation):
    inputs = torch.zeros(1, 64)
    seeds = (0, 1, 2**31, 2**32, 2**63, 2**64 - 1)
    others = [ops.noise_points(inputs, 1.0, seed, 1) for seed in seeds]
    others += [ops.noise_points(inputs, 1.0, 0, 1, first_sample=n) for n in (1, 2**32 - 1)]
    others += [ops.noise_points(inputs, 1.0, 0, 1, first_example=n) for n in (1, 2**32 - 1)]
    values = torch.cat(others)
    assert len(values.unique()) > 0.999 * values.numel()


def normal_below(x):
    return torch.special.erfc(-x.double() / math.sqrt(2)) / 2


def test_the_noise_is_standard_normal():
    """Bounds that true normal numbers break less than once in a thousand seeds each."""
    noise = ops.noise_points(torch.zeros(4, 50_001), 1.0, 2024, 10).double()
    values, n = noise.flatten(), noise.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (5, 0, 945), (6, 15, 10170)):
        assert abs((values**power).mean() - moment) < 3.3 * math.sqrt(variance / n)
    ordered = values.sort().values
    below = normal_below(ordered)
    ranks = torch.arange(n + 1, dtype=torch.float64) / n
    largest_gap = max((ranks[1:] - below).max(), (below - ranks[:-1]).max())
    assert largest_gap < math.sqrt(math.log(2 / 0.001) / 2 / n)  # Kolmogorov and Smirnov
    for bound in (2.0, 3.0, 4.0):
        for tail in (values, -values):
            expected = n * float(normal_below(torch.tensor(-bound)))
            assert abs(int((tail > bound).sum()) - expected) < 3.3 * math.sqrt(expected) + 1
    assert values.abs().max() < math.sqrt(48 * math.log(2)) + 1e-5


def test_the_noise_is_independent():
    noise = ops.noise_points(torch.zeros(4, 40_000), 1.0, 2024, 4).double()
    rows, blocks = noise, noise.view(-1, 4)
    bound = 4.5 / math.sqrt(noise.shape[1])
    assert (torch.corrcoef(rows) - torch.eye(16)).abs().max() < bound  # samples and examples
    assert (torch.corrcoef(rows**2) - torch.eye(16)).abs().max() < bound
    for powers in (blocks, blocks**2):  # places in a block, and neighbouring blocks
        assert (torch.corrcoef(powers.T) - torch.eye(4)).abs().max() < 4.5 / math.sqrt(len(blocks))
        both = torch.cat([powers[:-1], powers[1:]], 1)
        assert (torch.corrcoef(both.T) - torch.eye(8)).abs().max() < 4.5 / math.sqrt(len(blocks))


def test_log_sine_and_cosine_are_accurate():
    """Of the numbers that they are used on, all near the ends and many between; a unit in the last place is 1.2e-7."""
    steps = torch.cat([torch.arange(1, 2**17), torch.arange(2**17, 2**24, 61), torch.arange(2**24 - 2**16, 2**24 + 1)])
    uniform = steps.float() * 2**-24
    exact = uniform.double().log()
    assert ((reference._log(uniform) - exact).abs() <= 1.8e-7 * exact.abs()).all()
    angle = ((steps - 1).float() * 2**-24 - 0.5) * (math.pi / 2)
    sine, cosine = reference._sine_cosine(angle)
    exact = angle.double().sin()
    assert ((sine - exact).abs() <= 1e-7 * exact.abs()).all()
    assert (cosine - angle.double().cos()).abs().max() < 1e-7


def test_any_memory_layout(implementation):
    inputs = torch.randn(2, 6, 5, 4)
    plain = ops.noise_points(inputs, 0.5, 3, 2)
    for other in (inputs.to(memory_format=torch.channels_last), torch.stack([inputs, inputs], -1)[..., 0]):
        got = ops.noise_points(other, 0.5, 3, 2)
        assert same_bits(got, plain)
        assert got.is_contiguous()
    assert ops.noise_points(inputs[:, 0, 0, 0], 1.0, 3, 2).shape == (4,)


def test_nothing_is_recorded_for_autograd(implementation):
    points = ops.noise_points(torch.randn(2, 3, requires_grad=True), torch.rand(2, requires_grad=True), 0, 2)
    assert points.is_leaf
    assert not points.requires_grad


NAN, INF = float("nan"), float("inf")
BAD = {
    "list": ({"inputs": [1.0]}, TypeError, "inputs is list; it must be a tensor"),
    "integers": ({"inputs": torch.ones(2, 3).int()}, TypeError, "inputs has dtype int32; it must be float32, float64"),
    "no batch": ({"inputs": torch.tensor(1.0)}, ValueError, r"inputs has shape \[\]; it must be \[B, \.\.\.\]"),
    "sigma a string": ({"sigma": "1"}, TypeError, r"sigma is '1'; it must be a number or a tensor \[B\]"),
    "sigma a bool": ({"sigma": True}, TypeError, "sigma is True; it must be a number"),
    "sigma below 0": ({"sigma": -0.5}, ValueError, "sigma is -0.5; it must be finite, >= 0"),
    "sigma NaN": ({"sigma": NAN}, ValueError, "sigma is nan; it must be finite, >= 0"),
    "sigma inf": ({"sigma": INF}, ValueError, "sigma is inf; it must be finite, >= 0"),
    "sigma beyond float32": ({"sigma": 1e39}, ValueError, r"sigma is 1e\+39; .* within the range of torch.float32"),
    "sigmas below 0": (
        {"sigma": torch.tensor([1.0, -2.0])},
        ValueError,
        "sigma has the value -2.0; all must be finite",
    ),
    "sigmas NaN": ({"sigma": torch.tensor([1.0, NAN])}, ValueError, "sigma has the value nan; all must be finite"),
    "sigmas inf": ({"sigma": torch.tensor([INF, 1.0])}, ValueError, "sigma has the value inf; all must be finite"),
    "sigmas too many": (
        {"sigma": torch.ones(3)},
        ValueError,
        r"sigma has shape \[3\]; its dimension 0 must be 2, the B",
    ),
    "sigmas 0-d": ({"sigma": torch.tensor(1.0)}, ValueError, r"sigma has shape \[\]; it must be \[B\]"),
    "sigmas half": ({"sigma": torch.ones(2).half()}, TypeError, "sigma has dtype float16; it must be float32, float64"),
    "sigmas elsewhere": ({"sigma": torch.ones(2, device="meta")}, ValueError, "sigma is on meta; it must be on cpu"),
    "seed a float": ({"seed": 1.0}, TypeError, "seed is 1.0; it must be an int"),
    "seed a bool": ({"seed": True}, TypeError, "seed is True; it must be an int"),
    "seed below 0": ({"seed": -1}, ValueError, r"seed is -1; it must be in \[0, 18446744073709551615\]"),
    "seed too large": (
        {"seed": 2**64},
        ValueError,
        r"seed is 18446744073709551616; it must be in \[0, 184467440737095",
    ),
    "samples None": ({"samples": None}, TypeError, "samples is None; it must be an int"),
    "samples below 0": ({"samples": -1}, ValueError, r"samples is -1; it must be in \[0, 4294967296\]"),
    "first_sample": ({"first_sample": 2**32 - 1}, ValueError, r"first_sample is 4294967295; .* in \[0, 4294967294\]"),
    "first_example": ({"first_example": -1}, ValueError, r"first_example is -1; it must be in \[0, 4294967294\]"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_arguments(implementation, bad):
    changes, error, message = BAD[bad]
    with pytest.raises(error, match=message):
        ops.noise_points(**{"inputs": torch.ones(2, 3), "sigma": 1.0, "seed": 0, "samples": 2} | changes)


@pytest.mark.parametrize("dtype", PATH_DTYPES)
@pytest.mark.parametrize("name", ["typical", "odd size", "no samples", "empty examples"])
def test_opcheck(dtype, name):
    results = torch.library.opcheck(torch.ops.netinterp_fast.noise_points.default, tuple(CASES[dtype][name]))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("sigma", [0.5, torch.tensor([0.5, 2.0])])
def test_compiled(sigma):
    inputs = torch.randn(2, 3, 4)

    def noisy(inputs):
        return ops.noise_points(inputs, sigma, 2**63 + 5, 3, first_sample=2) * 2

    torch.compiler.reset()
    got, expected = torch.compile(noisy, fullgraph=True, backend="aot_eager")(inputs), noisy(inputs)
    torch.compiler.reset()
    assert same_bits(got, expected)
