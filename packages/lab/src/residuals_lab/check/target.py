"""The check of a target that a command line names, at arguments that it spells out: what runs in the child process."""

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from residuals_lab import frameworks
from residuals_lab.check import Check, rules, run, subject_of
from residuals_lab.errors import UsageError
from residuals_lab.frameworks import calls
from residuals_lab.frameworks.detect import framework_of
from residuals_lab.frameworks.messages import explained
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops import BY_NAME
from residuals_lab.targets.arguments import Argument, value
from residuals_lab.targets.calls import Marked
from residuals_lab.targets.functions import load_target
from residuals_lab.trace import Role

ROLES: dict[str, Role] = {"arg": "input", "param": "parameter", "frozen": "frozen", "input": "input"}


# Eight devices to shard over, and hundreds of programs that each run once: unoptimized they compile in a quarter of the
# time.
XLA = ("--xla_backend_optimization_level=0", "--xla_force_host_platform_device_count=8")


class Ask(NamedTuple):
    """What the command line asks for; all of it can be pickled."""

    target: str
    arguments: tuple[Argument, ...]
    framework: str | None = None
    reference: str | None = None  # a target, or the name of an op
    vjp_reference: str | None = None
    names: tuple[str, ...] | None = None
    new_bytes: int | None = None
    require: tuple[str, ...] = ()
    family: str | None = None
    rule: str | None = None
    is_quick: bool = False
    seed: int = 0
    is_told: bool = False  # whether each family is told on stderr when it is done


def check_target(ask: Ask) -> Check:
    """The check of `file.py:function` or `package.module:function` at these arguments.

    Raises:
        UsageError: whatever is wrong with the target or its arguments, in one line that says what to do.
    """
    told = sys.stderr
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *XLA])  # read when the target imports JAX
    ran: dict[Path, ModuleType] = {}  # files that have run: one that has several targets runs once
    with contextlib.redirect_stdout(sys.stderr):
        fn = load_target(ask.target, ran)
        adapter = frameworks.load(ask.framework or framework_of(fn, ask.target))
        reference, vjp_reference = (_reference(text, ran) for text in (ask.reference, ask.vjp_reference))
        how = {
            "names": ask.names,
            "new_bytes": ask.new_bytes,
            "require": ask.require,
            "seed": ask.seed,
            "is_quick": ask.is_quick,
        }
        with adapter.precision(_widest(ask.arguments)):
            args, kwargs = _arguments(ask, adapter, ran)
            try:
                subject = subject_of(fn, args, kwargs, reference, vjp_reference, adapter.NAME, how)
            except UsageError:
                raise
            except Exception as problem:
                raise UsageError(f"{ask.target}: {explained(problem, is_concrete=True)}") from problem

            def tell(family: str, found: str) -> None:
                if ask.is_told:
                    print(f"  {family:<11} {found}", file=told, flush=True)

            return run(subject, ask.target, rules.chosen(ask.family, ask.rule), tell)


def _reference(text: str | None, ran: dict[Path, ModuleType]) -> Any:
    if text is None or text in BY_NAME:
        return text
    return load_target(text, ran)


def _widest(arguments: Sequence[Argument]) -> str:
    """float64 if an argument is spelled so: JAX then has to be told before it makes one."""
    return "float64" if any(re.match(r"(\w+=)?(f64|c128|i64)\[", a.text) for a in arguments) else "float32"


def _arguments(ask: Ask, adapter: Framework, ran: dict[Path, ModuleType]) -> tuple[list[Marked], dict[str, Any]]:
    """The arguments in order, and those by name; the numbers of an array that is spelled by its shape are random, of
    either sign.
    """
    args, kwargs, of = list[Marked](), dict[str, Any](), calls.load(adapter.NAME)
    rng = np.random.default_rng(ask.seed)
    for argument in ask.arguments:
        name, given = _complex(adapter, argument) or value(adapter, argument, True, ran)
        if re.match(r"(\w+=)?\w+\[", argument.text) and of.is_inexact(given):
            real, imaginary = rng.standard_normal(given.shape), rng.standard_normal(given.shape)
            made = of.like(given, real + 1j * imaginary)  # of which an array of real numbers takes the real part
            given = made.requires_grad_() if hasattr(made, "requires_grad_") else made
        if name in kwargs:
            raise UsageError(f"--{argument.how}: {name} is given twice, the second time as {argument.text!r}")
        marked = Marked(given, ROLES[argument.how])
        if name:
            kwargs[name] = marked
        else:
            args.append(marked)
    return args, kwargs


def _complex(adapter: Framework, argument: Argument) -> tuple[str, Any] | None:
    """The name and an array of an argument such as `z=c128[6]`; None if it is spelled otherwise."""
    found = re.fullmatch(r"(?:(\w+)=)?c(64|128)\[([\d, ]*)\]", argument.text)
    if not found:
        return None
    shape = [int(n) for n in found[3].split(",") if n.strip()]
    return found[1] or "", adapter.constant(np.zeros(shape, f"complex{found[2]}"))
