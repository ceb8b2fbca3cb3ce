"""The package's operators: each has a schema, a pure-torch reference, a fake, and native CPU and CUDA kernels."""

from .concept_area import concept_area
from .top_quantile_update import top_quantile_update
from .unit_concept_overlap import Overlap, unit_concept_overlap

__all__ = ["Overlap", "concept_area", "top_quantile_update", "unit_concept_overlap"]
