"""PatternNet and PatternAttribution: the gradient with other weights, learnt from data.

A unit with the weights w sees patches x and gives y = w^T x. Of x = signal + distractor only the signal moves y; its
direction a, the unit's pattern, is the regression of x on y over the patches that make the unit fire:

    a = (E+[x y] - E+[x] E[y]) / w^T (E+[x y] - E+[x] E[y])           w^T a = 1

E+ is the mean over the patches with a positive pre-activation, E over all of them. With all patches in place of the
firing ones this is the linear estimator cov(x, y) / var(y). The gradient with a in place of w is PatternNet, which
shows the signal; with w * a it is PatternAttribution (Kindermans et al., "Learning how to explain neural networks:
PatternNet and PatternAttribution", ICLR 2018).

No patch is taken out of its image: over the patches of a convolution, sum g x is its weight gradient for the output
gradient g.
"""

from .explain import pattern_attribution, pattern_net
from .fit import fit_patterns
from .patterns import Patterns

__all__ = ["Patterns", "fit_patterns", "pattern_attribution", "pattern_net"]
