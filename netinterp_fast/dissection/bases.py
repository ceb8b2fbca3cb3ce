"""The bases in which a layer is dissected: its units, a rotation of them, or other directions and features.

"units"                  a_k, the maps as they are
Rotation(angle, seed)    (Q^angle a)_k at each position, Q a random rotation
a matrix D, [n, C]       (D a)_k at each position
a callable               its feature maps [B, F, h, w] of the maps [B, C, h, w]
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import nn

from .._numbers import check_seed
from .run_folder import hash_tensor

_ORTHOGONAL = 1e-10  # largest error of Q^angle (Q^angle)^T; it is about 1e-14


@dataclass(frozen=True)
class Rotation:
    """A random rotation of a layer's C units, or a part of the way to it (Bau et al., CVPR 2017, section 3.2).

    Q is drawn uniformly (by Haar's measure) from SO(C); Q^angle lies on the geodesic from the identity to Q, so that
    Q^a Q^b = Q^(a + b). What an axis-aligned unit detects and a rotated one does not is a property of the axes: the
    layer's output Q a, with Q^-1 folded into the layers behind it, is the same network.

    Args:
        angle: 0 (the units themselves) to 1 (Q).
        seed: of Q, in [0, 2^64); the same on every device.

    Raises:
        ValueError, TypeError: for an angle or a seed outside these, or of another type.
    """

    angle: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.angle, bool) or not isinstance(self.angle, (int, float)):
            raise TypeError(f"angle is {self.angle!r}; it must be a number in [0, 1]")
        if not 0 <= self.angle <= 1:
            raise ValueError(f"angle is {self.angle}; it must be in [0, 1]")
        object.__setattr__(self, "angle", float(self.angle))
        check_seed(self.seed)

    @property
    def name(self) -> str:
        return f"rotation {number(self.angle)}" + (f" seed {self.seed}" if self.seed else "")

    def matrix(self, n_units: int) -> torch.Tensor:
        """Q^angle, float64 [C, C] on the CPU: Q = U diag(exp(i phi)) U*, Q^angle = U diag(exp(i angle phi)) U*."""
        if n_units < 1:
            raise ValueError(f"n_units is {n_units}; it must be at least 1")
        if self.angle == 0:
            return torch.eye(n_units, dtype=torch.float64)
        q, vectors, phi = _rotation(n_units, self.seed)
        if self.angle == 1:
            return q.clone()
        power = ((vectors * torch.polar(torch.ones_like(phi), self.angle * phi)) @ vectors.mH).real
        error = (power @ power.T - torch.eye(n_units, dtype=torch.float64)).abs().max().item()
        if not error <= _ORTHOGONAL:
            raise RuntimeError(f"{self} of {n_units} units is orthogonal to {error:.1e} only, not {_ORTHOGONAL:.0e}")
        return power.contiguous()


@lru_cache(maxsize=1)  # for several angles of one layer
def _rotation(n_units: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Q, uniform in SO(C), float64 [C, C]; its eigenvectors U, unitary, complex128 [C, C]; its angles phi, float64 [C].

    Of a Gaussian matrix's QR the factor Q is uniform in O(C) where R's diagonal is positive (Mezzadri, "How to generate
    random matrices from the classical compact groups", Notices of the AMS 2007). Of Q's eigenvectors the factor U is
    unitary also where eigenvalues are close; a normal matrix is diagonal in it.
    """
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(n_units, n_units, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    if torch.linalg.det(q) < 0:
        q[:, 0] *= -1
    vectors = torch.linalg.qr(torch.linalg.eig(q).eigenvectors).Q
    values = (vectors.conj() * (q.to(vectors.dtype) @ vectors)).sum(0)
    return q, vectors, values.angle()


class PerPosition:
    """See `per_position`."""

    def __init__(self, encoder: Callable[[torch.Tensor], torch.Tensor]):
        if not callable(encoder):
            raise TypeError(f"encoder is a {type(encoder).__name__}; it must be a callable of vectors [..., C]")
        self.encoder = encoder

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        return self.encoder(maps.movedim(1, -1).contiguous()).movedim(-1, 1)


def per_position(encoder: Callable[[torch.Tensor], torch.Tensor]) -> PerPosition:
    """An encoder of vectors, [..., C] -> [..., F], as a basis: it is applied at each position of the maps.

    So the features of a sparse autoencoder are dissected: `basis={"layer6": per_position(autoencoder.encode)}`.
    TypeError for an encoder that is not callable.
    """
    return PerPosition(encoder)


BasisItem: TypeAlias = "str | Rotation | Mapping[str, torch.Tensor | Callable[[torch.Tensor], torch.Tensor]]"


@dataclass(frozen=True, eq=False)
class Basis:
    """A basis of one layer: its name in the results, what exactly it is, and the maps in it.

    `identity` names the layer where the basis is not one that all layers have, and so tells runs apart.
    `transform` takes maps [B, C, h, w] and gives [B, F, h, w]; `module` is the one behind it, if any.
    """

    name: str
    identity: str
    transform: Callable[[torch.Tensor], torch.Tensor]
    module: nn.Module | None = None


UNITS = "units"


def bases_of(layers: Sequence[str], basis: BasisItem | Sequence[BasisItem]) -> dict[str, list[Basis]]:
    """Each layer's bases, in the order asked for; a mapping gives one to the layers that it names.

    Of a layer's matrices and callables with one name the second is called "NAME 2", and so on. TypeError or ValueError
    for what is no basis, and for layers without one.
    """
    items = list(basis) if isinstance(basis, Sequence) and not isinstance(basis, str) else [basis]
    made: dict[str, list[Basis]] = {layer: [] for layer in layers}
    named: Counter[tuple[str, str]] = Counter()
    for item in items:
        for layer, one in _bases_of_item(layers, item).items():
            if isinstance(item, Mapping):
                named[layer, one.name] += 1
                nth = named[layer, one.name]
                one = replace(one, name=f"{one.name} {nth}") if nth > 1 else one
            made[layer].append(one)
    without = [layer for layer, of_layer in made.items() if not of_layer]
    if without:
        raise ValueError(f"basis names none for the layer(s) {', '.join(without)}")
    return made


def _bases_of_item(layers: Sequence[str], item: BasisItem) -> dict[str, Basis]:
    """The basis that one item gives to each of the layers."""
    if isinstance(item, Mapping):
        unknown = [layer for layer in item if layer not in layers]
        if unknown:
            raise ValueError(f"basis names {unknown[0]!r}; layers has {', '.join(layers)}")
        return {layer: _own_basis(layer, value) for layer, value in item.items()}
    if isinstance(item, str) and item == UNITS:
        return {layer: Basis(UNITS, UNITS, lambda maps: maps) for layer in layers}
    rotation = Rotation() if isinstance(item, str) and item == "rotation" else item
    if not isinstance(rotation, Rotation):
        error, what = (ValueError, repr(item)) if isinstance(item, str) else (TypeError, f"a {type(item).__name__}")
        raise error(
            f"basis is {what}; it must be 'units', 'rotation', a Rotation, or a mapping of layers to matrices or "
            "callables"
        )
    return {layer: Basis(rotation.name, str(rotation), _Rotated(rotation)) for layer in layers}


def _own_basis(layer: str, value: torch.Tensor | Callable[[torch.Tensor], torch.Tensor]) -> Basis:
    """A matrix of directions, or a function of the maps."""
    if isinstance(value, torch.Tensor):
        directions = _Directions(layer, value)
        shape, dtype = list(value.shape), str(value.dtype).removeprefix("torch.")
        return Basis("directions", f"{layer}: {dtype} {shape} {_sha256({'': value})}", directions)
    if not callable(value):
        raise TypeError(
            f"basis has a {type(value).__name__} for {layer!r}; it must be a float matrix [n, C], or a callable that "
            "takes maps [B, C, h, w]"
        )
    function = value.encoder if isinstance(value, PerPosition) else value
    module = _module_behind(function)
    named = function if hasattr(function, "__qualname__") else type(function)
    identity = f"{layer}: {'per_position ' if function is not value else ''}{named.__module__}.{named.__qualname__}"
    if module is not None:
        identity += f" {_sha256(module.state_dict())}"
    return Basis(named.__name__, identity, _Features(value, module), module)


def _module_behind(function: Callable) -> nn.Module | None:
    """The module itself, or the one whose method it is."""
    owner = getattr(function, "__self__", function)
    return owner if isinstance(owner, nn.Module) else None


def _sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hash_tensor(digest, tensor, name)
    return digest.hexdigest()


class _Directions:
    """(D a)_k at each position: maps [B, C, h, w] -> [B, n, h, w], in float32 at least."""

    def __init__(self, layer: str, directions: torch.Tensor):
        if not directions.is_floating_point() or directions.dim() != 2 or not directions.numel():
            raise ValueError(
                f"basis has {directions.dtype} {list(directions.shape)} for {layer!r}; it must be a float matrix [n, C]"
            )
        if not directions.isfinite().all():
            raise ValueError(f"basis has a matrix for {layer!r} with values that are not finite")
        self._directions = directions.detach()

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        if self._directions.shape[1] != maps.shape[1]:
            raise ValueError(f"its directions have {self._directions.shape[1]} units; the layer has {maps.shape[1]}")
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        self._directions = self._directions.to(maps)
        with torch.autocast(maps.device.type, enabled=False):
            return (self._directions @ maps.flatten(2)).unflatten(2, maps.shape[2:])


class _Rotated:
    """(Q^angle a)_k at each position; an angle of 0 leaves the maps as they are, to the bit."""

    def __init__(self, rotation: Rotation):
        self._rotation, self._directions = rotation, None

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        if self._rotation.angle == 0:
            return maps
        if self._directions is None:
            self._directions = _Directions("", self._rotation.matrix(maps.shape[1]))
        return self._directions(maps)


class _Features:
    """What a callable makes of the maps; it gets a copy of its own, which it may write to."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], module: nn.Module | None):
        self._function, self._module = function, module

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        if self._module is not None:
            self._module.to(maps.device)
        features = self._function(maps.clone())
        if not isinstance(features, torch.Tensor) or features.dim() != 4 or features.shape[0] != maps.shape[0]:
            what = list(features.shape) if isinstance(features, torch.Tensor) else f"a {type(features).__name__}"
            raise ValueError(f"it gives {what} for maps {list(maps.shape)}; it must give maps [B, F, h, w]")
        return features.contiguous()


def number(value: float) -> str:
    """Short, and different for different numbers: 0.9, 1, 0.005."""
    short = f"{float(value):g}"
    return short if float(short) == float(value) else repr(float(value))
