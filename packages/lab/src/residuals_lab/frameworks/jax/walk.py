"""How the JAX adapter numbers the values of jaxprs.

Calls and control flow are followed. A loop's body is numbered once, and stands for every iteration: the slice `x[i]` of
an array that it goes over is one number, and a later loop over an array that this one stacked up gets the number of its
slice back. A branch is numbered like a call; inside a `cond`, the result of an earlier `cond` on the same index is that
of the same branch.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from residuals_lab.errors import UsageError
from residuals_lab.frameworks.jax.places import named, place
from residuals_lab.frameworks.jax.words import BARRIERS, BODIES, COPIES, IDENTITIES, OPS, PROGRAMS, keeps_precision
from residuals_lab.trace import Kind
from residuals_lab.trace.recorder import ArrayType, Known, Recorder, Saved

EFFECT = "effect"  # what a callback or a print makes, as a key: the backward needs it as it needs a gradient


class Array(NamedTuple):
    """One array of a run: equal numbers are equal values, equal storages are the same array."""

    number: int
    storage: tuple[Any, ...]
    nbytes: int
    made_at: int | None = None  # how many steps there were then

    def saved_as(self, is_hidden: bool) -> Saved:
        is_made = self.storage[0] == "made"
        sizes = self.nbytes, self.nbytes
        return Saved(self.number, self.storage, self.storage, *sizes, is_made, is_hidden, made_at=self.made_at)

    def known_as(self, kind: Kind) -> Known:
        return Known(self.number, self.storage, kind)


class Equation(NamedTuple):
    """An equation of a jaxpr, with the numbers of its values."""

    eqn: Any
    ins: Sequence[int]
    outs: Sequence[int]
    bodies: "Sequence[Body]"  # the jaxprs in it, as they are run; of a loop the last one is the right one


class Body(NamedTuple):
    """A jaxpr as it was walked once."""

    jaxpr: Any
    consts: Sequence[Any]
    ins: Sequence[int]
    equations: list[Equation]


class Walk:
    """Numbers the values of jaxprs, one after the other."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.hear: Callable[[Body, Mapping[int, Any]], None] | None = None  # is told what is walked for names
        self.bodies: list[Body] | None = None  # the jaxprs that are walked at this level, if somebody hears
        self.spelled_out: dict[int, Any] = {}  # number → a literal, or an array that somebody else keeps
        self._made_so_far = 0
        self._runs = 0  # of jaxprs, so far
        self._named = ""  # the names of `jax.named_scope` around
        self._depth = 0  # how many loops are around
        self._jits = 0  # how many programs are around
        self._slices: dict[tuple[int, int], int] = {}  # array stacked by a loop at a depth → slice of one iteration
        self._next: dict[int, int] = {}  # value carried into any iteration → value carried into the next one
        self.given: dict[int, int] = {}  # `id` of a tracer that stands for an argument of the function → which one
        self.inputs: Sequence[Array] = ()
        self.names: dict[int, str] = {}  # value → what `checkpoint_name` calls it
        self.fields: dict[int, str] = {}  # value that a rule makes and saves → its name there
        self._branches: dict[int, tuple[int, tuple[int, ...]]] = {}  # result of a cond → its index, and each branch's

    def array(self, key: tuple[Any, ...], like: Any) -> Array:
        return Array(self.recorder.value(key, _type(like)), key, _nbytes(like))

    def buffers(self, args: Sequence[Any], alive: Sequence[Any], made: Sequence[Any]) -> list[Array]:
        """The arrays that a run made of `args`, and of others that were alive: equal buffers are the same array."""
        known = {address(a): self.constant(a) for a in alive}
        known |= {address(a): known for a, known in zip(args, self.inputs, strict=True)}
        for a in made:
            if not isinstance(a, jax.Array):  # it is NumPy's
                known.setdefault(address(a), self.constant(a))
            elif address(a) not in known:
                number = self.recorder.value(("buffer", address(a)), _type(a))
                known[address(a)] = self._new(number, a)
        return [known[address(a)] for a in made]

    def unseen(self, reads: Sequence[Array]) -> None:
        """One step for a backward that only runs on numbers: all that it is given counts as read."""
        self.recorder.again("backward", [a.number for a in reads], [])
        self.recorder.touch([a.storage for a in reads], [EFFECT])

    def constants(self, closed: core.ClosedJaxpr) -> list[Array]:
        return [self.constant(c) for c in closed.consts]

    def constant(self, c: Any) -> Array:
        """An array that somebody else keeps, or one of the forward that the backward closes over."""
        if hasattr(c, "primal"):  # newer ones raise an UnexpectedTracerError by themselves
            raise UsageError(
                f"a backward closes over {c.aval.str_short()} that depends on what is differentiated, "
                "which JAX refuses to differentiate; return it from fwd, as a residual"
            )
        if id(c) in self.given:
            return self.inputs[self.given[id(c)]]
        key = ("constant", id(c))
        self.spelled_out[self.array(key, c).number] = c
        return self.array(key, c)._replace(storage=("made", *key) if isinstance(c, jax.core.Tracer) else key)

    def run(self, body: Any, ins: Sequence[Array]) -> list[Array]:
        """Number what a jaxpr, closed or not, computes of `ins`, and return its outputs."""
        jaxpr = getattr(body, "jaxpr", body)
        consts = self.constants(body) if getattr(body, "consts", None) else []  # from 0.12 on any of them may have some
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *ins), strict=True))
        self._runs += 1
        this = self._runs
        heard, outside = list[Equation](), self.bodies

        def read(atom: Any) -> Array:
            if not isinstance(atom, core.Literal):
                return env[atom]
            # The same value wherever it is written, and an array of its own each time that it is saved: a jaxpr that
            # is called twice saves two.
            a = self.array(("literal", str(atom)), atom.aval)
            self.fields.setdefault(a.number, "constant")
            self.spelled_out[a.number] = atom.val
            return a._replace(storage=("made", "literal", id(atom), this))

        around = self.recorder.line, self.recorder.module, self._named
        for eqn in jaxpr.eqns:
            traceback = eqn.source_info.traceback
            line, functions = place(traceback) if traceback else ("", "")
            self._named = named(eqn, around[2])
            self.recorder.line = line or around[0]
            is_inside = {*self._named.split("/")} <= {*functions.split("/")}  # a jit names the function around
            self.recorder.module = functions if is_inside or not self._named else self._named
            self.recorder.module = self.recorder.module or around[1]
            self.bodies = None if outside is None else []
            reads = [read(atom) for atom in eqn.invars]
            made = self._equation(eqn, reads)
            env.update(zip(eqn.outvars, made, strict=True))
            if self.bodies is not None:
                heard.append(Equation(eqn, [a.number for a in reads], [a.number for a in made], self.bodies))
        self.bodies = outside
        if outside is not None:
            numbers = [a.number for a in (*consts, *ins)]
            outside.append(Body(jaxpr, getattr(body, "consts", ()) if consts else (), numbers, heard))
        self.recorder.line, self.recorder.module, self._named = around
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, reads: list[Array]) -> list[Array]:
        name, avals = eqn.primitive.name, [v.aval for v in eqn.outvars]
        if name == "name":  # of `checkpoint_name`
            self.names.setdefault(reads[0].number, eqn.params["name"])
        if name in IDENTITIES or keeps_precision(eqn):
            # A program gives buffers of their own, except where it gives the very same variable twice.
            is_copied = self.recorder.phase == "forward" and (self._jits or name in BARRIERS)
            return [self._new(a.number, aval) for a, aval in zip(reads, avals, strict=True)] if is_copied else reads
        if name in COPIES:
            return [self._again(name, reads[0], self._new(reads[0].number, avals[0]))]
        if name == "custom_vjp_call" and self.recorder.phase == "naming":
            self._name_fields(eqn.params, reads)
        if name in BODIES:
            self._jits += name in PROGRAMS
            outs = self.run(eqn.params[BODIES[name]], reads)
            self._jits -= name in PROGRAMS
            return outs
        if name == "scan":
            return self._scan(eqn.params, reads, avals)
        if name == "while":
            return self._while(eqn.params, reads, avals)
        if name == "cond":
            return self._cond(eqn.params["branches"], *reads, avals=avals)
        axes = eqn.params["dimension_numbers"].start_index_map if name == "gather" else eqn.params.get("axes", ())
        axes = [axis for axis in axes if hasattr(axis, "__index__")]  # not those of a mesh
        along = tuple(int(axis) - len(eqn.invars[0].aval.shape) for axis in axes)
        outs = self._make(OPS.get(name, name), str(eqn.params), reads, avals, along)
        if self.recorder.phase == "backward" and any(type(e).__name__ != "NamedAxisEffect" for e in eqn.effects):
            self.recorder.touch([a.storage for a in reads], [EFFECT, *(a.storage for a in outs)])
        return outs

    def _name_fields(self, params: Any, reads: list[Array]) -> None:
        """Name the values that a rule makes and saves after the fields of its named tuple, dataclass or dict."""
        try:
            forward, consts = params["fwd_jaxpr_thunk"].call_wrapped(*[False] * len(reads))
            _, tree, given = params["out_trees"]()
        except Exception:  # of any kind: JAX does not document these, and inside of a mesh the axes are not there
            return
        made = iter(self.run(core.ClosedJaxpr(forward, consts), reads))
        is_given = jax.tree.unflatten(tree, [i is not None for i in given])
        for path, leaf_is_given in jax.tree_util.tree_leaves_with_path(is_given):
            if not leaf_is_given:
                number = next(made).number
                name = getattr(path[-1], "name", getattr(path[-1], "key", None)) if path else None
                if isinstance(name, str):
                    self.fields.setdefault(number, name)

    def _make(
        self, op: str, attrs: Hashable, reads: Sequence[Array], avals: Sequence[Any], axes: tuple[int, ...] = ()
    ) -> list[Array]:
        """New arrays, of one operation."""
        numbers = self.recorder.step(op, attrs, [a.number for a in reads], [_type(aval) for aval in avals], axes)
        outs = [self._new(number, aval) for number, aval in zip(numbers, avals, strict=True)]
        self._touch(reads, outs)
        return outs

    def _again(self, op: str, read: Array, out: Array) -> Array:
        """One operation that gives an array with a number."""
        self.recorder.again(op, [read.number], [out.number])
        self._touch([read], [out])
        return out._replace(made_at=len(self.recorder.steps))

    def _touch(self, reads: Sequence[Array], outs: Sequence[Array]) -> None:
        """A backward reads arrays, not values: one that makes a value again does not read the saved array."""
        if self.recorder.phase == "backward":
            self.recorder.touch([a.storage for a in reads], [a.storage for a in outs])

    def _new(self, number: int, aval: Any) -> Array:
        self._made_so_far += 1
        return Array(number, ("made", self._made_so_far), _nbytes(aval), len(self.recorder.steps))

    def _scan(self, params: Any, reads: list[Array], avals: list[Any]) -> list[Array]:
        body, (first, split) = params["jaxpr"], scan_parts(params)
        consts, carry, xs = reads[:first], reads[first:split], reads[split:]
        loop = ("scan", params["length"], params["reverse"])
        outside, self.recorder.times = self.recorder.times, self.recorder.times * params["length"]
        slices = [self._slice(x, aval) for x, aval in zip(xs, _avals(body)[split:], strict=True)]
        carried, outs = self._any_iteration(loop, body, consts, carry, slices)
        self.recorder.times = outside
        last = self._last(loop, carried, outs, avals)
        return [*last, *map(self._stack, outs[len(carry) :], avals[len(carry) :])]

    def _while(self, params: Any, reads: list[Array], avals: list[Any]) -> list[Array]:
        n, m = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        carried, outs = self._any_iteration(("while",), params["body_jaxpr"], reads[n:m], reads[m:])
        self._depth += 1
        (goes_on,) = self.run(params["cond_jaxpr"], [*reads[:n], *carried])
        self._depth -= 1
        return self._last(("while", goes_on.number), carried, outs, avals)

    def _any_iteration(
        self,
        loop: Hashable,
        body: core.ClosedJaxpr,
        consts: Sequence[Array],
        carry: Sequence[Array],
        slices: Sequence[Array] = (),
    ) -> tuple[list[Array], list[Array]]:
        """The arrays that are carried into any iteration, and those that the iteration gives.

        Numbered optimistically: loops with equal initial carries are taken to carry equal values; if their bodies
        differ, the steps are forgotten and the carry gets another number.
        """
        avals = _avals(body)[len(consts) : len(consts) + len(carry)]
        refuted, self._depth = [0] * len(carry), self._depth + 1
        while True:
            seen: Counter[int] = Counter()
            carried, begin = [], len(self.recorder.steps)
            for a, aval, times in zip(carry, avals, refuted, strict=True):
                key = ("carried", loop, self._depth, a.number, seen[a.number], times)
                seen[a.number] += 1
                carried.append(self._again("carry", a, self.array(key, aval)))
            outs = self.run(body, [*consts, *carried, *slices])
            following = {c.number: out.number for c, out in zip(carried, outs, strict=False)}
            wrong = [i for i, n in enumerate(following) if self._next.get(n, following[n]) != following[n]]
            if not wrong:
                self._next |= following
                for c, out in zip(carried, outs, strict=False):
                    self._again("carry", out, c)
                self._depth -= 1
                return carried, outs
            self.recorder.forget(begin)
            for i in wrong:
                refuted[i] += 1

    def _last(
        self, loop: Hashable, carried: Sequence[Array], outs: Sequence[Array], avals: Sequence[Any]
    ) -> list[Array]:
        """The values that a loop gives in the end, numbered by the carry of any iteration and what that makes of it."""
        pairs = zip(carried, outs, avals, strict=False)
        return [out for c, made, aval in pairs for out in self._make("carry", (loop, c.number), [made], [aval])]

    def _slice(self, x: Array, aval: Any) -> Array:
        """`x[i]` in iteration i of a loop that begins here."""
        key = (x.number, self._depth)
        if key in self._slices:
            return self._again("slice", x, self._new(self._slices[key], aval))
        (made,) = self._make("slice", ("iteration", self._depth), [x], [aval])
        return made

    def _stack(self, out: Array, aval: Any) -> Array:
        """The slices that the iterations of the loop that ends here gave, in one array."""
        (whole,) = self._make("stack", aval.shape[0], [out], [aval])
        self._slices[whole.number, self._depth] = out.number
        self.recorder.parts[whole.number] = out.number
        return whole

    def _cond(self, branches: Sequence[core.ClosedJaxpr], index: Array, *reads: Array, avals: list[Any]) -> list[Array]:
        given, outside, this = [], self.recorder.branches, len(self.recorder.steps)
        for i, body in enumerate(branches):
            self.recorder.branches = (*outside, (this, i))
            given.append(self.run(body, [self._within(a, index, i) for a in reads]))
        self.recorder.branches = outside
        outs = []
        for of_each, aval in zip(zip(*given, strict=True), avals, strict=True):
            (out,) = self._make("branch", None, [index, *of_each], [aval])
            self._branches[out.number] = (index.number, tuple(a.number for a in of_each))
            outs.append(out)
        return outs

    def _within(self, a: Array, index: Array, i: int) -> Array:
        """An array as a branch sees it: if a `cond` on the same index gave it, the array that its same branch gave."""
        of, numbers = self._branches.get(a.number, (None, ()))
        if of != index.number:
            return a
        return self._again("branch_in", a, a._replace(number=numbers[i]))


def scan_parts(params: Any) -> tuple[int, int]:
    """Where among a scan's operands the carry begins, and where the arrays that it goes over."""
    if "num_consts" in params:
        return params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, _ = (len([*part]) for part in params["ft_in"].unpack())  # from 0.12 on
    return consts, consts + carry


def _avals(body: Any) -> list[Any]:
    return [v.aval for v in getattr(body, "jaxpr", body).invars]


def address(a: Any) -> Hashable:
    """The address of an array's memory, where it has a single one and is not empty; else a key of its own."""
    if isinstance(a, jax.Array) and not jnp.issubdtype(a.dtype, jax.dtypes.extended) and a.nbytes:
        return a.unsafe_buffer_pointer() if len(a.devices()) == 1 else id(a)
    return "array", id(a)


def _type(like: Any) -> ArrayType:
    return ArrayType(like.shape, str(like.dtype), like.dtype.itemsize)


def _nbytes(like: Any) -> int:
    return int(like.size * like.dtype.itemsize)
