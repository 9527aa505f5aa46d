"""What PyTorch keeps once `torch.compile` has divided the joint graph into a forward and a backward."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
import torch._inductor.lowering  # which its decompositions look for, without importing it
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch.utils._pytree import tree_leaves

from residuals_lab.frameworks.compiled import Compiled, Kept, Subject
from residuals_lab.frameworks.torch.recording import dtype_name
from residuals_lab.frameworks.torch.tracing import backward_of


def after_compilation(subject: Subject) -> Compiled:
    """What crosses from forward to backward where Inductor's partitioner has decided what to repeat.

    No code is generated: the graphs run as they are. What is kept are the storages that saved-tensor hooks see, those
    of several graphs, and of what runs between them, too.
    """
    saved: list[Tensor] = []
    made: dict[Hashable, str] = {}  # storages that graphs of the forward made, and what the graph calls them
    modules = [m for m in (subject.fn, *subject.around.values()) if isinstance(m, torch.nn.Module)]
    buffers = [(t, t.detach().clone()) for m in modules for t in m.buffers()]
    given = [t for t in tree_leaves((subject.args, subject.kwargs, subject.around)) if isinstance(t, Tensor)]
    given += [t for t, _ in buffers]

    def forward(graph: torch.fx.GraphModule, _: Sequence[Any]) -> Any:
        results: Any = graph.graph.output_node().args[0]

        def run(*inputs: Any) -> Any:
            given.extend(t for t in inputs if isinstance(t, Tensor) and t.is_leaf and _storage(t) not in made)
            outs = graph.forward(*inputs)
            known = {_storage(t) for t in given}
            for node, t in zip(results, outs, strict=True):
                if isinstance(t, Tensor) and _storage(t) not in known and _base(node).op != "placeholder":
                    made.setdefault(_storage(t), _base(node).name)
            return outs

        return make_boxed_func(run)

    backend = aot_autograd(
        fw_compiler=forward,
        bw_compiler=lambda graph, _: make_boxed_func(graph.forward),
        inference_compiler=forward,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )

    def pack(t: Tensor) -> Tensor:
        if t.is_leaf and t.requires_grad:
            given.append(t)
        saved.append(t.detach())
        return saved[-1]

    torch._dynamo.reset()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                out = torch.compile(subject.fn, backend=backend)(*subject.args, **subject.kwargs)
            backward_of(out)
    finally:
        torch._dynamo.reset()
        for t, before in buffers:
            t.copy_(before)
    alive = {_storage(t) for t in (*given, *tree_leaves(out)) if isinstance(t, Tensor)}
    kept = {}
    for t in saved:
        storage = _storage(t)
        name = made.get(storage, "given" if storage in alive else "made between graphs")
        sizes = t.numel() * t.element_size(), t.untyped_storage().nbytes()
        kept[storage] = Kept(name, tuple(t.shape), dtype_name(t), *sizes, is_new=storage not in alive)
    new_bytes = sum(a.storage_bytes for a in kept.values() if a.is_new)
    return Compiled("torch.compile's partitioner", new_bytes, (*kept.values(),))


def _storage(t: Tensor) -> Hashable:
    return t.untyped_storage()._cdata


def _base(node: Any) -> Any:
    """What a view in a graph is a view of."""
    while getattr(node.target, "is_view", False):
        node = node.args[0]
    return node
