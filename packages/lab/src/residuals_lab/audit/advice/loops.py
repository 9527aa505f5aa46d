"""A loop that stacks up what each iteration made, where a checkpoint of its body keeps only what is carried."""

from collections.abc import Iterator, Sequence
from functools import partial

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Saved, found_advice
from residuals_lab.frameworks.sites import Loop
from residuals_lab.trace import Trace

CHECKPOINT = "jax.checkpoint"  # PyTorch has no loops: in a trace of it each iteration stands by itself


def find(forward: Forward, trace: Trace) -> Found:
    """A checkpoint of the body of each outermost loop, instead of the arrays that its iterations make."""
    for places in _loops(forward):
        inside = {*places}
        saved: Saved = {
            r.storage: r
            for r in trace.residuals
            if r.is_new and r.value.shape and forward.place_of(forward.array_of(r)) in inside
        }
        if saved and places.stop < len(forward.all):
            call = forward.all[places.stop]  # what a loop gives is made where it is called
            kept = _kept(forward, trace, places, saved)
            loop = partial(Loop, (places.start, places.stop))
            yield found_advice("a loop", call.line, CHECKPOINT, saved, kept, places=[loop])


def _loops(forward: Forward) -> Iterator[range]:
    """The places of each outermost loop: after each one follow steps that stand for what it gives."""
    begin = None
    for place, step in enumerate(forward.all):
        if step.times > 1 and begin is None:
            begin = place
        elif step.times == 1 and begin is not None:
            yield range(begin, place)
            begin = None


def _kept(forward: Forward, trace: Trace, places: Sequence[int], saved: Saved) -> int:
    """The bytes that a checkpoint of a loop's body keeps: what is carried into each iteration, and the arrays from
    outside that it reads, unless they are kept anyway.
    """
    kept = {forward.array(n, len(forward.all)) for n in forward.alive}
    kept |= {forward.array_of(r) for r in trace.residuals if r.storage not in saved and not forward.is_beside(r)}
    nbytes = 0
    read = {n for place in places if forward.all[place].op != "carry" for n in forward.all[place].ins}
    for place in places:
        step = forward.all[place]
        if step.op == "carry" and step.outs[0] in read:  # at the beginning of an iteration, and at its end
            read -= {*step.outs}
            nbytes += forward.values[step.outs[0]].nbytes * step.times
        for n in step.ins if step.op != "carry" else ():
            array = forward.array(n, place)
            if 0 <= forward.place_of(array) < places[0] and array not in kept:
                kept.add(array)
                nbytes += forward.nbytes(array)
    return nbytes
