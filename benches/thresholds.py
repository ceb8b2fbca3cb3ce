"""What exact thresholds and what is kept of activations cost: `python -m benches.thresholds [--quick]`.

1. The kernels `top_quantile_update`, `mark_cells`, `take_cells` and `put_cells`, and `pack_cells` and `unpack_cells`
   made of them, against plain torch.
2. `TopQuantile.update` over a whole run of Broden's size, against a read of the activations.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
from functools import partial

import torch
import torch.nn.functional as F

from netinterp_fast import TopQuantile, ops
from netinterp_fast.backends import run_op

from . import suite, work
from .dissect import exact_thresholds, smooth_activations
from .family import Part, Setting
from .kernels import Kernel, measure
from .timing import seconds_of

SIZES = ((32, 512, 7), (32, 512, 14), (32, 256, 28))  # images, units, side
KEPT = 400  # values a unit that the streaming quantile holds here
RUN_IMAGES, RUN_UNITS, RUN_SIDE, BATCH, READ_AIM = 63_296, 512, 14, 32, 0.33


# 1. the kernels


def quantile_kernel(acts: torch.Tensor, kept: int = KEPT) -> Kernel:
    """In the middle of a run: each unit holds `kept` values, and of a batch one in 200 is above the least of them."""
    units, device = acts.shape[1], acts.device
    bound = exact_thresholds(acts)
    held = bound[:, None] + torch.rand(units, kept, device=device)
    buffer = torch.cat([held, held.new_zeros(units, kept)], 1)
    count = torch.full((units,), kept, device=device)
    level, full = bound.clone(), count.clone()

    def run(acts, buffer, count, bound):
        count.copy_(full)
        bound.copy_(level)
        return ops.top_quantile_update(acts, kept, buffer, count, bound)

    def by_topk(acts, buffer, count, bound):
        values = torch.cat([buffer[:, :kept], acts.transpose(0, 1).flatten(1)], 1)
        return acts.amax((2, 3)), values.topk(kept, 1).values

    def by_selection(acts, buffer, count, bound):
        values = acts.transpose(0, 1).flatten(1)
        above = values > bound[:, None]
        return acts.amax((2, 3)), above.nonzero()[:, 0], values[above]

    def outcome(tensors, result):
        """The maxima, and each unit's largest values."""
        _, buffer, count, _ = tensors
        if isinstance(result, torch.Tensor):
            return result, _largest([row[:n] for row, n in zip(buffer, count.tolist(), strict=True)], kept)
        maxima, *found = result
        if len(found) == 1:
            return maxima, _largest(list(found[0]), kept)
        unit, values = found
        return maxima, _largest([torch.cat([row[:kept], values[unit == i]]) for i, row in enumerate(buffer)], kept)

    return Kernel(
        "top_quantile_update", _size(acts), (acts, buffer, count, bound), run,
        work.of_quantile_update(acts, bound, acts.new_empty(acts.shape[:2])),
        {"topk": by_topk, "compare and select": by_selection}, outcome=outcome, shape=_shape(acts),
    )  # fmt: skip


def _largest(rows: list[torch.Tensor], n: int) -> torch.Tensor:
    return torch.stack([row.topk(n).values for row in rows])


def mark_kernel(acts: torch.Tensor) -> Kernel:
    levels = exact_thresholds(acts)

    def run(acts, levels):
        return run_op("mark_cells", acts.device, acts, levels, False)

    return Kernel(
        "mark_cells", _size(acts), (acts, levels), run, work.of_mark_cells(acts, levels, *run(acts, levels)),
        {"max_pool2d": pooled_marks}, shape=_shape(acts),
    )  # fmt: skip


def pooled_marks(acts: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    near = F.max_pool2d(acts, 3, stride=1, padding=1) > levels[:, None, None]
    by_byte = F.pad(near, (0, -near.shape[3] % 8)).unflatten(3, (-1, 8))
    places = torch.arange(8, dtype=torch.uint8, device=acts.device)
    return (by_byte.to(torch.uint8) << places).sum(4, dtype=torch.uint8), near.sum((2, 3), dtype=torch.int32)


def take_kernel(acts: torch.Tensor) -> Kernel:
    planes, bits, starts, index, n_values = _marked(acts)

    def run(acts, planes, bits, starts, index):
        return run_op("take_cells", acts.device, acts, planes, bits, starts, n_values)

    def by_index(acts, planes, bits, starts, index):
        return acts.view(-1)[index]

    tensors = (acts, planes, bits, starts, index)
    work_of = work.of_take_cells(planes, bits, run(*tensors))
    plain = {"index": by_index, "take": lambda *t: t[0].take(t[4])}
    return Kernel("take_cells", _size(acts), tensors, run, work_of, plain, shape=_shape(acts))


def put_kernel(acts: torch.Tensor) -> Kernel:
    planes, bits, starts, index, _ = _marked(acts)
    values, (n_images, n_units, _, width) = acts.take(index), acts.shape

    def run(values, planes, bits, starts, index):
        return run_op("put_cells", values.device, values, planes, bits, starts, n_images, n_units, width)

    def by_index(values, planes, bits, starts, index):
        maps = torch.full_like(acts, float("-inf"))
        maps.view(-1)[index] = values
        return maps

    def by_scatter(values, planes, bits, starts, index):
        return torch.full_like(acts, float("-inf")).view(-1).scatter_(0, index, values).view_as(acts)

    tensors = (values, planes, bits, starts, index)
    plain = {"index": by_index, "scatter": by_scatter}
    work_of = work.of_put_cells(planes, bits, values, acts)
    return Kernel("put_cells", _size(acts), tensors, run, work_of, plain, shape=_shape(acts))


def _marked(acts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """What `take_cells` gets of maps marked at the thresholds, and the same as indices of values, for plain torch."""
    levels = exact_thresholds(acts)
    bits, counts = run_op("mark_cells", acts.device, acts, levels, False)
    planes = counts.flatten().nonzero()[:, 0]
    ends = counts.flatten()[planes].cumsum(0, dtype=torch.int64)
    starts = ends - counts.flatten()[planes]
    near = F.max_pool2d(acts, 3, stride=1, padding=1) > levels[:, None, None]
    return planes, bits.flatten(0, 1)[planes], starts, near.flatten().nonzero()[:, 0], int(ends[-1])


def pack_kernel(acts: torch.Tensor) -> Kernel:
    levels = exact_thresholds(acts)

    def by_pooling(acts, levels):
        bits, counts = pooled_marks(acts, levels)
        planes = counts.flatten().nonzero()[:, 0]
        near = (F.max_pool2d(acts, 3, stride=1, padding=1) > levels[:, None, None]).flatten(0, 1)[planes]
        return planes.int(), counts.flatten()[planes], bits.flatten(0, 1)[planes], acts.flatten(0, 1)[planes][near]

    return Kernel(
        "pack_cells", _size(acts), (acts, levels), ops.pack_cells,
        work.of_pack_cells(acts, levels, ops.pack_cells(acts, levels)),
        {"max_pool2d and masks": by_pooling}, outcome=lambda tensors, packed: packed[:4], shape=_shape(acts),
        raw_ops=("mark_cells", "take_cells"),
    )  # fmt: skip


def unpack_kernel(acts: torch.Tensor) -> Kernel:
    packed = ops.pack_cells(acts, exact_thresholds(acts))

    def run(*parts):
        return ops.unpack_cells(ops.PackedCells(*parts, packed.shape))

    work_of = work.of_put_cells(packed.planes, packed.bits, packed.values, acts)
    return Kernel("unpack_cells", _size(acts), packed[:4], run, work_of, shape=_shape(acts), raw_ops=("put_cells",))


def _size(acts: torch.Tensor) -> str:
    n_images, n_units, h, w = acts.shape
    return f"{n_images}x {n_units} units {h}x{w}"


def _shape(acts: torch.Tensor) -> dict[str, int]:
    return {"images": acts.shape[0], "units": acts.shape[1], "coarse": acts.shape[2]}


KERNELS = (quantile_kernel, mark_kernel, take_kernel, put_kernel, pack_kernel, unpack_kernel)


def kernels(setting: Setting) -> list[dict]:
    rows = []
    for n_images, n_units, side in SIZES:
        acts = smooth_activations(n_images * setting.larger, n_units, side).to(setting.device)
        rows += [measure(kernel(acts), setting) for kernel in KERNELS]
    return rows


# 2. a whole run


def whole_run(setting: Setting) -> dict:
    """TopQuantile over 63,296 images of 14x14, against reading as many activations from memory."""
    acts = [smooth_activations(BATCH, RUN_UNITS, RUN_SIDE).to(setting.device) for _ in range(12)]
    shares, n_batches = [], RUN_IMAGES // BATCH
    for _ in range(1 if setting.quick else 3):
        top = TopQuantile(RUN_UNITS, 0.005, RUN_IMAGES * RUN_SIDE**2, device=setting.device)
        update = read = 0.0
        for batch in itertools.islice(itertools.cycle(acts), n_batches):
            batch.mul_(random.uniform(0.99, 1.01))  # no two batches alike, and each out of the way of the next
            another = acts[random.randrange(len(acts))]
            read += seconds_of(another.sum, setting.device)
            update += seconds_of(partial(top.update, batch), setting.device)
        shares.append(read / update)
    share = statistics.median(shares)
    print(f"TopQuantile.update: {share:.2f} of the speed of one read of the activations (asked {READ_AIM})", flush=True)
    return {"share_of_read_speed": share, "asked": READ_AIM, "update_ms": 1e3 * update / RUN_IMAGES}


PARTS = {"kernels": Part(kernels), "top_quantile": Part(whole_run)}


if __name__ == "__main__":
    suite.main(["thresholds", *sys.argv[1:]])
