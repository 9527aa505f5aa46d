"""A function in a forked child with limits: what takes seconds to import is imported once, before.

`residuals_lab.targets.isolated` starts a fresh interpreter, which is safer, and takes a second or three to import a
framework; of several hundred mutants those are most of the time.
"""

import contextlib
import os
import pickle
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """How long the function may compute, and how much memory its process may take. It may wait ten times as long."""

    seconds: int
    nbytes: int


class Ended(Exception):
    """The child ended without a result."""


def call(fn: Callable[..., Any], *args: Any, limits: Limits) -> Any:
    """What `fn` returns in a child for these arguments; the result has to be picklable.

    Raises:
        Ended: it took too long or too much memory, crashed, or raised.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        _serve(fn, args, writing, limits)
    os.close(writing)
    answer, ends = b"", time.monotonic() + 10 * limits.seconds
    try:
        while select.select([reading], [], [], max(0.0, ends - time.monotonic()))[0]:
            part = os.read(reading, 1 << 20)
            if not part:
                break
            answer += part
        else:
            raise Ended(f"after {10 * limits.seconds} s")
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # the child and whatever it started
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not answer:
        raise Ended(f"by {os.waitstatus_to_exitcode(status)}")
    return pickle.loads(answer)


def _serve(fn: Callable[..., Any], args: tuple[Any, ...], writing: int, limits: Limits) -> None:
    """The child: run, answer, end."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (limits.nbytes, limits.nbytes))
        resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(pickle.dumps(fn(*args)))
        code = 0
    finally:
        os._exit(code)
