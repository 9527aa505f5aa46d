"""What PyTorch keeps once `torch.compile` has divided the joint graph into a forward and a backward."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition

from residuals_lab.compiled import Compiled, Kept
from residuals_lab.frameworks.torch_trace import backward_of, dtype_name


def after_compilation(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Compiled:
    """What crosses from forward to backward where Inductor's partitioner has decided what to compute again.

    No code is generated: the graphs run as they are. Graph breaks make several pairs of them, all of which count.
    """
    forwards: list[torch.fx.GraphModule] = []
    backwards: list[torch.fx.GraphModule] = []

    def compiler(into: list[torch.fx.GraphModule]) -> Callable[..., Any]:
        def note(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
            into.append(graph)
            return make_boxed_func(graph.forward)

        return note

    backend = aot_autograd(
        fw_compiler=compiler(forwards),
        bw_compiler=compiler(backwards),
        inference_compiler=compiler([]),
        partition_fn=min_cut_rematerialization_partition,
    )
    torch._dynamo.reset()
    buffers = [(t, t.detach().clone()) for t in fn.buffers()] if isinstance(fn, torch.nn.Module) else []
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            backward_of(torch.compile(fn, backend=backend)(*args, **kwargs))
    finally:
        torch._dynamo.reset()
        for t, before in buffers:
            t.copy_(before)
    # Forwards come in order, and backwards in the opposite one.
    kept = [a for pair in zip(forwards, backwards[::-1], strict=False) for a in _crossing(*pair)]
    return Compiled("torch.compile's partitioner", sum(a.nbytes for a in kept if a.is_new), tuple(kept))


def _crossing(forward: torch.fx.GraphModule, backward: torch.fx.GraphModule) -> list[Kept]:
    names = [n.name for n in backward.graph.nodes if n.op == "placeholder" and not n.name.startswith("tangents")]
    made = {n.name: n for n in forward.graph.nodes}
    results: Any = forward.graph.output_node().args[0]
    outputs = {getattr(n, "name", "") for n in results[: len(results) - len(names)]}  # the rest are what is saved
    alive = outputs | {n.name for n in forward.graph.nodes if n.op == "placeholder"}
    kept = {}
    for name in names:
        base = made[name]
        while getattr(base.target, "is_view", False):
            base = base.args[0]
        value = base.meta["val"]
        if isinstance(value, torch.Tensor):
            nbytes = value.untyped_storage().nbytes()
            kept[base.name] = Kept(
                base.name, tuple(value.shape), dtype_name(value), nbytes, is_new=base.name not in alive
            )
    return list(kept.values())
