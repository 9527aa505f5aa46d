"""Who judges a mutant, in a child process whose ops package is the mutant's."""

import time
import warnings
from collections.abc import Callable
from typing import Any

from mutants.calls import arguments, marked, original, reference_names
from mutants.functions import called, plain
from mutants.same import difference, is_right
from residuals_lab import frameworks
from residuals_lab.check import check
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops.call import Call, samples

Verdict = dict[str, Any]


def judge(framework: str, op: str, covering: list[str], judges: list[str]) -> dict[str, Verdict]:
    """What each judge says of the op, as it is in this process, at one of the samples that run the lines of the fault.

    Where a comparison is asked for too, it comes first, and the sample is the first one that shows a difference.
    """
    warnings.simplefilter("ignore")
    sample = covering[0]
    adapter, found = frameworks.load(framework), dict[str, Verdict]()
    if "comparison" in judges:
        what, witness = difference(adapter, op, covering)
        sample = witness or sample
        found["comparison"] = {"killed": bool(what), "by": [what], "sample": sample, "is_right": False}
    for name in (name for name in JUDGES if name in judges):
        start = time.monotonic()
        try:
            found[name] = JUDGES[name](adapter, op, samples(op)[sample])
        except Exception as problem:  # of any kind: the code has a fault, and a judge that raises has seen it
            found[name] = {"killed": True, "by": [f"{type(problem).__name__}: {str(problem)[:300]}"]}
        found[name]["seconds"] = round(time.monotonic() - start, 2)
    if "comparison" in found and "check" in found and found["comparison"]["by"] == ["values"]:
        found["comparison"]["is_right"] = not found["check"]["killed"] and is_right(adapter, op)
    return found


def _checked(adapter: Framework, op: str, call: Call, **how: Any) -> Verdict:
    fn = called(adapter.public(op), call)
    found = check(fn, *marked(adapter, call), framework=adapter.NAME, **how)
    return {
        "killed": not found.passed,
        "by": [f.rule for f in found.failures],
        "first": found.failures[0].line[:400] if found.failures else "",
        "notes": list(found.notes)[:8],
    }


def by_check(adapter: Framework, op: str, call: Call) -> Verdict:
    """`check(fn, *args)` alone."""
    return _checked(adapter, op, call)


def by_quick(adapter: Framework, op: str, call: Call) -> Verdict:
    """`check --quick` alone."""
    return _checked(adapter, op, call, quick=True)


def by_check_with_reference(adapter: Framework, op: str, call: Call) -> Verdict:
    """`check` with plain autodiff as the reference, and the names of what may be kept."""
    names = reference_names(adapter, op, call)
    return _checked(adapter, op, call, reference=plain(original(adapter.NAME, op), call), names=names)


def by_gradcheck(adapter: Framework, op: str, call: Call) -> Verdict:
    """`torch.autograd.gradcheck`, then `gradgradcheck`; in JAX `check_grads` of order 2, in reverse mode."""
    with adapter.precision("float64"):
        fn, args = called(adapter.public(op), call), arguments(adapter, call, "float64")
        count = len(call.arrays)
        if adapter.NAME == "jax":
            from jax.test_util import check_grads

            check_grads(lambda *some: _floating(adapter, fn(*some, *args[count:])), args[:count], 2, modes=["rev"])
        else:
            import torch

            torch.manual_seed(0)

            def outs(*some: Any) -> Any:
                torch.manual_seed(0)
                return tuple(y for y in _floating(adapter, fn(*some)) if y.requires_grad)

            torch.autograd.gradcheck(outs, args)
            torch.autograd.gradgradcheck(outs, args)
    return {"killed": False, "by": []}


def by_opcheck(adapter: Framework, op: str, call: Call) -> Verdict:
    """`torch.library.opcheck`, of the two ops that have an operator of that kind."""
    import torch

    module = adapter.op(op)
    if adapter.NAME != "torch" or not hasattr(module, "_forward"):
        return {"killed": False, "by": [], "applies": False}
    static = [{False: "", True: "top_left"}.get(a, a) if isinstance(a, bool) else a for a in call.static.values()]
    named = dict(zip([*call.arrays, *call.constants], arguments(adapter, call), strict=True))
    arrays = [named.get(name) for name in (*call.op.arrays, *call.op.constants)]
    found = torch.library.opcheck(module._forward, (*arrays, *static))
    return {
        "killed": any(v != "SUCCESS" for v in found.values()),
        "by": [k for k, v in found.items() if v != "SUCCESS"],
    }


def _floating(adapter: Framework, results: Any) -> Any:
    several = results if isinstance(results, tuple) else (results,)
    return tuple(y for y in several if y is not None and adapter.is_floating(y))


JUDGES: dict[str, Callable[[Framework, str, Call], Verdict]] = {
    "check": by_check,
    "quick": by_quick,
    "gradcheck": by_gradcheck,
    "reference": by_check_with_reference,
    "opcheck": by_opcheck,
}
