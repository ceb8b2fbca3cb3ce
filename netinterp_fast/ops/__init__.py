"""The package's operators: each has a schema, a pure-torch reference, a fake, and native CPU and CUDA kernels."""

from .cells import PackedCells, pack_cells, unpack_cells
from .concept_area import concept_area
from .noise import noise_points
from .paths import path_accumulate, path_points
from .relevance import product_ratio, relu_gate, stabilized_ratio
from .top_quantile_update import top_quantile_update
from .unit_concept_overlap import Overlap, unit_concept_overlap

__all__ = [
    "Overlap",
    "PackedCells",
    "concept_area",
    "noise_points",
    "pack_cells",
    "path_accumulate",
    "path_points",
    "product_ratio",
    "relu_gate",
    "stabilized_ratio",
    "top_quantile_update",
    "unit_concept_overlap",
    "unpack_cells",
]
