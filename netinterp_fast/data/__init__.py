"""Labelled data sets for dissection, and the models to dissect."""

from .base import IMAGENET_MEAN, IMAGENET_STD
from .broden import BrodenDataset
from .colours import COLOUR_NAMES, name_colours, with_colours
from .combined import combine
from .folders import SegmentationFolder, TextureFolder
from .models import load_model, load_models
from .open import open_dataset
from .protocol import Concept, ConceptDataset, Sample, image_name, to_rgb

__all__ = [
    "COLOUR_NAMES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "BrodenDataset",
    "Concept",
    "ConceptDataset",
    "Sample",
    "SegmentationFolder",
    "TextureFolder",
    "combine",
    "image_name",
    "load_model",
    "load_models",
    "name_colours",
    "open_dataset",
    "to_rgb",
    "with_colours",
]
