"""What a first dissection needs: a painted data set with exact masks and a small network trained on its kind.

`scenes.paint` paints the pictures, `write_demo_dataset` writes them in the directory format of Broden, and
`load_demo_model` gives the network, which `train` reproduces.
"""

from .canvas import SIZE as DEMO_SIZE
from .dataset import DEMO_IMAGES, DEMO_VERSION, write_demo_dataset
from .model import DEMO_LAYERS, DEMO_MEAN, DEMO_STD, load_demo_model

__all__ = [
    "DEMO_IMAGES",
    "DEMO_LAYERS",
    "DEMO_MEAN",
    "DEMO_SIZE",
    "DEMO_STD",
    "DEMO_VERSION",
    "load_demo_model",
    "write_demo_dataset",
]
