"""Unit ablation: which classes a network still recognises without some of its units."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .._layers import check_layers, evaluating
from .._numbers import check_counts
from ..interpose import CannotResumeError, Resumable, changed_output
from .ablation_results import Ablation

_AT_ONCE = {"cpu": 2**22, "cuda": 2**29}  # bytes of the layer's output in all copies; on the CPU, what fits the caches
_AGREE = 1e-3  # of the largest output: the same numbers, summed in another order
_ATTEMPTS = 2  # batches; a model may prepare something in the first and keep it

Units = Sequence[int | Sequence[int]]


@torch.inference_mode(False)
@torch.no_grad()
def unit_ablation(
    model: torch.nn.Module,
    data: Iterable[tuple[torch.Tensor, torch.Tensor]] | Dataset,
    layer: str,
    *,
    units: Units | None = None,
    value: float | torch.Tensor = 0.0,
    dim: int | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    copies: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Ablation:
    """How each class's accuracy changes without a unit, or without several at once (Zhou, Sun, Bau and Torralba,
    "Revisiting the importance of individual units in CNNs via ablation", 2018; Bau et al., "Understanding the role of
    individual units in a deep neural network", PNAS 2020).

    What comes before the layer runs once a batch. What comes behind it runs on many copies of the batch at once, with
    another set of units ablated in each; what bypasses the layer is shared by the copies. The model may be any: its own
    code runs again from the layer's output on. Where that is not possible (it decides by values behind the layer, has
    autograd functions of its own there, changes in place what bypasses the layer, is compiled ...), a warning says
    why, and the whole model runs once a set: slower, the same counts.

    An image counts as correct where the output of its class is the largest; of several that are equal, the first is.
    As sums of floats depend a little on how many rows are summed at once, a prediction that hangs on their last bits
    may differ from that of the model run on one image.

    Args:
        model: any `nn.Module` from images to class outputs [B, K]; it is run in eval mode and left as it was. Its
            hooks, if it has any, see tensors without values in the passes that go on from the layer.
        data: batches (images float [B, ...], classes int [B]), as a `DataLoader` gives them; or a `Dataset` of
            (image, class). It is read once.
        layer: name of a module (as in `model.named_modules()`) whose output is [B, C], or [B, C, h, w] with a map for
            each of C units. Where it runs several times in a forward pass, the units are ablated each time. What the
            model does with the layer's output counts; if that is one of its inputs, changed in place, then the model
            sees the change, but not the ablation, through the input.
        units: what to ablate: a list whose items are a unit, or several to ablate together. None: each unit alone.
        value: what an ablated unit gives, everywhere: one number, or a tensor [C], such as the units' means.
        dim: the dimension of the layer's output that holds the units; None: 1. For outputs of three dimensions it must
            be given: 1 for [B, C, length], 2 for tokens [B, T, C].
        classes: K names; None: "0", "1" ...
        batch_size, num_workers: how a `Dataset` is loaded.
        copies: how many copies of a batch run at once behind the layer: memory is about that of so many batches from
            there on. None: as many as make 4 MiB of the layer's output (512 MiB on CUDA), at least one.
        device: where the model runs; None leaves it where it is.
        progress: show a progress bar.

    Returns:
        An `Ablation`: int64 counts by class, from which the accuracies and their drops follow.

    Raises:
        TypeError, ValueError: for an unknown layer (naming near matches), units, classes or data that do not fit,
            outputs that are not [B, K], NaN in them, and a layer whose output the model does not use.
    """
    [layer] = check_layers(model, [layer])
    check_counts(batch_size=batch_size)
    check_counts(0, num_workers=num_workers)
    if copies is not None:
        check_counts(copies=copies)
    if not isinstance(data, Iterable | Dataset):
        raise TypeError(f"data is a {type(data).__name__}; it must be a Dataset, or batches (images, classes)")
    device = torch.device(device) if device is not None else next(model.parameters(), torch.empty(0)).device
    run = _Run(model.to(device), layer, None if units is None else _checked_sets(units), value, dim, copies)
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size, num_workers=num_workers)
    done = 0
    with evaluating(model), tqdm(desc=f"without units of {layer}", unit="img", disable=not progress) as bar:
        for images, labels in map(_checked_batch, data):
            if len(images):
                run.add(done, images.to(device), labels.to(device))
                done += len(images)
                bar.update(len(images))
    if not done:
        raise ValueError("data has no images")
    return run.result(classes)


class _Run:
    """The counts of the batches added so far."""

    def __init__(
        self,
        model: torch.nn.Module,
        layer: str,
        sets: list[tuple[int, ...]] | None,
        value: float | torch.Tensor,
        dim: int | None,
        copies: int | None,
    ):
        self._model, self._layer, self._sets, self._copies = model, layer, sets, copies
        self._value, self._dim = value, dim
        self._attempts, self._refusal, self._compared = _ATTEMPTS, None, False
        if any(hasattr(module, "_orig_mod") for module in model.modules()):
            self._attempts, self._refusal = 0, "it is compiled"
        self._change: _Change | None = None  # once the layer's output was seen
        self._images: torch.Tensor | int = 0  # int64 [K]
        self._correct: torch.Tensor | int = 0  # int64 [1 + n_sets, K]

    def add(self, first: int, images: torch.Tensor, labels: torch.Tensor) -> None:
        """A batch: the number of its first image, images [B, ...] and labels int64 [B], on the device."""
        correct = self._resumed(first, images, labels) if self._attempts else None
        if correct is None:
            correct = self._counted(first, _Whole(self._model, self._layer, images), labels)
            self._warn()
        self._images = self._images + torch.bincount(labels, minlength=correct.shape[1])
        self._correct = self._correct + correct

    def result(self, classes: Sequence[str] | None) -> Ablation:
        n_classes = len(self._images)
        names = [str(i) for i in range(n_classes)] if classes is None else [str(name) for name in classes]
        if len(names) != n_classes:
            raise ValueError(f"classes has {len(names)} names; the model has {n_classes} outputs")
        correct = self._correct.cpu()
        return Ablation(self._layer, self._sets, names, self._images.cpu(), correct[0], correct[1:])

    def _resumed(self, first: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | None:
        """As `_counted`, going on from the layer's output; None where that fails."""
        try:
            if not self._compared:
                self._compare(images[:2])
                self._compared = True
            return self._counted(first, _Resumed(self._model, self._layer, images), labels)
        except (torch.OutOfMemoryError, _UnusedError):
            raise
        except Exception as error:  # whatever a model raises that can not run so; any other fault shows again
            self._attempts, self._refusal = self._attempts - 1, error
            return None

    def _warn(self) -> None:
        if self._refusal is not None:
            warnings.warn(
                f"the model can not go on from the output of {self._layer!r} ({self._refusal}); it is run as a whole "
                "for each set of units",
                stacklevel=6,  # the caller of unit_ablation
            )
            self._refusal = None

    def _counted(self, first: int, passes: _Resumed | _Whole, labels: torch.Tensor) -> torch.Tensor:
        """int64 [1 + n_sets, K]: how many images of each class are correct, with all units and without each set."""
        if self._change is None:
            self._prepare(passes)
        bad = ((labels < 0) | (labels >= passes.output.shape[1])).nonzero()
        if len(bad):
            i, n_classes = int(bad[0]), passes.output.shape[1]
            raise ValueError(f"image {first + i} has the class {int(labels[i])}; the model has {n_classes} outputs")
        at_once = self._copies or max(1, _AT_ONCE.get(labels.device.type, 2**22) // max(passes.layer_output.nbytes, 1))
        shares = (passes.without(self._change, masks) for masks in self._masks.split(at_once))
        return torch.cat([_correct(outputs, labels, first) for outputs in (passes.output[None], *shares)])

    def _prepare(self, passes: _Resumed | _Whole) -> None:
        """What depends on the layer's output."""
        output = passes.layer_output
        dim = _checked_dim(self._dim, output, self._layer)
        n_units = output.shape[dim]
        self._sets = [(unit,) for unit in range(n_units)] if self._sets is None else self._sets
        self._masks = _masks(self._sets, n_units).to(output.device)
        self._change = _Change(_checked_value(self._value, n_units).to(output), dim)

    def _compare(self, images: torch.Tensor) -> None:
        """CannotResumeError unless going on gives the outputs that the whole model has."""
        resumed, whole = _Resumed(self._model, self._layer, images), _Whole(self._model, self._layer, images)
        self._prepare(resumed)
        found, expected = (passes.without(self._change, self._masks[:1]) for passes in (resumed, whole))
        scale = expected.abs().nan_to_num(0, 0, 0).amax().item()
        if not torch.allclose(found, expected, rtol=_AGREE, atol=_AGREE * scale, equal_nan=True):
            raise CannotResumeError("its outputs are others then")


class _Change(NamedTuple):
    """What an ablation does: value, [C], stands in the place of some units along dimension dim."""

    value: torch.Tensor
    dim: int

    def __call__(self, output: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """A layer's output without the units where `mask`, bool [C], is True."""
        shape = [1] * output.dim()
        shape[self.dim] = -1
        return torch.where(mask.view(shape), self.value.view(shape), output)


class _UnusedError(ValueError):
    """The model does not use the layer's output."""


class _Resumed:
    """A model on a batch; the passes without units go on from the layer's output, all at once."""

    def __init__(self, model: torch.nn.Module, layer: str, images: torch.Tensor):
        self._layer, self._start = layer, Resumable(model, layer, images)
        self.output, self.layer_output = _checked_output(self._start.output, images), self._start.layer_output
        self._images = images

    def without(self, change: _Change, masks: torch.Tensor) -> torch.Tensor:
        """Outputs [n, B, K] without the units of each mask, bool [n, C]."""

        def one(mask: torch.Tensor) -> torch.Tensor:
            output = _checked_output(self._start.resume(lambda acts: change(acts, mask)), self._images)
            if not torch._C._functorch.is_batchedtensor(output):  # the same for all masks
                raise _UnusedError(
                    f"layer is {self._layer!r}; the model's output does not depend on what that layer returns"
                )
            return output

        return torch.vmap(one)(masks)


class _Whole:
    """A model on a batch, run as a whole for each set of units."""

    def __init__(self, model: torch.nn.Module, layer: str, images: torch.Tensor):
        self._model, self._layer, self._images = model, layer, images
        self.output = self._run(self._see)

    def _see(self, output: torch.Tensor) -> torch.Tensor:
        self.layer_output = output
        return output

    def without(self, change: _Change, masks: torch.Tensor) -> torch.Tensor:
        """Outputs [n, B, K] without the units of each mask, bool [n, C]."""
        return torch.stack([self._run(lambda acts, mask=mask: change(acts, mask)) for mask in masks])

    def _run(self, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        with changed_output(self._model, self._layer, change):
            return _checked_output(self._model(self._images.clone()), self._images)


def _correct(outputs: torch.Tensor, labels: torch.Tensor, first: int) -> torch.Tensor:
    """int64 [n, K]: how many images of each class are recognised, from outputs [n, B, K] and labels [B]."""
    bad = outputs.isnan().any(2).any(0).nonzero()
    if len(bad):
        raise ValueError(f"the model's output for image {first + int(bad[0])} is NaN")
    n, _, n_classes = outputs.shape
    own = outputs.gather(2, labels.expand(n, -1)[:, :, None])
    earlier = torch.arange(n_classes, device=labels.device) < labels[:, None]
    missed = ((outputs > own) | ((outputs == own) & earlier)).any(2)  # of equal outputs the first is taken
    zeros = torch.zeros(n, n_classes, dtype=torch.int64, device=labels.device)
    return zeros.index_add_(1, labels, (~missed).long())


def _checked_batch(batch: object) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch as tensors [B, ...] and int64 [B]."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        what = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"data gives a {what}; a batch must be (images, classes)")
    images, labels = batch
    if not isinstance(images, torch.Tensor) or images.dim() < 2:
        what = list(images.shape) if isinstance(images, torch.Tensor) else f"a {type(images).__name__}"
        raise TypeError(f"data gives the images as {what}; they must be a tensor [B, ...]")
    labels = torch.as_tensor(labels) if len(images) else torch.zeros(0, dtype=torch.int64)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"data gives classes of {labels.dtype}; they must be integers")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"data gives classes {list(labels.shape)} with {len(images)} images; they must be [B]")
    return images, labels.long()


def _checked_sets(units: Units) -> list[tuple[int, ...]]:
    """The sets of units as tuples; whether the layer has them is not known yet."""
    if isinstance(units, (str, int)) or not isinstance(units, Iterable):
        raise TypeError(f"units is {units!r}; it must be a list of units, or of sequences of them")
    sets = [_unit_set(item) for item in units]
    if not sets:
        raise ValueError("units is empty; name at least one, or leave it out for each unit alone")
    return sets


def _unit_set(item: object) -> tuple[int, ...]:
    members = item if isinstance(item, Iterable) and getattr(item, "ndim", 1) else (item,)
    if isinstance(item, (str, bytes)) or not all(_is_index(unit) for unit in members):
        raise TypeError(f"units has {item!r}; a unit must be an int, and a set of units a sequence of ints")
    found = tuple(sorted(operator.index(unit) for unit in members))
    if not found or len(set(found)) != len(found):
        raise ValueError(f"units has {item!r}; a set must have at least one unit, and none twice")
    return found


def _is_index(unit: object) -> bool:
    return hasattr(unit, "__index__") and not isinstance(unit, bool) and "float" not in str(getattr(unit, "dtype", ""))


def _masks(sets: list[tuple[int, ...]], n_units: int) -> torch.Tensor:
    """bool [n_sets, C]: True for the units of each set."""
    masks = torch.zeros(len(sets), n_units, dtype=torch.bool)
    for mask, members in zip(masks, sets, strict=True):
        if members[0] < 0 or members[-1] >= n_units:
            bad = members[0] if members[0] < 0 else members[-1]
            raise ValueError(f"units has {bad}; the layer's units are 0 to {n_units - 1}")
        mask[list(members)] = True
    return masks


def _checked_dim(dim: int | None, output: torch.Tensor, layer: str) -> int:
    """The dimension of the units, counted from the front."""
    shape = list(output.shape)
    if output.dim() < 2 or not output.is_floating_point():
        raise ValueError(f"layer {layer!r} gives {output.dtype} {shape}; it must give floats [B, C] or [B, C, h, w]")
    if dim is None:
        if output.dim() == 3:
            raise ValueError(f"layer {layer!r} gives {shape}; give dim, that of the units (2 for tokens [B, T, C])")
        return 1
    check_counts(1, dim=dim)
    if dim >= output.dim():
        raise ValueError(f"dim is {dim}; the output of {layer!r} is {shape}")
    return dim


def _checked_value(value: float | torch.Tensor, n_units: int) -> torch.Tensor:
    """What ablated units give, [C]."""
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, torch.Tensor)):
        raise TypeError(f"value is {value!r}; it must be a number or a tensor [C]")
    found = torch.as_tensor(value)
    if found.shape not in ((), (n_units,)):
        raise ValueError(f"value has shape {list(found.shape)}; it must be one number or [{n_units}], one a unit")
    return found.expand(n_units)


def _checked_output(output: object, images: torch.Tensor) -> torch.Tensor:
    if not isinstance(output, torch.Tensor) or output.dim() != 2 or len(output) != len(images):
        what = list(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"the model's output is {what}; it must be a tensor [{len(images)}, K] of class outputs")
    return output
