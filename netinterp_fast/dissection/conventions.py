"""The conventions under which published dissections were made: each is a named preset of five switches.

| preset          | threshold from | upsampling                             | unit area counted over               |
|-----------------|----------------|----------------------------------------|--------------------------------------|
| netdissect      | raw maps       | bilinear, half-pixel, borders clamped  | images with a label of the category  |
| netdissect_lite | raw maps       | Pillow's bilinear                      | images where mask and category meet  |
| dissect         | upsampled maps | half-pixel grid, zero padding, 56 x 56 | all images                           |
| compexp         | raw maps       | Pillow's bilinear                      | all images                           |
| concept         | raw maps       | bilinear, half-pixel, borders clamped  | images that contain the concept      |

netdissect: Bau et al., "Network Dissection", CVPR 2017; dissect: Bau et al., "Understanding the role of individual
units in a deep neural network", PNAS 2020; compexp: Mu and Andreas, "Compositional explanations of neurons", NeurIPS
2020.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fractions import Fraction

from .thresholds import exact_fraction

CHOICES = {
    "threshold_from": ("raw", "upsampled"),
    "upsampling": ("bilinear", "pil", "zero_padded"),
    "unit_area_over": ("category", "overlap", "all", "concept"),
}


@dataclass(frozen=True)
class Convention:
    """How units are thresholded, upsampled and scored.

    threshold_from   "raw" (the values of the maps) or "upsampled" (the values of the surfaces, every label pixel)
    upsampling       "bilinear", "pil" (Pillow's; antialiased, and slower, where a map is larger than the label grid) or
                     "zero_padded" (beyond the outermost centres the surface falls to 0)
    inclusive        M_k = [S_k >= T_k] instead of [S_k > T_k]
    unit_area_over   the images over which |M_k| is summed for a concept's IoU: those with a label of the concept's
                     "category", those where the mask has an "overlap" with the category (slower: each image is tallied
                     twice), "all", or those with the "concept"
    mask_size        side of the label grid; label maps are resized to it (nearest). None: as the data set has them
    quantile         q when the caller names none
    sketched_levels  how many levels of a sketch thresholds are read from: at floor(levels (1 - q)) - 1 of levels - 1
    """

    threshold_from: str = "raw"
    upsampling: str = "bilinear"
    inclusive: bool = False
    unit_area_over: str = "category"
    mask_size: int | None = None
    quantile: float = 0.005
    sketched_levels: int | None = None

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        if self.mask_size is not None and self.mask_size < 1:
            raise ValueError(f"mask_size is {self.mask_size}; it must be at least 1")

    def exact_quantile(self) -> Fraction:
        """The fraction of values above T."""
        q = exact_fraction(self.quantile)
        if self.sketched_levels is None:
            return q
        level = int(self.sketched_levels * (1 - q)) - 1
        if level < 0:
            raise ValueError(f"quantile is {self.quantile}; a sketch of {self.sketched_levels} levels cannot show it")
        return 1 - Fraction(level, self.sketched_levels - 1)


CONVENTIONS = {
    "netdissect": Convention(),
    "netdissect_lite": Convention(upsampling="pil", unit_area_over="overlap", sketched_levels=1000),
    "dissect": Convention(
        threshold_from="upsampled", upsampling="zero_padded", unit_area_over="all", mask_size=56, quantile=0.01
    ),
    "compexp": Convention(upsampling="pil", unit_area_over="all"),
    "concept": Convention(unit_area_over="concept"),
}


def get_convention(name: str, **switches) -> Convention:
    """The preset `name` with the switches that are not None set on top of it."""
    if name not in CONVENTIONS:
        raise ValueError(f"convention is {name!r}; it must be one of {', '.join(CONVENTIONS)}")
    known = {f.name for f in fields(Convention)}
    unknown = set(switches) - known
    if unknown:
        raise TypeError(f"unknown switches {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    return replace(CONVENTIONS[name], **{k: v for k, v in switches.items() if v is not None})
