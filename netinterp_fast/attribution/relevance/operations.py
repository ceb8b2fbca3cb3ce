"""What kind of operation a functional call is, by its name."""

from __future__ import annotations

DROPOUTS = frozenset("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split())
# Right for multipliers as torch differentiates them: they move values, choose among them or scale them.
STRUCTURE = frozenset(
    "reshape view view_as reshape_as flatten unflatten permute transpose swapaxes movedim moveaxis squeeze unsqueeze "
    "expand expand_as repeat repeat_interleave tile cat concat concatenate stack hstack vstack dstack chunk split "
    "tensor_split unbind narrow select index_select getitem setitem gather take contiguous clone copy to float double "
    "half bfloat16 type_as pad pixel_shuffle pixel_unshuffle channel_shuffle roll flip t T mT H mH adjoint unfold "
    "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices "
    "max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices amax max "
    "maximum minimum amin min where masked_fill masked_select broadcast_to diagonal rot90 sort topk atleast_1d "
    "atleast_2d atleast_3d ravel".split()
)
SCALED = frozenset("neg negative".split())
# Results without a gradient, or without meaning for relevance.
CONSTANT = frozenset("detach data argmax argmin sign item tolist numpy bool int long gt lt ge le eq ne".split())
PRODUCTS = frozenset("mul rmul div truediv true_divide".split())
MATRIX_PRODUCTS = frozenset("matmul bmm mm rmatmul".split())
# Activations: with f(0) = 0, without negative values, and those whose output serves as a gate.
ZERO_AT_ZERO = frozenset(
    "relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish tanh softsign prelu rrelu tanhshrink "
    "softshrink hardshrink".split()
)
NONNEGATIVE = frozenset("relu relu6 softplus sigmoid hardsigmoid".split())
GATES = frozenset("sigmoid hardsigmoid".split())
