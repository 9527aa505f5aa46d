"""PyTorch's names for operations, and those operations that a trace does not record as such."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

# PyTorch's name for an operation → the traces' name, where they differ.
OPS = {
    "_conj": "conj view",
    "_log_softmax": "log_softmax",
    "_neg_view": "neg view",
    "_safe_softmax": "softmax",
    "_scaled_dot_product_efficient_attention": "attention",
    "_scaled_dot_product_flash_attention": "attention",
    "_scaled_dot_product_flash_attention_for_cpu": "attention",
    "_softmax": "softmax",
    "_to_copy": "convert",
    "_unsafe_view": "view",
    "addmm": "matmul",
    "amax": "max",
    "amin": "min",
    "baddbmm": "matmul",
    "bernoulli": "random",
    "bmm": "matmul",
    "convolution": "conv",
    "dot": "matmul",
    "mm": "matmul",
    "mv": "matmul",
    "native_batch_norm": "batch_norm",
    "native_dropout": "random",
    "native_group_norm": "group_norm",
    "native_layer_norm": "layer_norm",
    "nll_loss_forward": "nll_loss",
    "normal": "random_number",
    "rand": "random_number",
    "rand_like": "random_number",
    "randn": "random_number",
    "randn_like": "random_number",
    "t": "transpose",
    "threefry_keep": "random",
    "uniform": "random_number",
}
IDENTITIES = {"alias", "detach", "lift_fresh"}
# Operations that take the shape of their operand and none of its numbers.
LIKES = {"empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"}
LIKES |= {"rand_like", "randint_like", "randn_like"}
# Operations that save other arrays in a run than on fake tensors.
UNLIKE_FAKES = {"_cudnn_rnn", "miopen_rnn", "mkldnn_rnn_layer"}
# Operations of a CPU whose kernel on a GPU keeps something else: what they are part of, and the file of PyTorch that
# chooses the kernel.
UNLIKE_ON_GPU = {
    "_safe_softmax": ("attention", "ATen/native/transformers/cuda/sdp_utils.cpp"),
    "_scaled_dot_product_flash_attention_for_cpu": ("attention", "ATen/native/transformers/cuda/sdp_utils.cpp"),
    "bernoulli_": ("dropout", "ATen/native/Dropout.cpp"),
    "mkldnn_rnn_layer": ("LSTM", "ATen/native/RNN.cpp"),
    "native_batch_norm": ("batch_norm", "ATen/native/Normalization.cpp"),
}
COPIES = {"clone"}  # the same values in another storage


def word(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The traces' name for an operation: `gelu_backward` is the "gelu backward"."""
    name = func.overloadpacket.__name__
    if func._schema.is_mutable:
        name = name.removesuffix("_")
    if func is torch.ops.aten.pow.Tensor_Scalar and float(args[1]).is_integer():
        return "integer_pow"  # a few products
    if func is torch.ops.aten.gelu.default and kwargs.get("approximate") == "tanh":
        return "gelu_tanh"
    forward = name.removesuffix("_data").removesuffix("_backward")
    if name == "threshold_backward":  # which is the backward of relu, too
        return "relu backward" if not float(args[2]) else "threshold backward"
    return OPS.get(forward, forward) + (" backward" if forward != name else "")


def axes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """The axes along which an operation works, counted from the last."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.name == "dim" and isinstance(args[0], torch.Tensor):
            along = args[i] if i < len(args) else kwargs.get("dim")
            several = [along] if isinstance(along, int) else along or []
            return tuple(axis - args[0].dim() if axis >= 0 else axis for axis in several)
    return ()
