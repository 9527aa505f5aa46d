"""The command `residuals bench`."""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from residuals_lab import options
from residuals_lab.errors import MissingFramework, UsageError, guess

DESCRIPTION = """\
Time ops beside what else one would pick: plain autodiff of the same maths, the
framework's own op, a checkpoint; forward, and forward and backward. All of
them run in turn, in rounds; of the ratios of all rounds the median is printed,
with its 95 % interval. JAX runs as one jitted program, PyTorch eagerly or, with
--compiled, under torch.compile.

With --beside, time your own function beside another one of the same arrays.
"""

EXAMPLES = """\
examples:
  residuals bench gelu layer_norm --framework torch
  residuals bench mine.py:fn --beside mine.py:before --arg 'f32[512,1024]'

"""


def add_to(commands: Any, help: str) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "bench",
        help=help,
        description=DESCRIPTION,
        epilog=EXAMPLES + options.EXIT_CODES,
        usage="residuals bench [OP ...] [options]\n"
        "         residuals bench TARGET --beside TARGET --arg SPEC ... [options]",
    )
    parser.set_defaults(run=run, targets=[], early=[])
    parser.add_argument("what", nargs="*", metavar="OP", help="ops (default: all); with --beside, one TARGET")
    parser.add_argument(
        "--beside",
        action=options.Target,
        dest="targets",
        metavar="TARGET",
        help="another function of the same arrays, of the same framework",
    )
    options.add_arguments(parser)
    parser.add_argument("--framework", choices=options.FRAMEWORKS, help="only this one (default: all installed)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--dtype", type=options.dtype, default="float32", help="of the ops' arrays (default: f32)")
    parser.add_argument("--size", type=options.size, default=2**20, help="elements of the first array (1,048,576)")
    parser.add_argument("--compiled", action="store_true", help="in PyTorch: under torch.compile")
    parser.add_argument("--fused", action="store_true", help="in PyTorch: our ops after residuals_torch.fuse()")
    parser.add_argument("--threads", type=options.size, metavar="N", help="use N cores (default: all)")
    parser.add_argument("--rounds", type=options.size, default=30, metavar="N", help="how often (default: 30)")
    parser.add_argument("--minutes", type=_minutes, metavar="N", help="begin no op that would not end within N minutes")
    parser.add_argument("--seed", type=options.seed, default=0, help="of the arrays and the order (default: 0)")
    parser.add_argument("--plot", type=options.path, metavar="FILE", help="also draw the ratios, as .svg or .png")
    parser.add_argument("--dark", action="store_true", help="with --plot: for a dark page")
    parser.add_argument("--save", type=options.path, metavar="FILE", help="also write the document of --json there")
    parser.add_argument(
        "--baseline", type=options.path, metavar="FILE", help="fail where something is slower than in this file"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and return the exit code."""
    _check(arguments)
    threads = _keep_to(arguments.threads)  # before a framework counts the cores
    from residuals_lab import show
    from residuals_lab.bench import Bench, Options, baseline, bench
    from residuals_lab.bench.document import document

    before = baseline.read(arguments.baseline) if arguments.baseline else None
    how = Options(
        dtype=arguments.dtype,
        size=arguments.size,
        is_compiled=arguments.compiled,
        is_fused=arguments.fused,
        device=arguments.device,
        rounds=arguments.rounds,
        seed=arguments.seed,
    )
    with show.progress("importing frameworks") as tell, contextlib.redirect_stdout(sys.stderr):
        subjects = _targets(arguments) if arguments.targets else _ops(arguments, how)
        result = Bench(how, threads, *bench(subjects, how, tell, arguments.minutes or math.inf))
    found = document(result)
    if arguments.save:
        with arguments.save.open("w", encoding="utf-8") as file:
            show.print_json(found, file)
        show.wrote(arguments.save)
    if arguments.plot:
        from residuals_lab.bench.figure import draw

        draw(result, arguments.plot, is_dark=arguments.dark)
        show.wrote(arguments.plot)
    unlike = baseline.unlike(before, found) if before else []
    changes = baseline.changes(before, found) if before and not unlike else []
    if arguments.json:
        show.print_json(found)
    else:
        from residuals_lab.bench import table

        table.show(result, show.console())
        if before:
            table.show_changes(changes, unlike, show.console())
    return 1 if unlike or any(change.is_slower for change in changes) else 0


def _minutes(text: str) -> float:
    """The option type of a time."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not minutes > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return minutes


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be done, before anything runs."""
    for option, file in (("--plot", arguments.plot), ("--save", arguments.save)):
        if file and not file.parent.is_dir():
            raise UsageError(f"{option} {file}: no folder {file.parent}")
        if file and file.is_dir():
            raise UsageError(f"{option}: expected a file, got the folder {file}")
    if arguments.rounds < 6:
        raise UsageError(f"--rounds: expected at least 6, fewer have no 95 % interval, got {arguments.rounds}")
    if arguments.dark and not arguments.plot:
        raise UsageError("--dark: expected --plot FILE with it")
    if arguments.plot:
        from residuals_lab.show import can_draw

        if arguments.plot.suffix.lower() not in {".svg", ".png"}:
            raise UsageError(f"--plot: expected a path that ends in .svg or .png, got {str(arguments.plot)!r}")
        if not can_draw():
            raise UsageError("--plot: drawing needs matplotlib; run: pip install './packages/lab[plot]'")
    if arguments.targets and (len(arguments.targets) > 1 or len(arguments.what) != 1):
        raise UsageError("--beside: expected it once, and one TARGET before it")
    if arguments.early and not arguments.targets:
        raise UsageError(f"--{arguments.early[0][0]}: expected --beside TARGET with it, as an op has its own arguments")


def _keep_to(threads: int | None) -> int:
    """Let this process use so many cores; how many it uses."""
    here = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if threads is None:
        return len(here) or os.cpu_count() or 1
    if not here:
        raise UsageError("--threads: this system cannot keep a process to some of its cores")
    if threads > len(here):
        raise UsageError(f"--threads: expected at most {len(here)}, which this machine has, got {threads}")
    os.sched_setaffinity(0, here[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    return threads


def _ops(arguments: argparse.Namespace, how: Any) -> dict[str, Callable[[], Any]]:
    """A function that makes the subject, for each op in each framework."""
    from residuals_lab import frameworks
    from residuals_lab.bench import subject_of
    from residuals_lab.ops import BY_NAME, OPS

    for name in arguments.what:
        if name not in BY_NAME:
            hint = "; a function is timed beside another: --beside TARGET" if ":" in name else guess(name, BY_NAME)
            raise UsageError(f"op: expected the name of an op, got {name!r}{hint}")
    ops = [BY_NAME[name] for name in dict.fromkeys(arguments.what)] or list(OPS)
    names = [arguments.framework] if arguments.framework else list(frameworks.installed())
    if not names:
        raise MissingFramework(frameworks.NONE_INSTALLED)
    adapters = [frameworks.load(name) for name in names]
    for adapter in adapters:
        if how.device not in adapter.devices():
            raise UsageError(f"device: {adapter.TITLE} finds no {how.device} here")
    pairs = [(op, adapter) for adapter in adapters for op in ops]
    return {f"{op.name} in {adapter.TITLE}": partial(subject_of, op, adapter, how) for op, adapter in pairs}


def _targets(arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """A function that makes the one subject: two functions at the same arguments."""
    from residuals_lab import frameworks
    from residuals_lab.bench import subject_of_targets
    from residuals_lab.frameworks.detect import framework_of
    from residuals_lab.targets.arguments import Argument
    from residuals_lab.targets.functions import load_target

    ((other, own),) = arguments.targets
    given = [Argument(how, text) for how, text in [*arguments.early, *own]]
    ran: dict[Path, ModuleType] = {}
    first = load_target(arguments.what[0], ran)
    adapter = frameworks.load(arguments.framework or framework_of(first, arguments.what[0]))
    if arguments.device not in adapter.devices():
        raise UsageError(f"device: {adapter.TITLE} finds no {arguments.device} here")
    targets = [arguments.what[0], other]
    return {targets[0]: partial(subject_of_targets, targets, given, adapter, arguments.device, ran)}
