"""Pictures of relevance: signed values as red and blue, alone or over the image that they explain."""

from __future__ import annotations

from numbers import Real

import numpy as np
import torch
from PIL import Image

# Colours of the values 0, 1/8, ..., 1 and 0, -1/8, ..., -1. Both arms fall from white in equal steps of OKLab's
# lightness and with the same chroma, so that x and -x differ in hue alone and neither sign looks stronger.
_RED = (
    (255, 255, 255), (253, 223, 218), (250, 191, 182), (246, 157, 145), (240, 121, 108),
    (233, 79, 67), (212, 43, 37), (176, 34, 29), (142, 25, 21),
)  # fmt: skip
_BLUE = (
    (255, 255, 255), (217, 232, 255), (179, 209, 254), (140, 186, 254), (100, 162, 253),
    (53, 136, 253), (8, 111, 235), (5, 91, 196), (3, 72, 158),
)  # fmt: skip
_COLOURS = np.array([*_BLUE[:0:-1], *_RED], dtype=np.float32)  # [17, 3], of -1 to 1

_LEAST_SHARE = 0.6  # of the map in a blend, where it is 0; at the full colours nothing of the grey image is left


def heatmap(
    relevance: torch.Tensor, *, image: Image.Image | np.ndarray | None = None, percentile: float = 99.9
) -> Image.Image:
    """Relevance as an RGB picture: 0 is white, positive values are red, negative ones blue, larger ones darker.

    Args:
        relevance: [C, H, W], summed over its channels first, or [H, W]; real numbers on any device.
        image: what was explained, a PIL image or uint8 [H', W', 3] of any size. The map is resized to it bilinearly,
            as values and not as colours, and blended over its grey version, which shines through less where the
            values are larger.
        percentile: the full colours stand for this percentile of the absolute values, so that single outliers do not
            pale the rest; values beyond it are clipped. Where it is 0, because fewer values than that are not, the
            largest absolute value takes its place. Zeros alone come out white.

    Returns:
        An RGB image of H x W pixels, or of the size of `image`.

    Raises:
        TypeError: for a relevance that is no tensor of real numbers, an image that is no picture, or a percentile that
            is no number.
        ValueError: for other shapes, an empty relevance or image, NaN or infinities, or a percentile outside (0, 100].
    """
    picture = None if image is None else _checked_image(image)
    values = _normalised(_summed(relevance), _checked_percentile(percentile))
    if picture is None:
        return Image.fromarray(_colours(values).round().astype(np.uint8))
    if picture.size != (values.shape[1], values.shape[0]):
        values = np.asarray(Image.fromarray(values).resize(picture.size, Image.Resampling.BILINEAR))
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    share = _LEAST_SHARE + (1 - _LEAST_SHARE) * np.abs(values)[..., None]
    blend = share * _colours(values) + (1 - share) * grey
    return Image.fromarray(blend.round().astype(np.uint8))


def _summed(relevance: torch.Tensor) -> np.ndarray:
    """Relevance [C, H, W] or [H, W] as finite float64 [H, W]."""
    if not isinstance(relevance, torch.Tensor):
        raise TypeError(f"relevance is {type(relevance).__name__}; it must be a tensor [C, H, W] or [H, W]")
    if relevance.is_complex():
        raise TypeError(f"relevance has dtype {str(relevance.dtype).removeprefix('torch.')}; it must be real")
    if relevance.dim() not in (2, 3) or relevance.numel() == 0:
        raise ValueError(
            f"relevance has shape {list(relevance.shape)}; it must be [C, H, W] or [H, W], and not be empty"
        )
    values = relevance.detach().cpu().double()
    if values.dim() == 3:
        values = values.sum(0)
    if not values.isfinite().all():
        row, column = (~values.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"relevance is {values[row, column]:g} at row {row}, column {column}; it must be finite")
    return values.numpy()


def _checked_percentile(percentile: float) -> float:
    if isinstance(percentile, bool) or not isinstance(percentile, Real):
        raise TypeError(f"percentile is {percentile!r}; it must be a number")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; it must be in (0, 100]")
    return float(percentile)


def _checked_image(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        shape = (image.height, image.width)
    elif isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(f"image has dtype {image.dtype}; it must be a PIL image or uint8 [H, W, 3]")
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image has shape {list(image.shape)}; it must be a PIL image or uint8 [H, W, 3]")
        shape = image.shape[:2]
    else:
        raise TypeError(f"image is {type(image).__name__}; it must be a PIL image or uint8 [H, W, 3]")
    if 0 in shape:
        raise ValueError(f"image has {shape[1]} x {shape[0]} pixels; it must not be empty")
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def _normalised(values: np.ndarray, percentile: float) -> np.ndarray:
    """float64 [H, W] to float32 in [-1, 1], where 1 stands for `percentile` of the absolute values."""
    sizes = np.abs(values)
    scale = np.percentile(sizes, percentile) or sizes.max()
    if scale == 0:
        return np.zeros(values.shape, dtype=np.float32)
    return (np.clip(values, -scale, scale) / scale).astype(np.float32)  # clipped first: no quotient overflows


def _colours(values: np.ndarray) -> np.ndarray:
    """The colours of values in [-1, 1]: float32 [H, W] to [H, W, 3] in [0, 255], linear between those of the table."""
    places = np.linspace(-1, 1, len(_COLOURS))
    channels = [np.interp(values, places, channel) for channel in _COLOURS.T]
    return np.stack(channels, axis=-1).astype(np.float32)
