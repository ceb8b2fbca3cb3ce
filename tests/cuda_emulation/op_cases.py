"""Adversarial inputs for the ops' CUDA kernels, as arguments of the raw ops on the CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch

from netinterp_fast import _library
from netinterp_fast.ops._grid import Placement, aligned_corners, half_pixel

INF = float("inf")
LABEL_DTYPES = {
    torch.uint8: 200,
    torch.int16: 30_000,
    torch.uint16: 65_536,
    torch.int32: 70_000,
    torch.int64: 70_000,
}


class Overlap(NamedTuple):
    """The arguments of `unit_concept_overlap`, in order."""

    acts: torch.Tensor
    thresholds: torch.Tensor
    labels: torch.Tensor
    image_labels: torch.Tensor
    n_concepts: int
    inclusive: bool
    scale_y: float
    scale_x: float
    offset_y: float
    offset_x: float
    intersection: torch.Tensor


def overlap_case(
    *,
    images=2,
    units=5,
    coarse=(7, 7),
    size=(28, 28),
    layers=3,
    image_labels=2,
    n_concepts=12,
    label_dtype=torch.int64,
    act_dtype=torch.float32,
    acts=None,
    thresholds=None,
    inclusive=False,
    placement=None,
    seed=0,
) -> Overlap:
    """Activations and thresholds are multiples of 1/4: ties abound, and every dtype holds them exactly.

    Few distinct ids, among them 0 and the largest: the same id meets in layers, in image labels, and in both.
    """
    random = torch.Generator().manual_seed(seed)

    def integers(low, high, shape):
        return torch.randint(low, high, shape, generator=random)

    if acts is None:
        acts = integers(-6, 7, (images, units, *coarse)) / 4
    if thresholds is None:
        thresholds = integers(-1, 5, (units,)) / 4
    palette = torch.cat([torch.tensor([0, n_concepts - 1]), integers(0, n_concepts, (4,))])
    placement = placement or half_pixel(coarse, size)
    return Overlap(
        acts.to(act_dtype),
        thresholds,
        palette[integers(0, 6, (images, layers, *size))].to(label_dtype),
        palette[integers(0, 6, (images, image_labels))],
        n_concepts,
        inclusive,
        *placement,
        integers(0, 9, (units, n_concepts)),
    )


def random_overlap_case(seed: int) -> Overlap:
    """A case of random shapes, dtypes and placement."""
    random = torch.Generator().manual_seed(seed)

    def one_of(*values):
        return values[int(torch.randint(len(values), (), generator=random))]

    label_dtype = one_of(*LABEL_DTYPES)
    coarse = (one_of(1, 2, 3, 6, 7, 13), one_of(1, 2, 4, 7, 17))
    size = (one_of(1, 3, 14, 29), one_of(2, 7, 31, 40))
    scales, offsets = (0.4, 2.5, 9.1), (-7.7, 0.0, 3.2, 21.0)
    odd = Placement(one_of(*scales), one_of(*scales), one_of(*offsets), one_of(*offsets))
    return overlap_case(
        images=one_of(1, 2, 3),
        units=one_of(1, 4, 9),
        coarse=coarse,
        size=size,
        layers=one_of(1, 2, 4),
        image_labels=one_of(0, 1, 3),
        n_concepts=one_of(2, 7, LABEL_DTYPES[label_dtype]),
        label_dtype=label_dtype,
        act_dtype=one_of(torch.float32, torch.float16, torch.bfloat16),
        inclusive=one_of(False, True),
        placement=one_of(half_pixel(coarse, size), aligned_corners(coarse, size), odd),
        seed=seed,
    )


def _with_bad(case: Overlap, labels=(), image_labels=()) -> Overlap:
    for index, value in labels:
        case.labels.view(-1)[index] = value
    for index, value in image_labels:
        case.image_labels.view(-1)[index] = value
    return case


def _not_finite() -> torch.Tensor:
    acts = torch.randint(-6, 7, (2, 5, 7, 7), generator=torch.Generator().manual_seed(1)) / 4
    acts[0, 0, 2, 3], acts[0, 1, 6, 6], acts[1, 2, 0, 0] = float("nan"), INF, -INF
    return acts


def overlap_cases() -> dict[str, Overlap]:
    case = overlap_case
    random = torch.Generator().manual_seed(2)
    gaussian = torch.randn(2, 40, 7, 7, generator=random)
    high = gaussian.amax((0, 2, 3)) * 0.8
    plateau = {"acts": torch.full((2, 5, 7, 7), 6.0), "thresholds": torch.full((5,), 6.0)}
    signed_inf = torch.tensor([INF, -INF, 0.0, -0.0, 1.25])
    return {
        "typical": case(),
        "real values": case(units=40, acts=gaussian, thresholds=high, size=(56, 56)),
        "threshold 0": case(thresholds=torch.zeros(5)),
        "infinite thresholds": case(thresholds=signed_inf),
        "infinite thresholds, inclusive": case(thresholds=signed_inf, inclusive=True),
        "all lit": case(thresholds=torch.full((5,), -INF), inclusive=True),
        "plateau at the threshold": case(**plateau),
        "plateau, inclusive": case(**plateau, inclusive=True),
        "inclusive": case(inclusive=True, seed=3),
        "not finite": case(acts=_not_finite()),
        "dead units": case(acts=torch.zeros(2, 5, 7, 7), thresholds=torch.zeros(5)),
        "1x1 maps": case(coarse=(1, 1), size=(9, 9)),
        "1x1 maps, 1x1 mask": case(coarse=(1, 1), size=(1, 1)),
        "map larger than the mask": case(coarse=(13, 9), size=(5, 4), units=9),
        "map as large as the mask": case(coarse=(11, 11), size=(11, 11)),
        "one row": case(coarse=(1, 9), size=(20, 31)),
        "not square": case(coarse=(5, 3), size=(17, 40)),
        "one large cell": case(coarse=(2, 2), size=(64, 70), units=2),
        "strips and blocks of rows": case(coarse=(2, 2), size=(150, 100), units=2, images=1),
        "strips, wide ids": case(
            coarse=(2, 2), size=(70, 100), units=2, images=1, n_concepts=70_000, label_dtype=torch.int32
        ),
        "aligned corners": case(placement=aligned_corners((7, 7), (28, 28))),
        "receptive field": case(placement=Placement(3.7, 5.1, -5.3, 8.25)),
        "grid left of the mask": case(placement=Placement(2.0, 2.0, -100.0, -100.0)),
        "grid right of the mask": case(placement=Placement(2.0, 2.0, 100.0, 100.0)),
        "cells wider than the mask": case(placement=Placement(1000.0, 1000.0, 3.0, -4.0)),
        "cells far below a pixel": case(placement=Placement(1e-3, 1e-3, 14.0, 14.0)),
        "one concept": case(n_concepts=1),
        "many layers": case(layers=9, image_labels=40, n_concepts=300, coarse=(4, 4), size=(12, 12)),
        "no images": case(images=0),
        "no units": case(units=0),
        "no layers": case(layers=0),
        "no image labels": case(image_labels=0),
        "no labels at all": case(layers=0, image_labels=0),
        "negative id": _with_bad(case(), labels=[(901, -1), (33, -7)]),
        "id equal to K": _with_bad(case(), labels=[(4703, 12)]),
        "bad image label": _with_bad(case(), image_labels=[(3, 12), (1, -1)]),
        "bad ids in both": _with_bad(case(), labels=[(0, 1 << 40)], image_labels=[(0, 1 << 32)]),
        **{
            f"labels {dtype}": case(label_dtype=dtype, n_concepts=n, size=(20, 20), seed=4)
            for dtype, n in LABEL_DTYPES.items()
        },
        **{f"acts {dtype}": case(act_dtype=dtype, seed=5) for dtype in (torch.float16, torch.bfloat16)},
    }


def fresh(case: Overlap) -> Overlap:
    """The same case with its own tally to add to."""
    return case._replace(intersection=case.intersection.clone())


class QuantileState(NamedTuple):
    """What `top_quantile_update` changes."""

    buffer: torch.Tensor
    count: torch.Tensor
    bound: torch.Tensor

    @classmethod
    def empty(cls, units: int, keep: int) -> QuantileState:
        nan = torch.full((units, 2 * keep), float("nan"))  # never to be read
        return cls(nan, torch.zeros(units, dtype=torch.int64), torch.full((units,), -INF))

    def clone(self) -> QuantileState:
        return QuantileState(*(tensor.clone() for tensor in self))

    def largest(self, keep: int) -> list[list[float]]:
        """Each unit's `keep` largest held values in descending order, all of them where it holds fewer."""
        held = (row[:n] for row, n in zip(self.buffer.cpu(), self.count.tolist(), strict=True))
        return [values.sort(descending=True).values[:keep].tolist() for values in held]


class QuantileRun(NamedTuple):
    keep: int
    batches: list[torch.Tensor]  # each [B, C, h, w]


def quantile_runs() -> dict[str, QuantileRun]:
    random = torch.Generator().manual_seed(6)

    def gaussian(*shape):
        return torch.randn(*shape, generator=random)

    def integers(low, high, *shape):
        return torch.randint(low, high, shape, generator=random).float()

    infinite = integers(-1, 2, 3, 3, 5, 5)
    infinite[infinite == 1] = INF
    infinite[infinite == -1] = -INF
    signed_zeros = integers(0, 3, 2, 3, 6, 6) - 1.0
    signed_zeros[:, :, ::2] *= -0.0
    extreme = torch.tensor([3.4e38, -3.4e38, 1e-45, -1e-45, 0.0]).repeat(5).view(1, 1, 5, 5)
    rising = torch.arange(5 * 2 * 3 * 40, dtype=torch.float32).view(5, 2, 3, 8, 5)
    return {
        "fill phase only": QuantileRun(500, [gaussian(2, 3, 7, 7) for _ in range(3)]),
        "many cuts": QuantileRun(20, [gaussian(3, 4, 7, 7) for _ in range(6)]),
        "keep 1": QuantileRun(1, [gaussian(2, 3, 4, 4) for _ in range(4)]),
        "planes larger than a block": QuantileRun(37, [gaussian(2, 2, 30, 19) for _ in range(3)]),
        "buffer larger than a block": QuantileRun(200, [gaussian(3, 2, 20, 20) for _ in range(2)]),
        "1x1 maps": QuantileRun(3, [gaussian(9, 5, 1, 1) for _ in range(3)]),
        "every value new": QuantileRun(7, list(rising)),
        "falling": QuantileRun(7, list(rising.flip(0, 1, 3, 4))),
        "ties": QuantileRun(30, [integers(0, 3, 3, 3, 7, 7) for _ in range(4)]),
        "all equal": QuantileRun(10, [torch.full((2, 3, 5, 5), 2.5)] * 3),
        "infinite values": QuantileRun(20, [infinite, infinite.flip(0), infinite]),
        "-inf alone": QuantileRun(4, [torch.full((2, 2, 5, 5), -INF), torch.zeros(1, 2, 2, 2)]),
        "signed zeros": QuantileRun(9, [signed_zeros, -signed_zeros]),
        "largest and smallest numbers": QuantileRun(5, [extreme, extreme]),
        "no images": QuantileRun(4, [gaussian(0, 3, 5, 5), gaussian(2, 3, 5, 5)]),
        "float16": QuantileRun(20, [gaussian(3, 4, 7, 7).half() for _ in range(3)]),
        "bfloat16": QuantileRun(20, [gaussian(3, 4, 7, 7).bfloat16() for _ in range(3)]),
    }


CELL_WIDTHS = (1, 7, 8, 9, 14, 31, 32, 33, 40, 54, 63, 64, 65, 70)
CELL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Marking(NamedTuple):
    """The arguments of `mark_cells`, in order."""

    acts: torch.Tensor
    levels: torch.Tensor
    inclusive: bool = False


class Marks(NamedTuple):
    """Arguments of `take_cells` and `put_cells`: which values of which maps."""

    planes: torch.Tensor
    bits: torch.Tensor
    starts: torch.Tensor
    n_values: int

    @classmethod
    def of(cls, case: Marking) -> Marks:
        bits, counts = _library.reference("mark_cells")(*case)
        planes = counts.flatten().nonzero()[:, 0]
        ends = counts.flatten()[planes].cumsum(0)
        starts = ends - counts.flatten()[planes]
        return cls(planes, bits.flatten(0, 1)[planes], starts, int(counts.sum()))

    def with_spare_bits(self, width: int) -> Marks:
        """The same values, with every bit set that belongs to no column."""
        bits = self.bits.clone()
        bits[..., -1] |= (0xFF << ((width - 1) % 8 + 1)) & 0xFF
        return self._replace(bits=bits)


def cell_case(height=5, width=14, images=2, units=3, inclusive=False, seed=0) -> Marking:
    """Multiples of 1/4 up to 10, which every dtype holds exactly, of which one in 41 is above the level or ties it."""
    random = torch.Generator().manual_seed(seed)
    acts = torch.randint(0, 41, (images, units, height, width), generator=random) / 4
    levels = torch.full((units,), 10.0 if inclusive else 9.75)
    return Marking(acts, levels, inclusive)


def _one_above(height: int, width: int) -> Marking:
    """A map for each place, with one value above the level there."""
    n = height * width
    return Marking(torch.eye(n).view(n, 1, height, width), torch.zeros(1))


def cell_cases(dtype: torch.dtype = torch.float32) -> dict[str, Marking]:
    case, specials = cell_case, torch.tensor([INF, -INF, float("nan"), 0.0, 9.75])
    infinite = case(width=35, units=5)
    random = torch.Generator().manual_seed(8)
    infinite.acts.view(-1)[torch.randperm(1750, generator=random)[:300]] = specials[:3].repeat(100)
    bright = [torch.full((2, 3, 4, 11), 10.0), torch.full((3,), 9.75)]
    cases = {
        **{f"width {w}": case(width=w, images=9, seed=w) for w in CELL_WIDTHS},
        **{f"width {w}, inclusive": case(width=w, images=9, inclusive=True, seed=w) for w in CELL_WIDTHS},
        **{f"height {h}": case(height=h, width=37) for h in (1, 2, 3, 29)},
        "1x1 maps": case(height=1, width=1, images=9, units=7),
        "one column": case(height=41, width=1),
        **{f"one above of {h} x {w}": _one_above(h, w) for h, w in ((1, 1), (1, 33), (3, 9), (2, 65))},
        "many maps": case(height=3, width=4, images=3, units=200),
        "infinite values and NaN": infinite._replace(levels=torch.full((5,), 9.75)),
        "infinite values and NaN, inclusive": Marking(infinite.acts, torch.full((5,), 10.0), True),
        "levels infinite and NaN": infinite._replace(levels=specials),
        "levels infinite and NaN, inclusive": Marking(infinite.acts, specials, True),
        "ties alone": case()._replace(levels=torch.full((3,), 10.0)),
        "all dark": Marking(bright[0] - 1, bright[1]),
        "all lit": Marking(*bright),
        "signed zeros": Marking(torch.tensor([-0.0, 0.0]).repeat(11).view(1, 1, 2, 11), torch.zeros(1), True),
        "a level for each unit": case()._replace(levels=torch.tensor([9.0, 20.0, 9.75])),
        "no images": case(images=0),
        "no units": case(units=0),
    }
    return {name: marking._replace(acts=marking.acts.to(dtype)) for name, marking in cases.items()}


RELEVANCE_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
RELEVANCE_OPS = ("stabilized_ratio", "product_ratio", "relu_gate")


class Relevance(NamedTuple):
    """The arguments of `product_ratio`, in order; the other ops of `ops.relevance` take two of the tensors."""

    x: torch.Tensor
    grad: torch.Tensor
    z: torch.Tensor
    epsilon: float

    def of(self, op: str) -> tuple:
        tensors = {"stabilized_ratio": (self.grad, self.z), "product_ratio": self[:3], "relu_gate": (self.grad, self.z)}
        return (*tensors[op], self.epsilon)


def relevance_cases(dtype: torch.dtype) -> dict[str, Relevance]:
    random = torch.Generator().manual_seed(7)
    limits = torch.finfo(dtype)

    def gaussian(*shape, epsilon=1e-6, scale=1.0):
        x, grad, z = (torch.randn(3, *shape, generator=random, dtype=torch.float64) * scale).to(dtype)
        return Relevance(x, grad, z, epsilon)

    def like_relu(case):
        return case._replace(z=case.z.clamp(min=0))

    numbers = [0.0, 1e-6, 0.1, 1.0, 3.0, limits.max, limits.tiny, limits.smallest_normal / 4, INF]
    specials = torch.tensor([*numbers, *(-number for number in numbers), float("nan")], dtype=dtype)
    special = Relevance(*(t.flatten() for t in torch.meshgrid([specials] * 3, indexing="ij")), 1e-6)
    large = gaussian(5003)
    return {
        "typical": gaussian(2, 3, 7, 5),
        "of a ReLU": like_relu(gaussian(2, 3, 7, 5)),
        "of a ReLU, epsilon 0": like_relu(gaussian(2, 3, 7, 5, epsilon=0.0)),
        "no dimensions": gaussian(),
        "one value": gaussian(1, 1),
        "empty": gaussian(3, 0, 2),
        "five dimensions": gaussian(2, 1, 3, 2, 4),
        **{f"{n} values": gaussian(n) for n in (2, 7, 8, 9, 31, 63, 65)},
        "more than a grid": large,
        "not aligned": Relevance(large.x[1:], large.grad[1:].clone(), large.z[1:], 1e-6),
        "channels last": Relevance(*(t.to(memory_format=torch.channels_last) for t in gaussian(2, 3, 5, 4)[:3]), 1e-6),
        "specials": special,
        **{f"specials, epsilon {e}": special._replace(epsilon=e) for e in (0.0, 0.1, 1e-45, 3e38)},
        "epsilon 1": gaussian(300, epsilon=1),
        "epsilon that float32 rounds": gaussian(3000, epsilon=0.1, scale=0.03),
        "small values": gaussian(3000, epsilon=1e-7, scale=1e-6),
    }


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal dtype, shape and values, the zeros' signs too; one NaN is as good as another."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    bits = [torch.where(t.isnan(), torch.nan, t).contiguous().view(whole) for t in (a, b)]
    return a.dtype == b.dtype and torch.equal(*bits)
