"""Captum's interface (captum 0.9) over this package: the same classes, arguments and numbers.

    from captum.attr import LRP   ->   from netinterp_fast.compat.captum import LRP

or, for a whole program, without a change of its imports of Captum's modules:

    with netinterp_fast.accelerate("captum") as report: ...

Each class is a subclass of Captum's of the same name, whose method `attribute` computes with this package where it can
and otherwise calls Captum's; a report says which calls did and why. A call that is served leaves nothing on the model.
"""

try:
    import captum as _captum  # noqa: F401
except ImportError as error:
    raise ImportError("netinterp_fast.compat.captum needs Captum; install it with: pip install captum") from error

from ._deep_lift import DeepLift, DeepLiftShap
from ._gradients import Deconvolution, GuidedBackprop, InputXGradient, Saliency
from ._lrp import LRP, LayerLRP
from ._noise import NoiseTunnel
from ._paths import GradientShap, IntegratedGradients, LayerIntegratedGradients
from ._serving import Report, accelerated, install, uninstall

__all__ = [
    "LRP",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "GradientShap",
    "GuidedBackprop",
    "InputXGradient",
    "IntegratedGradients",
    "LayerIntegratedGradients",
    "LayerLRP",
    "NoiseTunnel",
    "Report",
    "Saliency",
    "accelerated",
    "install",
    "uninstall",
]
