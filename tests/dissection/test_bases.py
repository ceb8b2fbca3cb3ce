"""Random rotations, and what else may take the place of a layer's units."""

import math

import pytest
import torch
from torch import nn

from netinterp_fast import Rotation, per_position
from netinterp_fast.dissection.bases import bases_of, number

SIZES = (1, 2, 3, 4, 7, 24, 129)


def identity(n):
    return torch.eye(n, dtype=torch.float64)


def assert_close(actual, expected, tolerance=1e-12):
    assert actual.dtype == expected.dtype == torch.float64
    assert (actual - expected).abs().max() <= tolerance


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("angle", [0, 1e-9, 0.3, 0.5, 0.9, 1])
def test_a_rotation_is_orthogonal_with_determinant_1(n, angle):
    q = Rotation(angle, seed=3).matrix(n)
    assert_close(q @ q.T, identity(n))
    assert torch.linalg.det(q).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("n", SIZES)
def test_angles_add_up(n):
    def q(angle):
        return Rotation(angle, seed=1).matrix(n)

    for first, second in ((0.25, 0.5), (0.1, 0.6), (0.3, 0.7), (0.5, 0.5), (0.0, 0.4), (1e-3, 0.999)):
        assert_close(q(first) @ q(second), q(first + second))
    assert_close(torch.linalg.matrix_power(q(0.1), 10), q(1))


@pytest.mark.parametrize("n", SIZES)
def test_the_way_is_a_geodesic(n):
    """Each eigenvalue exp(i phi) of Q, phi in (-pi, pi], becomes exp(i angle phi): the shortest way to it."""

    def angles(q):
        return torch.linalg.eigvals(q).angle().sort().values

    assert_close(angles(Rotation(0.3).matrix(n)), 0.3 * angles(Rotation(1).matrix(n)), 1e-7)


def test_two_units_by_hand():
    cos, sin = Rotation(1, seed=5).matrix(2)[:, 0].tolist()
    phi = math.atan2(sin, cos)
    by_hand = [[math.cos(0.4 * phi), -math.sin(0.4 * phi)], [math.sin(0.4 * phi), math.cos(0.4 * phi)]]
    assert_close(Rotation(0.4, seed=5).matrix(2), torch.tensor(by_hand, dtype=torch.float64))


@pytest.mark.parametrize("n", SIZES)
def test_the_ends_of_the_way(n):
    assert torch.equal(Rotation(0, seed=2).matrix(n), identity(n))
    near = Rotation(1 - 2**-53, seed=2).matrix(n)  # by the eigenvectors, where 1 is Q itself
    assert_close(near, Rotation(1, seed=2).matrix(n))
    assert torch.equal(Rotation(1, seed=2).matrix(1), identity(1))


def test_the_seed_decides():
    torch.manual_seed(0)
    first = Rotation(0.5, seed=9).matrix(20)
    torch.manual_seed(1)
    Rotation(0.5, seed=10).matrix(20)
    assert torch.equal(Rotation(0.5, seed=9).matrix(20), first)
    assert not torch.equal(Rotation(0.5, seed=10).matrix(20), first)
    assert not torch.equal(Rotation(0.5, seed=9).matrix(21)[:20, :20], first)


def test_a_rotation_leaves_the_generator_of_torch_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Rotation(0.5, seed=77).matrix(5)
    assert torch.equal(torch.rand(3), expected)


def test_rotations_are_uniform():
    """Under Haar's measure on SO(n) entries have mean 0, variance 1/n, and no direction is preferred."""
    n, draws = 4, 2000
    q = torch.stack([Rotation(1, seed).matrix(n) for seed in range(draws)])
    standard_error = math.sqrt(1 / n / draws)
    assert q.mean(0).abs().max() < 5 * standard_error
    assert ((q**2).mean(0) - 1 / n).abs().max() < 5 * standard_error
    flat = q.flatten(1)
    covariance = flat.T @ flat / draws
    assert (covariance - torch.eye(n * n) / n).abs().max() < 5 * standard_error
    trace = q.diagonal(dim1=1, dim2=2).sum(1)  # E[trace^2] = 1
    assert abs(trace.mean()) < 0.15
    assert abs((trace**2).mean() - 1) < 0.2


def test_two_units_are_turned_by_uniform_angles():
    turned = torch.stack([Rotation(1, seed).matrix(2)[:, 0] for seed in range(1000)])
    counts = torch.histc(torch.atan2(turned[:, 1], turned[:, 0]), 10, -math.pi, math.pi)
    assert ((counts - 100) ** 2 / 100).sum() < 27.9  # chi-squared with 9 degrees of freedom: 0.1 %


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"angle": 1.5}, ValueError, r"angle is 1\.5; it must be in \[0, 1\]"),
        ({"angle": -0.1}, ValueError, r"angle is -0\.1; it must be in"),
        ({"angle": float("nan")}, ValueError, "angle is nan; it must be in"),
        ({"angle": "0.5"}, TypeError, "angle is '0.5'; it must be a number"),
        ({"angle": True}, TypeError, "angle is True; it must be a number"),
        ({"seed": -1}, ValueError, r"seed is -1; it must be in \[0, 2\^64\)"),
        ({"seed": 2**64}, ValueError, "seed is 18446744073709551616; it must be"),
        ({"seed": 0.5}, TypeError, r"seed is 0\.5; it must be an int"),
    ],
)
def test_wrong_rotations(arguments, error, message):
    with pytest.raises(error, match=message):
        Rotation(**arguments)


def test_a_rotation_of_no_units():
    with pytest.raises(ValueError, match="n_units is 0; it must be at least 1"):
        Rotation().matrix(0)


def test_rotations_compare_and_are_named_by_value():
    assert Rotation(1) == Rotation(1.0, 0)
    assert str(Rotation(1)) == "Rotation(angle=1.0, seed=0)"
    assert [Rotation(0.9).name, Rotation(1, 4).name] == ["rotation 0.9", "rotation 1 seed 4"]
    assert Rotation(0.1234567).name != Rotation(0.1234568).name


@pytest.mark.parametrize(("value", "text"), [(0.005, "0.005"), (1.0, "1"), (1e-7, "1e-07"), (1 / 3, repr(1 / 3))])
def test_numbers_in_names(value, text):
    assert number(value) == text


class Encoder(nn.Module):
    """A sparse autoencoder's first half."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.linear = nn.Linear(3, 5)
        nn.init.constant_(self.linear.bias, bias)

    def forward(self, vectors):
        return self.linear(vectors).relu()

    def encode(self, vectors):
        return self(vectors)


def identities(value):
    (basis,) = bases_of(["a"], {"a": value})["a"]
    return basis.name, basis.identity


def test_a_basis_is_known_by_its_values():
    torch.manual_seed(0)
    encoder, matrix = Encoder(), torch.randn(2, 3)
    assert identities(matrix) == identities(matrix.clone())
    assert identities(matrix)[0] == "directions"
    others = [matrix.double(), matrix + 1, matrix.T.contiguous(), encoder, per_position(encoder), Encoder(1.0)]
    others += [per_position(encoder.encode), per_position(Encoder(1.0).encode), torch.relu, torch.abs]
    known = [identities(value)[1] for value in [matrix, *others]]
    assert len(set(known)) == len(known)
    assert identities(encoder) == identities(encoder)
    assert [identities(value)[0] for value in others[3:8]] == ["Encoder", "Encoder", "Encoder", "encode", "encode"]
    assert identities(torch.relu)[0] == "relu"


def test_one_name_twice_is_counted():
    matrix = torch.eye(2)
    bases = bases_of(["a", "b"], [{"a": matrix}, "units", {"a": matrix, "b": matrix}, {"a": Encoder()}])
    assert [b.name for b in bases["a"]] == ["directions", "units", "directions 2", "Encoder"]
    assert [b.name for b in bases["b"]] == ["units", "directions"]


def test_an_encoder_sees_each_position():
    encoder = Encoder()
    maps = torch.randn(2, 3, 4, 6)
    features = per_position(encoder)(maps)
    assert features.shape == (2, 5, 4, 6)
    torch.testing.assert_close(features[1, :, 2, 5], encoder(maps[1, :, 2, 5]))


def test_an_encoder_that_is_none():
    with pytest.raises(TypeError, match="encoder is a Tensor; it must be a callable of vectors"):
        per_position(torch.eye(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_matrix_product_is_at_least_in_float32(dtype):
    """The sum is exact there, and is not in half precision; an autocast round the model does not reach it."""
    (basis,) = bases_of(["a"], {"a": torch.tensor([[1.0, 1.0, 1.0]])})["a"]
    maps = torch.tensor([2048.0, 1.0, 2**-10], dtype=dtype).view(1, 3, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        features = basis.transform(maps)
    assert features.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert features.item() == 2049 + 2**-10
