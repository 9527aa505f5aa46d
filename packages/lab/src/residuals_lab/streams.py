"""The streams that the command writes to: of any encoding, closed, or with a reader that has gone."""

import codecs
import contextlib
import io
import os
import shutil
import sys
import textwrap

# The signs that we print and an encoding may lack, each with one that every encoding has and that is as wide.
PLAIN = {"–": "-", "−": "-", "→": ">", "×": "x", "·": "*", "…": ".", "✓": "+", "✗": "x"}


def prepare() -> None:
    """Make the standard streams take any text, and open those that were closed, as `>&-` does in a shell."""
    codecs.register_error("plain", _plain)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # the new one stays open until the process ends
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors != "plain" and mode == "w":
            stream.reconfigure(errors="plain")


def _plain(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    text = problem.object[problem.start : problem.end]
    return "".join(PLAIN.get(sign, "?") for sign in text), problem.end


def last_words(message: str) -> None:
    """Say in one line why the command ends, and drop output that nobody reads, which Python would try again at exit.

    On a terminal the line is broken at blanks.
    """
    with contextlib.suppress(OSError):
        if message:
            line = f"residuals: {' '.join(message.splitlines())}"
            if sys.stderr.isatty():  # where nothing reads lines but somebody
                width = shutil.get_terminal_size().columns
                line = textwrap.fill(
                    line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
                )
            print(line, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
