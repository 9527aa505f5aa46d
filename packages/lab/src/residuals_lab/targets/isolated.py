"""A function of ours that runs other people's code, in a child process with limits: it may exit, crash or never end.

The child is a fresh interpreter. Its result comes back through a pipe of its own, and all that it prints goes to
stderr. It is in a session of its own, so that Ctrl-C reaches only this process, which then ends the child.
"""

import faulthandler
import importlib
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO, Any, Literal, NamedTuple

_POLL = 0.05  # seconds between two looks at the child's memory
_START = 120.0  # seconds that the child may take on top of its limit, to start and to import
_REPORT = 5.0  # seconds that an aborted child has to report where it was
_TIMEOUT = "Timeout ("  # the beginning of faulthandler's report of a child that is out of time


class Limits(NamedTuple):
    """How long the function may run, and how much resident memory its process may take."""

    seconds: float
    nbytes: int


class Ended(Exception):
    """The child ended without a result.

    `number` is the exit code, the signal, the seconds or the bytes; `stack` is where its threads were, where that is
    known, in faulthandler's words: the innermost frame first.
    """

    def __init__(self, how: Literal["exit", "signal", "time", "memory"], number: float, stack: str = "") -> None:
        super().__init__(f"the child process ended without a result: {how} {number:g}")
        self.how, self.number, self.stack = how, number, stack

    def line_in(self, file: str) -> int | None:
        """The innermost line of this file that was running."""
        found = re.search(rf'^ *File "{re.escape(file)}", line (\d+)', self.stack, re.MULTILINE)
        return int(found[1]) if found else None


def call(function: str, *arguments: Any, limits: Limits, imports: Sequence[str] = ()) -> Any:
    """What `package.module:function` returns in a child for these arguments; all of it has to be picklable.

    Args:
        function: one of ours, by its name.
        arguments: its arguments.
        limits: the clock runs while the function does; the memory is all that the process has.
        imports: modules that the child imports before its clock runs.

    Raises:
        Ended: the child ended without a result.
        Exception: what the function raised in the child, with the child's traceback as a note.
    """
    request = pickle.dumps((sys.path, function, arguments, limits.seconds, imports))
    code = "import pickle, sys; sys.path[:], *request = pickle.load(sys.stdin.buffer); "
    code += "from residuals_lab.targets.isolated import _serve; _serve(*request)"
    child = subprocess.Popen(
        [sys.executable, "-P", "-X", "utf8", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    answer, readers = _readers(child)
    try:
        _send(child, request)
        is_over = _wait(child, limits)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # the child and the processes that it started
        child.wait()
        for reader in readers:
            reader.join(1)
    return _outcome(child.returncode, answer.getvalue(), limits, is_over)


def _send(child: subprocess.Popen[bytes], request: bytes) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError), child.stdin as stdin:  # the child may have ended already
        stdin.write(request)


def _readers(child: subprocess.Popen[bytes]) -> tuple[io.BytesIO, list[Thread]]:
    """The child's answer, and the threads that read its two pipes to their ends."""
    answer = io.BytesIO()

    def read(pipe: io.BufferedReader) -> None:
        with pipe:
            while part := pipe.read1(1 << 16):  # the end comes late where the child leaves processes behind
                answer.write(part)

    def relay(pipe: IO[bytes]) -> None:
        with io.TextIOWrapper(pipe, "utf-8", "replace") as text, suppress(OSError, ValueError):
            while line := text.readline(1 << 16):
                sys.stderr.write(line)

    readers = [Thread(target=read, args=[child.stdout]), Thread(target=relay, args=[child.stderr])]
    for reader in readers:
        reader.daemon = True
        reader.start()
    return answer, readers


def _wait(child: subprocess.Popen[bytes], limits: Limits) -> Literal["", "time", "memory"]:
    """Wait for the child to end; the limit that it went over, if it had to be stopped."""
    ends = time.monotonic() + limits.seconds + _START
    while True:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_POLL)
            return ""
        is_late = time.monotonic() > ends
        if is_late or _resident(child.pid) > limits.nbytes:
            child.send_signal(signal.SIGABRT)  # to which faulthandler reports where the child is
            with suppress(subprocess.TimeoutExpired):
                child.wait(_REPORT)
            return "time" if is_late else "memory"


def _resident(pid: int) -> int:
    """The bytes of memory that a process has; 0 where that cannot be told."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return _resident_by_ps(pid)


def _resident_by_ps(pid: int) -> int:
    """The bytes of memory of a process on a system without /proc."""
    with suppress(OSError, ValueError):
        return 1024 * int(subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True).stdout)
    return 0


def _outcome(code: int, answer: bytes, limits: Limits, over: Literal["", "time", "memory"]) -> Any:
    """The function's result out of the child's answer, which is faulthandler's report if the child was ended."""
    report = answer.decode("utf-8", "replace")
    if over == "memory":
        raise Ended(over, limits.nbytes, report)
    if over == "time" or report.startswith(_TIMEOUT):
        raise Ended("time", limits.seconds, report)
    if code < 0:
        raise Ended("signal", -code, report)
    if code or not answer:
        raise Ended("exit", code, report)
    is_returned, result = pickle.loads(answer)
    if is_returned:
        return result
    raise result


def _serve(function: str, arguments: Sequence[Any], seconds: float, imports: Sequence[str]) -> None:
    """The child: run the function, answer, and end, whatever threads and exit handlers there are."""
    with open(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        _dump_no_core()
        faulthandler.enable(answers)
        module, _, name = function.partition(":")
        for needed in (*imports, module):
            importlib.import_module(needed)
        faulthandler.dump_traceback_later(seconds, exit=True, file=answers)
        try:
            result = True, getattr(sys.modules[module], name)(*arguments)
        except BaseException as error:
            result = False, _portable(error)
        faulthandler.cancel_dump_traceback_later()
        answers.write(pickle.dumps(result))
    sys.stderr.flush()
    os._exit(0)


def _dump_no_core() -> None:
    """Leave no file of the child's memory behind when it is aborted."""
    import resource  # not every system has this module

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _portable(error: BaseException) -> BaseException:
    """The error with its traceback as a note, which a pickle keeps, or another error that can be pickled."""
    note = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In the child process:\n{note}")
    return error
