"""The command `residuals`: the list of its commands. Nothing is imported but what the chosen command needs."""

import sys
from collections.abc import Sequence
from importlib import import_module

from residuals_lab import __version__, streams
from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.options import EXIT_CODES, Parser

COMMANDS = {
    "compare": "ops in NumPy, JAX and PyTorch side by side: errors, residuals, bytes, the exchange",
    "audit": "what any function keeps for its backward: bytes, where from, what is wasted",
    "check": "is a custom gradient right? every known way of going wrong, found and named",
    "bench": "how fast is it? ops, or two functions, beside what else one would pick",
    "lock": "fail where a target keeps more for its backward than a file says",
    "learn": "exercises: a stub to fill in, graded on what it saves",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    streams.prepare()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            arguments = _parser(words).parse_args(words)
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


def _parser(words: Sequence[str]) -> Parser:
    """The parser of all commands, in which only the one that the first word names has its options."""
    parser = Parser(
        prog="residuals",
        description="See, choose and prove what a backward pass keeps, in JAX and in PyTorch.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"residuals {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, help in COMMANDS.items():
        if words[:1] == [name]:
            import_module(f"residuals_lab.{name}.command").add_to(commands, help)
        else:
            commands.add_parser(name, help=help)
    return parser
