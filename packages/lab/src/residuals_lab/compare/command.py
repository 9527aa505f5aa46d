"""The command `residuals compare`."""

import argparse
import contextlib
import shlex
import sys
from pathlib import Path
from typing import Any

from residuals_lab import options
from residuals_lab.errors import MissingFramework, UsageError, guess

IN_DETAIL = 3  # so many ops have a table each; more have a line each


def add_to(commands: Any, help: str) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "compare",
        help=help,
        description="Compare ops, or your own function beside an op, in every installed framework: errors against the "
        "float64 truth, residuals by name, bytes really saved, what the backward repeats, and the exchange of "
        "residuals between frameworks. Up to three ops in detail; with more, or no OP, one line an op and framework.",
        epilog=options.EXIT_CODES,
    )
    parser.add_argument(
        "what", nargs="*", metavar="OP", help="ops; with --like, one file.py:function or module:function"
    )
    parser.add_argument("--like", metavar="OP", help="the op that your function computes")
    parser.add_argument(
        "--framework", choices=options.FRAMEWORKS, help="only this one (default: all that are installed)"
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where to run (default: cpu)")
    parser.add_argument(
        "--dtype",
        type=options.dtype,
        help="one dtype for everything (default: errors in float64 and float32, bytes in float32)",
    )
    parser.add_argument("--size", type=options.size, default=4096, help="elements of the first array (default: 4096)")
    parser.add_argument("--seed", type=options.seed, default=0, help="of the random arrays (default: 0)")
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE", help="an array from a .npy, .npz or .csv file"
    )
    options.add_plot(parser, "the lanes of one op")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print, and return the exit code."""
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
    for name, path in map(named_file, arguments.input):
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

    if arguments.like is None:
        ops = [_op(name) for name in dict.fromkeys(arguments.what)] or list(OPS)
        return ops, [arguments.framework] if arguments.framework else list(frameworks.installed()), None
    ops = [_op(arguments.like)]
    if len(arguments.what) != 1:
        raise UsageError(f"--like expects one file.py:function or module:function, got {len(arguments.what)}")
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result, not for the file's own output
        fn = load_target(arguments.what[0])
    framework = arguments.framework or framework_of(fn, arguments.what[0])
    return ops, [framework], Target(arguments.what[0], fn, framework)


def _op(name: str) -> Any:
    from residuals_lab.ops import BY_NAME

    if name not in BY_NAME:
        if ":" in name:
            like = shlex.join(["residuals", "compare", name, "--like", "OP"])
            raise UsageError(f"op: {name} is a function; to compare it with an op of the same arguments: {like}")
        near = guess(name, BY_NAME)
        expected = "the name of an op" if near else f"one of {', '.join(BY_NAME)}"
        raise UsageError(f"op: expected {expected}, got {name!r}{near}")
    return BY_NAME[name]
