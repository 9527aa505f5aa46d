"""The command `residuals compare`."""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from residuals_lab import options
from residuals_lab.errors import MissingFramework, UsageError, guess

DESCRIPTION = """\
Compare ops in every installed framework: errors against the float64 truth,
residuals by name, bytes really saved, what the backward repeats, and the
exchange of residuals between frameworks. Up to three ops in detail; with more,
or no OP, one line an op and framework.

With --like, compare your own function with an op of the same arguments. With
--beside, compare two functions, in one framework or in two: values, gradients,
second derivatives, bytes, and residuals by their values. A known difference is
named. Their arguments are those of residuals audit, drawn by the seed where
only a shape is given: --arg 'f32[64,8]', --param params.py:init, --frozen,
--input x=data.npy, --arg eps=1e-5.
"""

EXAMPLES = """\
examples:
  residuals compare x_sin_x
  residuals compare mine.py:fn --like x_sin_x
  residuals compare in_jax.py:norm --beside in_torch.py:norm --arg 'f32[64,8]'

"""

IN_DETAIL = 3  # so many ops have a table each; more have a line each


def add_to(commands: Any, help: str) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "compare",
        help=help,
        description=DESCRIPTION,
        epilog=EXAMPLES + options.EXIT_CODES,
        usage="residuals compare [OP ...] [options]\n"
        "         residuals compare TARGET --like OP [options]\n"
        "         residuals compare TARGET [--arg SPEC ...] --beside TARGET [--arg SPEC ...] [options]",
    )
    parser.set_defaults(run=run, targets=[], early=[])
    parser.add_argument(
        "what",
        nargs="*",
        metavar="OP",
        help="ops; with --like or --beside, one file.py:function or package.module:function",
    )
    parser.add_argument("--like", metavar="OP", help="the op that your function computes")
    parser.add_argument(
        "--beside",
        action=options.Target,
        dest="targets",
        metavar="TARGET",
        help="another function of the same arrays; arguments after it are its own; one without any has the other's",
    )
    options.add_arguments(parser)
    parser.add_argument(
        "--framework",
        action=options.Argument,
        choices=options.FRAMEWORKS,
        default=argparse.SUPPRESS,
        help="only this one (default: all that are installed); with --beside, that of the target before it",
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where to run (default: cpu)")
    parser.add_argument(
        "--dtype",
        type=options.dtype,
        help="one dtype for everything (default: errors in float64 and float32, bytes in float32)",
    )
    parser.add_argument("--size", type=options.size, default=4096, help="elements of the first array (default: 4096)")
    parser.add_argument("--seed", type=options.seed, default=0, help="of the random arrays (default: 0)")
    options.add_plot(parser, "the lanes of one op")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Compare, print, and return the exit code."""
    return _run_beside(arguments) if arguments.targets else _run_ops(arguments)


def _run_ops(arguments: argparse.Namespace) -> int:
    """Compare ops, or a function with an op."""
    from residuals_lab import frameworks, show
    from residuals_lab.compare import compare, traces
    from residuals_lab.compare.measure import Options
    from residuals_lab.targets.numbers import named_file, read_array

    ops, names, target = _chosen(arguments)
    options.check_files(arguments, arguments.what)
    if arguments.plot and len(ops) != 1:
        raise UsageError(f"--plot: expected one op, got {len(ops)}")
    if not names:
        raise MissingFramework(frameworks.NONE_INSTALLED)
    arrays: dict[str, Path] = {}
    for how_given, _ in arguments.early:
        if how_given not in ("input", "framework"):
            raise UsageError(f"--{how_given}: expected --beside TARGET with it, as an op has its own arguments")
    for name, path in map(named_file, _given(arguments.early, "input")):
        if arrays.setdefault(name, path) is not path:
            raise UsageError(f"--input: {name} is given twice, as {arrays[name]} and as {path}")
    how = Options(
        dtypes=(arguments.dtype,) if arguments.dtype else Options.dtypes,
        device=arguments.device,
        size=arguments.size,
        seed=arguments.seed,
        inputs={name: read_array(name, path) for name, path in arrays.items()},
    )
    with show.progress("importing frameworks"):
        adapters = [frameworks.load(name) for name in names]
    for adapter in adapters:
        if how.device not in adapter.devices():
            raise UsageError(f"device: {adapter.TITLE} finds no {how.device} here")
    with show.progress("comparing") as tell, contextlib.redirect_stdout(sys.stderr):
        comparison = compare(ops, adapters, how, target, tell)
    if arguments.plot:
        from residuals_lab import lanes

        with contextlib.redirect_stdout(sys.stderr):
            pictures = {title: lanes.Picture(trace) for title, trace in traces(ops[0], adapters, how, target).items()}
            lanes.draw(pictures, arguments.plot, **options.drawing(arguments))
        show.wrote(arguments.plot)
    if arguments.json:
        from residuals_lab.compare.document import document

        show.print_json(document(comparison))
    else:
        from residuals_lab.compare import summary, table

        view = table if len(ops) <= IN_DETAIL else summary
        view.show(comparison, show.console())
    return 1 if comparison.findings else 0


def _chosen(arguments: argparse.Namespace) -> tuple[list[Any], list[str], Any]:
    """The ops, the frameworks, and, with --like, somebody's function to compare with the one op."""
    from residuals_lab import frameworks
    from residuals_lab.compare import Target
    from residuals_lab.frameworks.detect import framework_of
    from residuals_lab.ops import OPS
    from residuals_lab.targets.functions import load_target

    framework = next(iter(_given(arguments.early, "framework")[::-1]), None)
    if arguments.like is None:
        ops = [_op(name) for name in dict.fromkeys(arguments.what)] or list(OPS)
        return ops, [framework] if framework else list(frameworks.installed()), None
    ops = [_op(arguments.like)]
    if len(arguments.what) != 1:
        raise UsageError(f"--like expects one file.py:function or module:function, got {len(arguments.what)}")
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result, not for the file's own output
        fn = load_target(arguments.what[0])
    framework = framework or framework_of(fn, arguments.what[0])
    return ops, [framework], Target(arguments.what[0], fn, framework)


def _given(arguments: Sequence[tuple[str, str]], how: str) -> list[str]:
    """What was given to one option."""
    return [text for given, text in arguments if given == how]


def _run_beside(arguments: argparse.Namespace) -> int:
    """Compare two people's functions."""
    from residuals_lab import show

    if len(arguments.targets) > 1:
        raise UsageError("--beside: expected it once")
    if arguments.like is not None or len(arguments.what) != 1:
        raise UsageError(f"--beside: expected one TARGET before it and no --like, got {len(arguments.what)}")
    if arguments.plot:
        raise UsageError("--plot: expected an op; two functions are drawn by residuals audit TARGET --beside TARGET")
    options.check_files(arguments, arguments.what)
    with show.progress("importing"):
        from residuals_lab.compare import beside_table, ports
        from residuals_lab.compare.beside import beside
        from residuals_lab.compare.document import beside_document
        from residuals_lab.compare.measure import Options
        from residuals_lab.targets.arguments import Argument

    ((other, own),) = arguments.targets
    found = []
    ran: dict[Path, ModuleType] = {}  # files that have run: one that has both functions runs once
    for target, given, others in ((arguments.what[0], arguments.early, own), (other, own, arguments.early)):
        specs, theirs = ([Argument(how, text) for how, text in a if how != "framework"] for a in (given, others))
        found.append(ports.load(target, specs or theirs, next(iter(_given(given, "framework")), None), ran))
    for port in found:
        if arguments.device not in port.adapter.devices():
            raise UsageError(f"device: {port.adapter.TITLE} finds no {arguments.device} here")
    dtypes = (arguments.dtype,) if arguments.dtype else Options.dtypes
    how = Options(dtypes=dtypes, device=arguments.device, seed=arguments.seed)
    with show.progress("comparing") as tell:
        try:
            result = beside(found[0], found[1], how, tell)
        except UsageError as problem:
            hint = "; --dtype float32 compares in float32 alone" if "dtype" in str(problem) and len(dtypes) > 1 else ""
            raise UsageError(f"{problem}{hint}") from problem
    if arguments.json:
        show.print_json(beside_document(result))
    else:
        beside_table.show(result, show.console())
    return 1 if result.findings else 0


def _op(name: str) -> Any:
    from residuals_lab.ops import BY_NAME

    if name not in BY_NAME:
        if ":" in name:
            like = shlex.join(["residuals", "compare", name, "--like", "OP"])
            raise UsageError(
                f"op: {name} is a function; to compare it with an op of the same arguments: {like}; with another "
                "function: --beside TARGET"
            )
        near = guess(name, BY_NAME)
        expected = "the name of an op" if near else f"one of {', '.join(BY_NAME)}"
        raise UsageError(f"op: expected {expected}, got {name!r}{near}")
    return BY_NAME[name]
