"""What a run on a CPU makes of an operation, where a fake tensor has another dtype, other strides or less memory.

Strides decide whether a later `reshape` or `contiguous` copies. What the strides of an axis of length one are shows
only in whether a tensor counts as channels-last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map_only

# Operations whose statistics have the parameters' dtype in a run on a CPU, and x's dtype on fake tensors.
NORMS = {"native_batch_norm", "native_group_norm", "native_layer_norm"}
# Operations by how a run lays out what they make; a name may be that of one overload.
CONTIGUOUS = {
    "_log_softmax_backward_data", "bernoulli.p", "im2col", "log_sigmoid_forward", "max_unpool3d",
    "normal.Tensor_Tensor", "pow.Scalar",
}  # fmt: skip
# Those that leave channels-last as it is, and make contiguous what has any other order: if x is ambiguous, as its
# strides tell, or contiguous.
CHANNELS_LAST_STAYS = {
    "channel_shuffle", "max_unpool2d", "native_group_norm", "reflection_pad2d_backward", "reflection_pad3d",
    "reflection_pad3d_backward", "replication_pad2d_backward", "replication_pad3d", "replication_pad3d_backward",
    "upsample_bilinear2d", "upsample_nearest2d",
}  # fmt: skip
RATHER_CONTIGUOUS = {"_batch_norm_with_update", "_native_batch_norm_legit", "native_batch_norm", "roll"}
AS_A_SUM = {
    "copysign", "div.Tensor_mode", "floor_divide", "heaviside", "ldexp", "logaddexp", "logaddexp2", "logical_and",
    "logical_or", "logical_xor", "native_dropout_backward", "special_xlog1py", "xlogy",
}  # fmt: skip
# Losses that a run reduces within the memory of their elements, all of which the one number then keeps.
REDUCED_WITHIN = {"binary_cross_entropy", "mse_loss", "smooth_l1_loss", "soft_margin_loss"}
RESIZED = {"col2im", "im2col"}  # a run makes room for what they read, and then gives that another shape
# A periodic window is cut out of one that has an element more.
WINDOWS = {"bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window"}
AS_THEY_ARE = {"_to_copy", "clone", "empty_like", "flip", "ones_like", "rand_like", "randn_like", "zeros_like"}


def as_in_a_run(func: Any, out: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result of an operation on fake tensors, in the dtypes, strides and memory that it has in a run on a CPU."""
    read = [a for a in args if isinstance(a, Tensor)]
    name = func.overloadpacket.__name__
    if name in WINDOWS and out.device.type == "cpu":
        is_periodic = all(a for a in args if isinstance(a, bool))
        return _roomy(out, args[0] + (is_periodic and args[0] > 1))
    if not read or any(t.device.type != "cpu" for t in read):
        return out
    names = {name, f"{name}.{func._overloadname}"}
    others = [t.dtype for t in read if t.dtype != read[0].dtype]
    if name in NORMS and others:
        out = (out[0], *(t.to(others[0]) for t in out[1:]))
    if func is torch.ops.aten.view.default:
        strides = view_strides(read[0].shape, read[0].stride(), out.shape)
        return out if strides in (None, out.stride()) else read[0].as_strided(out.shape, strides)
    if name == "_embedding_bag":
        return _bags(out, args, kwargs)
    if name in REDUCED_WITHIN and out.dim() == 0:
        return _roomy(out, torch.broadcast_shapes(*(t.shape for t in read)).numel())
    if name in AS_THEY_ARE:
        is_kept = kwargs.get("memory_format") in (None, torch.preserve_format) and _is_ambiguous(out)
        is_kept = is_kept and _is_dense(read[0].shape, read[0].stride())
        return _strided(out, read[0].stride()) if is_kept else out
    if names & AS_A_SUM or (torch.Tag.pointwise in func.tags and _is_ambiguous(out)):
        alike = [torch.empty(()), *read] if any(isinstance(a, (int, float)) for a in args[:2]) else read
        return _strided(out, iterated(out.shape, [(t.shape, t.stride()) for t in alike]))
    if names & CONTIGUOUS:
        out = tree_map_only(FakeTensor, lambda t: _strided(t, _strides(t.shape)), out)
    if name in RESIZED:
        return _roomy(out, read[0].numel())
    if names & CHANNELS_LAST_STAYS:
        return tree_map_only(FakeTensor, lambda t: _strided(t, _like(t, read[0], suggest_memory_format(read[0]))), out)
    if name in RATHER_CONTIGUOUS:
        return tree_map_only(FakeTensor, lambda t: _strided(t, _like(t, read[0], _order(read[0]))), out)
    return out


def grouped(a: Tensor, b: Tensor, offsets: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """What `_grouped_mm` makes, which a run takes in any floating dtype and fake tensors in bfloat16 alone.

    Rows of groups that end at the offsets are in axis 0 of `a`, in axis 1 of `b`, or, with an axis for the groups in
    the result, along the axis that is summed. A row begins at a multiple of 16 bytes.
    """
    groups = [len(offsets)] if a.dim() == b.dim() == 2 and offsets is not None else list(a.shape[:-2] or ())
    shape = [*(groups if a.dim() == b.dim() else ()), a.shape[-2], b.shape[-1]]
    unit = 16 // a.element_size()
    row = -(-shape[-1] // unit) * unit
    return a.new_empty_strided(shape, [*([shape[-2] * row] if len(shape) == 3 else ()), row, 1])


def _strided(t: Tensor, strides: Sequence[int]) -> Tensor:
    if t.stride() == tuple(strides):
        return t
    return t.new_empty_strided(t.shape, strides)


def _roomy(t: Tensor, elements: int) -> Tensor:
    """The same tensor in memory for at least so many elements."""
    return t.new_empty([elements]).as_strided(t.shape, t.stride()) if elements > t.numel() else t


def _bags(out: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The sums of bags of rows, and what is kept beside them: the bag of each row, if any, in memory for one more."""
    weight, _, offsets, *_ = args
    padding = args[8] if len(args) > 8 else kwargs.get("padding_idx", -1)
    is_sum = (args[4] if len(args) > 4 else kwargs.get("mode", 0)) == 0
    sums, bags, sizes, largest = out
    if is_sum and padding < 0 and weight.dtype is torch.bfloat16 and weight.stride(1) == 1:
        bags = bags.new_empty(0)  # the fast way, which fake tensors have for other dtypes alone
    room = bags.numel() + 1 if bags.numel() else 0
    return sums, _roomy(bags, room), _roomy(sizes, offsets.numel()), largest


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


def _like(t: Tensor, x: Tensor, order: torch.memory_format) -> tuple[int, ...]:
    """The strides of a result that has this order if it has as many axes as x, and is contiguous else."""
    order = order if t.dim() == x.dim() else torch.contiguous_format
    return torch.empty(t.shape, device="meta", memory_format=order).stride()


def _order(x: Tensor) -> torch.memory_format:
    last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    is_last = x.dim() in (4, 5) and not x.is_contiguous() and x.is_contiguous(memory_format=last)
    return last if is_last else torch.contiguous_format


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the elements fill a piece of memory, each once."""
    step = 1
    for stride, n in sorted((s, n) for n, s in zip(shape, strides, strict=True) if n != 1):
        if stride != step:
            return False
        step *= n
    return True


def _is_ambiguous(t: Any) -> bool:
    """Whether the stride of an axis of length one tells if this tensor counts as channels-last."""
    return isinstance(t, FakeTensor) and t.dim() in (4, 5) and 1 in t.shape


Laid = tuple[Sequence[int], Sequence[int]]  # the shape and the strides of a tensor


def iterated(shape: Sequence[int], given: Sequence[Laid]) -> tuple[int, ...]:
    """The strides of what an elementwise operation makes, as PyTorch's `TensorIterator` chooses them."""
    if all(tuple(own) == tuple(shape) for own, _ in given):
        alike = [torch.empty_strided(*laid, device="meta") for laid in given]
        last = {4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(len(shape), [])
        for memory_format in (torch.contiguous_format, *last):
            if all(t.is_contiguous(memory_format=memory_format) for t in alike):
                return torch.empty(shape, device="meta", memory_format=memory_format).stride()
        first = tuple(given[0][1])
        if _is_dense(*given[0]) and all(tuple(strides) == first for _, strides in given):
            return first
    spread = [_spread(shape, *laid) for laid in given]
    order = [*reversed(range(len(shape)))]  # of the axes, from the one whose elements are nearest to each other
    for i in range(1, len(order)):
        here = i
        for other in reversed(range(i)):
            swap = _is_before(shape, spread, order[other], order[here])
            if swap is False:
                break
            if swap:
                order[other], order[here] = order[here], order[other]
                here = other
    found, step = [0] * len(shape), 1
    for axis in order:
        found[axis] = step
        step *= shape[axis]
    return tuple(found) if order != [*reversed(range(len(shape)))] else _strides(shape)


def _spread(shape: Sequence[int], own: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Strides over a shape into which a tensor's own is broadcast: 0 along the axes on which it repeats."""
    more = len(shape) - len(own)
    return [0] * more + [0 if n == 1 != m else s for n, m, s in zip(own, shape[more:], strides, strict=True)]


def _is_before(shape: Sequence[int], spread: Sequence[Sequence[int]], near: int, far: int) -> bool | None:
    """Whether the second of two axes comes before the first; None if nothing tells."""
    for strides in spread:
        if strides[near] and strides[far]:
            if strides[near] != strides[far]:
                return strides[near] > strides[far]
            if shape[near] > shape[far]:
                return True
    return None


def view_strides(shape: Sequence[int], strides: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
    """The strides of a view in a new shape, those of axes of length one too; None if there is none.

    As PyTorch's `computeStride` has them: fake tensors have others along axes of length one.
    """
    if 0 in new:
        return None
    found, at = [0] * len(new), len(new) - 1
    step, elements, viewed = (strides[-1] if strides else 1), 1, 1
    for axis in reversed(range(len(shape))):
        elements *= shape[axis]
        if axis == 0 or (shape[axis - 1] != 1 and strides[axis - 1] != elements * step):  # memory has a gap here
            while at >= 0 and (viewed < elements or new[at] == 1):
                found[at] = viewed * step
                viewed *= new[at]
                at -= 1
            if viewed != elements:
                return None
            if axis:
                step, elements, viewed = strides[axis - 1], 1, 1
    return tuple(found)
