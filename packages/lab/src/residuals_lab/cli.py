"""The command `residuals`. The only place that knows about arguments; nothing heavy is imported until it is needed."""

import argparse
import contextlib
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from residuals_lab import __version__, streams
from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.options import AUDIT, AUDIT_EXAMPLES, EXIT_CODES, LOCK

FRAMEWORKS = ("jax", "torch")
DTYPES = {"f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}
IN_DETAIL = 3  # ops, for each of which a whole table is not too much


class _Parser(argparse.ArgumentParser):
    """One line for a wrong argument instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    streams.prepare()
    try:
        try:
            arguments = _parser().parse_args(argv)
            code: int = arguments.run(arguments)
        finally:  # after --help, too
            sys.stdout.flush()  # so that a full disk is noticed here, and a pipe that nobody reads
        return code
    except (UsageError, MissingFramework) as problem:
        message, code = str(problem), problem.exit_code
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        message, code = "", 0
    except (OSError, MemoryError) as problem:
        file, why = getattr(problem, "filename", None), getattr(problem, "strerror", None)
        message = f"{file}: {why}" if file and why else str(problem) or "out of memory"
        code = UsageError.exit_code
    streams.last_words(message)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="residuals",
        description="See, choose and prove what a backward pass keeps, in JAX and in PyTorch.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"residuals {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    compare = commands.add_parser(
        "compare",
        help="ops in NumPy, JAX and PyTorch side by side: errors, residuals, bytes, the exchange",
        description="Compare ops, or your own function beside an op, in every installed framework: errors against the "
        "float64 truth, residuals by name, bytes really held, what the backward computes again, and the exchange of "
        "residuals between frameworks. Up to three ops in detail; with more, or no OP, one line an op and framework.",
        epilog=EXIT_CODES,
    )
    compare.add_argument(
        "what", nargs="*", metavar="OP", help="ops; with --like, one file.py:function or module:function"
    )
    compare.add_argument("--like", metavar="OP", help="the op that your function does the work of")
    compare.add_argument("--framework", choices=FRAMEWORKS, help="only this one (default: all that are installed)")
    compare.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where to run (default: cpu)")
    compare.add_argument(
        "--dtype",
        type=_dtype,
        help="one dtype for everything (default: errors in float64 and float32, bytes in float32)",
    )
    compare.add_argument("--size", type=_size, default=4096, help="elements of the first array (default: 4096)")
    compare.add_argument("--seed", type=_seed, default=0, help="of the random arrays (default: 0)")
    compare.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE", help="an array from a .npy, .npz or .csv file"
    )
    _plot(compare, "the lanes of one op")
    compare.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    compare.set_defaults(run=_compare)

    _audit_parser(commands)
    _lock_parser(commands)

    learn = commands.add_parser(
        "learn",
        help="exercises: a stub to fill in, graded on what it saves",
        description="Put an exercise into the current directory, then grade it: gradient, residuals, bytes.",
        epilog=EXIT_CODES,
    )
    learn.add_argument("exercise", help="extra_residual")
    learn.add_argument("--framework", choices=FRAMEWORKS, help="which one (default: the only one installed)")
    does = learn.add_mutually_exclusive_group()
    does.add_argument("--check", action="store_true", help="grade your file and explain the first thing that is wrong")
    does.add_argument("--hint", type=int, nargs="?", const=1, metavar="N", help="show a hint: the first, or the Nth")
    does.add_argument("--reset", action="store_true", help="overwrite your file with a fresh stub")
    learn.add_argument("--json", action="store_true", help="with --check: one JSON document")
    learn.set_defaults(run=_learn)
    return parser


class _Target(argparse.Action):
    """A target, to which the arguments after it belong."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, option: str | None = None) -> None:
        if isinstance(value, str):  # and not the default of one that may be absent
            setattr(namespace, self.dest, [*getattr(namespace, self.dest), (value, [])])


class _Argument(argparse.Action):
    """An argument of the last target; those before the first target belong to it too."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, option: str | None = None) -> None:
        if not namespace.targets:
            namespace.early = [*namespace.early, (self.dest, value)]
        else:
            namespace.targets[-1][1].append((self.dest, value))


def _arguments(parser: argparse.ArgumentParser) -> None:
    """The options that are arguments of a target."""
    for name, help in (
        ("arg", "an argument"),
        ("param", "an argument that is a parameter, or a tree of them"),
        ("frozen", "an argument that is not differentiated"),
        ("input", "NAME=FILE: an argument from a file, by name"),
    ):
        parser.add_argument(f"--{name}", action=_Argument, metavar="SPEC", help=help, default=argparse.SUPPRESS)


def _audit_parser(commands: Any) -> None:
    audit = commands.add_parser(
        "audit",
        help="what any function keeps for its backward: bytes, where from, what is wasted",
        description=AUDIT,
        epilog=AUDIT_EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="residuals audit TARGET [--arg SPEC ...]\n         [--beside TARGET [--arg SPEC ...]] [options]",
    )
    audit.set_defaults(run=_audit, targets=[], early=[])
    audit.add_argument("targets", action=_Target, metavar="TARGET", help="the function, module or callable tree")
    _arguments(audit)
    audit.add_argument(
        "--beside",
        action=_Target,
        dest="targets",
        metavar="TARGET",
        help="a second target, side by side; arguments after it are its own (default: those of the first)",
    )
    audit.add_argument(
        "--framework",
        action=_Argument,
        choices=FRAMEWORKS,
        default=argparse.SUPPRESS,
        help="of the target before it, where it cannot be told from that",
    )
    audit.add_argument(
        "--concrete", action="store_true", help="compute the forward, for code whose path depends on numbers"
    )
    audit.add_argument("--top", type=_size, default=12, metavar="N", help="rows of a table (default: 12)")
    audit.add_argument("--by", choices=("source", "module", "kind"), help="sum up instead of listing arrays")
    audit.add_argument("--compiled", action="store_true", help="also what is kept once a compiler has had its say")
    audit.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    audit.add_argument("--html", type=_path, metavar="FILE", help="also write the report as a page")
    _plot(audit, "the lanes")


def _plot(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--plot", type=_path, metavar="FILE", help=f"also draw {what}, as .svg or .png")
    parser.add_argument("--dark", action="store_true", help="with --plot: for a dark page")


def _check_files(arguments: argparse.Namespace, targets: Sequence[str]) -> None:
    """Refuse a picture or a page that cannot be made, before anything is run for it."""
    page = getattr(arguments, "html", None)
    if page and not page.parent.is_dir():
        raise UsageError(f"{page}: no folder {page.parent}")
    for target in targets if arguments.plot or page else ():
        if not target.isprintable():  # no text: a path of bytes that are no UTF-8
            raise UsageError(f"target: expected a name that can be written into a file, got {target!r}")
    if arguments.plot:
        from residuals_lab import lanes

        lanes.check(arguments.plot)
    elif arguments.dark:
        raise UsageError("--dark: expected --plot FILE with it")


def _lock_parser(commands: Any) -> None:
    lock = commands.add_parser(
        "lock",
        help="fail where a target keeps more for its backward than a file says",
        description=LOCK,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    does = lock.add_subparsers(title="commands", required=True, metavar="write|check")
    write = does.add_parser(
        "write",
        help="write the file",
        description="Add a target to the file, or update it; without one, look at all of them again.",
        usage="residuals lock write [TARGET --arg SPEC ...] [--file FILE] [--framework NAME] [--concrete]",
        epilog="The arguments of a target are those of residuals audit, whose --help explains them.",
    )
    check = does.add_parser(
        "check",
        help="check it",
        description="Fail if a target keeps more bytes than the file says, or an array that is not in it.",
        usage="residuals lock check [TARGET] [--file FILE] [--framework NAME] [--json]",
        epilog=EXIT_CODES,
    )
    for parser in (write, check):
        parser.set_defaults(run=_lock, targets=[], early=[], json=False)
        parser.add_argument("targets", action=_Target, nargs="?", metavar="TARGET", help="only this one")
        parser.add_argument("--file", type=_path, default=Path("residuals.lock"), help="default: residuals.lock")
        parser.add_argument("--framework", choices=FRAMEWORKS, help="only targets of this one")
    _arguments(write)
    write.add_argument("--concrete", action="store_true", help="compute the forward, now and whenever it is checked")
    check.add_argument("--json", action="store_true", help="one JSON document")
    write.set_defaults(is_write=True)
    check.set_defaults(is_write=False)


def _lock(arguments: argparse.Namespace) -> int:
    from residuals_lab import lock, show

    with show.progress("tracing"):
        if not arguments.is_write:
            targets = [target for target, _ in arguments.targets]
            return lock.run_check(arguments.file, targets, arguments.framework, arguments.json)
        specs = [
            (target, [f"--{how} {text}" for how, text in (*arguments.early, *own)]) for target, own in arguments.targets
        ]
        if arguments.concrete:
            specs = [(target, [*own, "--concrete"]) for target, own in specs]
        if arguments.early and not specs:
            raise UsageError("lock write: expected a TARGET for these arguments, got none")
        return lock.run_write(arguments.file, specs, arguments.framework)


def _audit(arguments: argparse.Namespace) -> int:
    from residuals_lab import show

    (first, own), *others = arguments.targets
    if len(others) > 1:
        raise UsageError("--beside: expected it once")
    _check_files(arguments, [target for target, _ in arguments.targets])
    with show.progress("importing"):
        from residuals_lab.audit import table
        from residuals_lab.audit.target import Argument, audit_target

    reports = []
    specs: list[Argument] = []
    for target, given in [(first, [*arguments.early, *own]), *others]:
        specs = [Argument(how, text) for how, text in given if how != "framework"] or specs
        framework, *more = [text for how, text in given if how == "framework"] or [None]
        if more:
            raise UsageError(f"--framework: expected it once for {target}, got {', '.join([str(framework), *more])}")
        with show.progress(f"tracing {target}"):
            reports.append(audit_target(target, specs, framework, arguments.concrete))
    if arguments.compiled:
        with show.progress("compiling"), contextlib.redirect_stdout(sys.stderr):
            for report in reports:
                _ = report.after_compilation
    if arguments.plot:
        from residuals_lab import lanes

        lanes.draw(table.titled(reports), arguments.plot, is_dark=arguments.dark)
    if arguments.html:
        arguments.html.write_text(table.page(reports, arguments.top), encoding="utf-8")
    if arguments.json:
        print(json.dumps(_finite(table.documents(reports, arguments.by)), indent=2, allow_nan=False))
    else:
        table.show_all(reports, show.console(), arguments.top, arguments.by)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from residuals_lab import frameworks, show, targets
    from residuals_lab.compare import Target, compare, traces
    from residuals_lab.compare.measure import Options
    from residuals_lab.frameworks.detect import framework_of
    from residuals_lab.ops import BY_NAME, OPS

    def op(name: str) -> Any:
        if name not in BY_NAME:
            own = f"; for your own function: {shlex.join(['residuals', 'compare', name, '--like', 'OP'])}"
            raise UsageError(f"op: expected one of {', '.join(BY_NAME)}, got {name!r}{own if ':' in name else ''}")
        return BY_NAME[name]

    target = None
    if arguments.like is None:
        ops = [op(name) for name in dict.fromkeys(arguments.what)] or list(OPS)
        names = [arguments.framework] if arguments.framework else list(frameworks.installed())
    else:
        ops = [op(arguments.like)]
        if len(arguments.what) != 1:
            raise UsageError(f"--like expects one file.py:function or module:function, got {len(arguments.what)}")
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no part of what is asked for
            fn = targets.load_target(arguments.what[0])
        names = [arguments.framework or framework_of(fn, arguments.what[0])]
        target = Target(arguments.what[0], fn, names[0])
    _check_files(arguments, arguments.what)
    if arguments.plot and len(ops) != 1:
        raise UsageError(f"--plot: expected one op, got {len(ops)}")
    if not names:
        raise MissingFramework(f"no framework is installed; run: {' or: '.join(frameworks.INSTALL.values())}")
    arrays: dict[str, Path] = {}
    for name, path in map(targets.named_file, arguments.input):
        if arrays.setdefault(name, path) is not path:
            raise UsageError(f"--input: {name} is given twice, as {arrays[name]} and as {path}")
    options = Options(
        dtypes=(arguments.dtype,) if arguments.dtype else Options.dtypes,
        device=arguments.device,
        size=arguments.size,
        seed=arguments.seed,
        inputs={name: targets.read_array(name, path) for name, path in arrays.items()},
    )
    with show.progress("importing frameworks"):
        adapters: list[Any] = [frameworks.load(name) for name in names]
    for adapter in adapters:
        if options.device not in adapter.devices():
            raise UsageError(f"device: {adapter.TITLE} finds no {options.device} here")
    if arguments.plot:
        from residuals_lab import lanes

        lanes.draw(traces(ops[0], adapters, options, target), arguments.plot, is_dark=arguments.dark)
    with show.progress(f"comparing {', '.join(op.name for op in ops)}"), contextlib.redirect_stdout(sys.stderr):
        document = compare(ops, adapters, options, target)
    if arguments.json:
        print(json.dumps(_finite(document), indent=2, allow_nan=False))
    else:
        from residuals_lab.compare import summary, table

        view = table if len(ops) <= IN_DETAIL else summary
        view.show(document, show.console())
    return 1 if document["failures"] else 0


def _finite(facts: Any) -> Any:
    """The same document with null for what JSON has no number for."""
    if isinstance(facts, dict):
        return {key: _finite(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [_finite(value) for value in facts]
    return None if isinstance(facts, float) and not math.isfinite(facts) else facts


def _learn(arguments: argparse.Namespace) -> int:
    from residuals_lab import learn

    return learn.run(
        arguments.exercise,
        arguments.framework,
        check=arguments.check,
        hint=arguments.hint,
        reset=arguments.reset,
        as_json=arguments.json,
    )


def _dtype(text: str) -> str:
    name = DTYPES.get(text, text)
    if name not in DTYPES.values():
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(DTYPES.values())}, got {text!r}")
    return name


def _size(text: str) -> int:
    return _whole(text, 1, "expected a whole number above 0")


def _seed(text: str) -> int:
    return _whole(text, 0, "expected a whole number, 0 or above")


def _whole(text: str, least: int, expected: str) -> int:
    with contextlib.suppress(ValueError):  # of thousands of digits, which Python refuses to read
        if text.isdecimal() and int(text) >= least:
            return int(text)
    raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)
