"""An activation times a gate, where one rule for both saves less."""

from collections import defaultdict
from functools import partial
from typing import Any

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Ours, Place, Saved, found_advice, iterations
from residuals_lab.frameworks.sites import Read, Site
from residuals_lab.trace import Step


def find(forward: Forward, ours: Ours) -> Found:
    """One rule for an activation and the product with it, where the output of the activation is saved."""
    found: dict[tuple[str, str], Saved] = defaultdict(dict)
    instead: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)  # the bytes of each array that the rule keeps
    places = defaultdict[tuple[str, str], list[Place]](list)
    for place, step in enumerate(forward.all):
        if step.op != "mul" or len(step.ins) != 2:
            continue
        for y, up in (step.ins, step.ins[::-1]):
            op, gate, within = activation(forward, step, y)
            is_read_here = forward.is_read_once(y) and y not in forward.alive
            if op and forward.saved[y] and is_read_here and forward.values[up].shape == forward.values[gate].shape:
                given = [r for n in {gate, up} for r in forward.saved[n] if forward.is_at(place, n, r)]
                saved = forward.residuals_of({y} | within, place) | {r.storage: r for r in given}
                found[op, step.line] |= saved
                value = forward.values[gate]
                made_at = forward.node(y, place).place
                reads = Read(made_at, gate), Read(place, up)
                places[op, step.line].append(partial(Site, op, reads, place, step.outs[0], _gated))
                times = iterations({r.storage: r for r in forward.saved[y]}, value)
                trace = ours.trace(op, value.dtype, value.shape, value.shape)
                for r, n in zip(trace.residuals, (gate, up), strict=True):
                    if n not in forward.alive:
                        array = forward.array(n, place)
                        nbytes = next(
                            (r.storage_bytes for r in given if forward.array_of(r) == array), times * r.storage_bytes
                        )
                        instead[op, step.line][array] = nbytes
    for (op, line), these in found.items():
        kept = sum(instead[op, line].values())
        yield found_advice("gate", line, op, these, kept, places=places[op, line])


def _gated(op: Any, gate: Any, up: Any) -> Any:
    return op(gate, up)


def activation(forward: Forward, step: Step, y: int) -> tuple[str, int, set[int]]:
    """The op that joins an activation and its gate, if this operand of the step is the output of that activation; and
    the activation's input, and the other values that it makes.
    """
    maker = forward.makers.get(y)
    if maker and maker.op in ("silu", "gelu"):
        return {"silu": "swiglu", "gelu": "geglu"}[maker.op], maker.ins[0], set()
    if maker and maker.op == "mul" and len(maker.ins) == 2:
        for x, s in (maker.ins, maker.ins[::-1]):
            if s in forward.makers and (forward.makers[s].op, forward.makers[s].ins) == ("sigmoid", (x,)):
                within = forward.made_in[maker.module, maker.line] if maker.module != step.module else {s}
                return "swiglu", x, within
    return "", y, set()
