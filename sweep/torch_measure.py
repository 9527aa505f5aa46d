"""The new bytes of a PyTorch program: counted on a real run, by code that shares none with the lab, and audited."""

import dataclasses
import functools
import gc
import importlib
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch._dynamo.variables.torch  # an audit imports it, which takes long: here, before each entry has its process
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from residuals_lab import frameworks
from residuals_lab.audit import audit
from residuals_lab.errors import UsageError
from residuals_lab.frameworks.messages import explained

frameworks.load("torch")
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]  # what is run, and its arguments

# Counting


class Births(TorchDispatchMode):
    """Weak references to the storages that operations make, and not to those that they find."""

    def __init__(self) -> None:
        super().__init__()
        self.refs: dict[int, StorageWeakRef] = {}
        self.found: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented
        if func is not torch.ops.aten.lift_fresh.default:  # what `torch.tensor` has just made
            self.note((args, kwargs), self.found)
        out = func(*args, **(kwargs or {}))
        self.note(out, self.refs)
        return out

    def note(self, tree: Any, where: dict[int, StorageWeakRef]) -> None:
        for t in tree_leaves(tree):
            for storage in storages(t) if isinstance(t, Tensor) else ():
                # A storage whose weak reference is held is not freed altogether, so no other has its address.
                if storage._cdata not in self.found and storage._cdata not in self.refs:
                    where[storage._cdata] = StorageWeakRef(storage)

    def living(self) -> dict[int, int]:
        """Address → bytes, of those that somebody holds."""
        found = {}
        for key, ref in self.refs.items():
            if not ref.expired():
                found[key] = torch.UntypedStorage._new_with_weak_ptr(ref.cdata).nbytes()
        return found


def storages(t: Tensor) -> list[torch.UntypedStorage]:
    """The memory of a tensor, of whatever kind."""
    if is_traceable_wrapper_subclass(t):
        return [s for name in t.__tensor_flatten__()[0] for s in storages(getattr(t, name))]
    if t.layout is torch.sparse_coo:
        return [*storages(t._indices()), *storages(t._values())]
    if t.layout is not torch.strided:
        return [*storages(t.crow_indices()), *storages(t.col_indices()), *storages(t.values())]
    return [t.untyped_storage()]


def addresses(found: Any) -> set[int]:
    return {s._cdata for t in found for s in storages(t)}


def results(out: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors of a result: those in containers, and in the attributes of objects such as a cache of keys."""
    if isinstance(out, Tensor):
        yield out
        return
    if id(out) in seen or isinstance(out, (str, bytes, int, float, type, nn.Module)) or out is None:
        return
    seen.add(id(out))
    if isinstance(out, dict):
        inside = [*out.values()]
    elif isinstance(out, (list, tuple, set)):
        inside = [*out]
    elif dataclasses.is_dataclass(out):
        inside = [getattr(out, f.name) for f in dataclasses.fields(out)]
    else:
        inside = [*getattr(out, "__dict__", {}).values()]
    for part in inside:
        yield from results(part, seen)


def saved_by(out: list[Tensor]) -> Iterator[Tensor]:
    """The tensors that the nodes of a graph have saved, where no hook has packed them, or have as attributes."""
    todo, seen = [t.grad_fn for t in out if t.grad_fn is not None], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [following for following, _ in node.next_functions]
        yield from results(getattr(node, "__dict__", {}), set())
        for name in dir(node):
            if name.startswith("_raw_saved"):
                raw = getattr(node, name)
                for one in raw if isinstance(raw, (list, tuple)) else [raw]:
                    data = getattr(one, "data", None)
                    if isinstance(data, Tensor):
                        yield data


def counted(make: Callable[[], Call]) -> int:
    """Bytes of the storages that are born in a run and that the graph holds after it, beyond those of the result.

    Somebody else may hold one too, such as a module that has kept a result with its graph: it is counted if a node of
    the graph has saved it, or if it goes with all that was run.
    """
    fn, args, kwargs = make()
    given = addresses(results([args, kwargs, fn], set()))
    given |= addresses(t for m in modules(fn) for t in (*m.parameters(), *m.buffers()))
    births = Births()
    gc.collect()
    seed()
    with births:
        out = fn(*args, **kwargs)
    found = [*results(out, set())]
    inside = [t for m in modules(fn) for t in results(vars(m), set())]
    anyway = addresses(found) | given
    saved = addresses(saved_by([*found, *inside]))
    cached = addresses(inside) - saved
    held = [t.detach() for t in found]
    gc.collect()
    before = births.living()
    del out, found, inside, fn, args, kwargs
    gc.collect()
    after = births.living()
    assert held is not None
    return sum(n for key, n in before.items() if key not in anyway | cached and (key not in after or key in saved))


def modules(fn: Any) -> list[nn.Module]:
    """A module with all in it, or the modules that a function closes over."""
    found = [fn] if isinstance(fn, nn.Module) else []
    for cell in getattr(fn, "__closure__", None) or ():
        inside = cell.cell_contents
        for part in (*inside,) if isinstance(inside, (list, tuple)) else (inside,):
            found += [part] if isinstance(part, nn.Module) else []
    return [inner for m in found for inner in m.modules()]


# Auditing


def measured(make: Callable[[], Call]) -> dict[str, Any]:
    """What the counter and each audit say of what `make` makes, each of another one, of the same numbers."""

    def audited(is_concrete: bool) -> dict[str, Any]:
        try:
            fn, args, kwargs = make()
            seed()
            report = audit(fn, *args, framework="torch", is_concrete=is_concrete, name="it", **kwargs)
        except UsageError as problem:
            return {"bytes": None, "unsure": [], "refused": str(problem)[:500]}
        except Exception as problem:  # while it is made, of which the command says the same
            return {"bytes": None, "unsure": [], "refused": explained(problem, is_concrete)[:500]}
        trace = report.trace
        return {"bytes": report.new_bytes, "unsure": [*trace.unsure], "refused": "", "notes": [*trace.notes]}

    nbytes = counted(make)
    with frameworks.load("torch").abstractly():
        abstract = audited(False)
    return {"counted": nbytes, "audits": {"abstract": abstract, "given": audited(False), "concrete": audited(True)}}


def seed() -> None:
    """Begin as a process does: the same random numbers, and nothing in the caches of libraries."""
    for cached in gc.get_objects():
        if isinstance(cached, functools._lru_cache_wrapper) and not cached.__module__.startswith("torch."):
            cached.cache_clear()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # that is what libraries draw from


# Making what is run


def array(spec: str, is_differentiated: bool = False) -> Tensor:
    """The array that a specification of the lists describes."""
    frozen, spec = spec.startswith("frozen "), spec.removeprefix("frozen ")
    kind, sizes, how, number, more = re.fullmatch(r"(\w+)\[([\d,]*)\](?:([<=])(\d+)(?::(\d+))?)?", spec).groups()
    shape = [int(n) for n in sizes.split(",") if n]
    if kind == "mask":
        made = torch.ones(shape, dtype=torch.int64)
        made[-1, -(shape[-1] // 4) :] = 0
        return made
    if kind == "boxes":
        corner = torch.rand(shape[0], 2) * int(number) / 2
        return torch.cat([corner, corner + 4 + torch.rand(shape[0], 2) * int(number) / 4], 1)
    if kind == "image":
        made = torch.randint(0, int(number), shape)
        made[:, : int(more)] = int(number)
        return made
    dtype = {"i64": torch.int64, "u8": torch.uint8, "f32": torch.float32, "f64": torch.float64}[kind]
    if not dtype.is_floating_point:
        return torch.full(shape, int(number)) if how == "=" else torch.randint(0, int(number), shape, dtype=dtype)
    return torch.randn(shape, dtype=dtype).requires_grad_(is_differentiated and not frozen)


def arrays(tree: Any) -> Any:
    """The inputs of a model, with an array in place of each specification."""
    if isinstance(tree, dict):
        return {key: arrays(part) for key, part in tree.items()}
    if isinstance(tree, list):
        return [arrays(part) for part in tree]
    return array(tree) if isinstance(tree, str) else tree


def measured_program(is_made: bool, what: Callable[..., Any], specs: tuple[str, ...]) -> dict[str, Any]:
    """The measurements of a small program."""

    def make() -> Call:
        seed()
        fn = what() if is_made else what
        return fn, tuple(array(spec, True) for spec in specs), {}

    return measured(make)


def model(name: str, config: dict[str, Any]) -> nn.Module:
    """A model of a library by the name of its class, or of the function that makes it."""
    library, _, path = name.partition(".")
    if library == "timm":
        return importlib.import_module("timm").create_model(path, pretrained=False, **config)
    if library == "peft":
        peft = importlib.import_module("peft")
        base, options = model(*config["base"]), {key: value for key, value in config.items() if key != "base"}
        return peft.get_peft_model(base, getattr(peft, path)(**options))
    if library == "torchvision":
        place = "torchvision.models" + "".join(f".{part}" for part in path.split(".")[:-1])
        return getattr(importlib.import_module(place), path.rpartition(".")[2])(weights=None, **config)
    cls = getattr(importlib.import_module(library), path)
    return cls(cls.config_class(**config)) if library == "transformers" else cls(**config)


def prepared(m: nn.Module, words: list[str]) -> nn.Module:
    """A model in the mode, dtype and memory format that an entry's words name."""
    m = m.train("train" in words)
    if "bf16" in words:
        m = m.to(torch.bfloat16)
    if "channels_last" in words:
        m = m.to(memory_format=torch.channels_last)
    if "checkpoint" in words:
        for name in ("gradient_checkpointing_enable", "set_grad_checkpointing", "enable_gradient_checkpointing"):
            if hasattr(m, name):
                getattr(m, name)()
                break
        if hasattr(m, "enable_input_require_grads"):
            m.enable_input_require_grads()
    return m


def measured_model(name: str, config: dict[str, Any], inputs: dict[str, Any], how: str) -> dict[str, Any]:
    """The measurements of a model of a library."""
    words = how.split()

    def as_asked(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        if "bf16" in words and t.is_floating_point():
            t = t.to(torch.bfloat16)
        return t.to(memory_format=torch.channels_last) if "channels_last" in words and t.dim() == 4 else t

    def make() -> Call:
        seed()
        m = prepared(model(name, config), words)
        made = arrays(inputs)
        args = tuple(as_asked(made[key]) for key in made if key.isdigit())
        kwargs = {key: as_asked(value) for key, value in made.items() if not key.isdigit()}
        if "autocast" not in words:
            return m, args, kwargs

        def cast(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return m(*args, **kwargs)

        return cast, args, kwargs

    return measured(make)
