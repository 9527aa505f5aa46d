"""A function in a child process: its result comes back, and each way in which it can end without one is told apart."""

import os
import signal
import subprocess
import sys
from threading import Timer
from typing import Any

import pytest

from residuals_lab.errors import UsageError
from residuals_lab.targets import isolated
from residuals_lab.targets.isolated import Ended, Limits

LIMITS = Limits(seconds=60, nbytes=1 << 30)


def call(function: str, *arguments: object, limits: Limits = LIMITS, imports: tuple[str, ...] = ()) -> Any:
    return isolated.call(function, *arguments, limits=limits, imports=imports)


def ended(*arguments: Any, **limits: Any) -> Ended:
    with pytest.raises(Ended) as caught:
        call(*arguments, limits=LIMITS._replace(**limits))
    return caught.value


def test_a_result_comes_back() -> None:
    assert call("operator:add", (1, "a"), (2.5,)) == (1, "a", 2.5)


def test_a_result_may_be_long() -> None:
    assert call("operator:mul", b"x", 1 << 20) == b"x" * (1 << 20)


def test_what_is_printed_goes_to_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with which no text waits in a buffer
    assert call("builtins:print", "ä\nb") is None
    assert call("os:system", "echo from a program") == 0
    assert call("os:write", 1, b"past print\n") == 11
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "ä\nb\nfrom a program\npast print\n"


def test_nothing_waits_for_the_keyboard() -> None:
    with pytest.raises(EOFError):
        call("builtins:input")


def test_an_exception_comes_back_with_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        call("operator:truediv", 1, 0)
    assert "ZeroDivisionError: division by zero" in caught.value.__notes__[0]
    with pytest.raises(UsageError, match="expected one of"):
        call("residuals_lab.frameworks:require", "nothing")


def test_an_exception_that_cannot_be_pickled_is_told_by_its_text() -> None:
    with pytest.raises(RuntimeError, match=r"^Unpicklable: two\n"):
        call("builtins:exec", "class Unpicklable(Exception): ...\nraise Unpicklable('two')")


def test_an_exit_is_no_result() -> None:
    for code in (0, 3):
        end = ended("os:_exit", code)
        assert (end.how, end.number) == ("exit", code)


def test_an_exit_in_words_is_an_exception() -> None:
    with pytest.raises(SystemExit, match="7"):
        call("sys:exit", 7)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_signal_is_told(number: signal.Signals) -> None:
    end = ended("signal:raise_signal", number)
    assert (end.how, end.number) == ("signal", number)


CODE = "def loop():\n    {}\n\nloop()"


def run_file(text: str, **limits: Any) -> Ended:
    return ended("builtins:exec", f"exec(compile({text!r}, 'file.py', 'exec'))", **limits)


def test_time_runs_out_at_a_line() -> None:
    end = run_file(CODE.format("while True: pass"), seconds=0.5)
    assert (end.how, end.number) == ("time", 0.5)
    assert end.line_in("file.py") == 2
    assert end.line_in("other.py") is None


def test_time_runs_out_where_python_does_not_run() -> None:
    assert run_file("x = 9\nx ** (x ** (x ** x))", seconds=0.5).line_in("file.py") == 2


def test_memory_runs_out_at_a_line() -> None:
    text = CODE.format("kept = []\n    while True: kept.append(b'x' * (1 << 24))")
    end = run_file(text, nbytes=256 << 20)
    assert (end.how, end.number) == ("memory", 256 << 20)
    assert end.line_in("file.py") == 3


def test_a_crash_is_at_a_line() -> None:
    assert run_file("import ctypes\nctypes.string_at(0)").line_in("file.py") == 2


def test_a_child_that_keeps_no_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_START", 2.0)
    end = run_file("import faulthandler\nfaulthandler.cancel_dump_traceback_later()\nwhile True: pass", seconds=0.5)
    assert end.how == "time"
    assert end.line_in("file.py") == 3


def test_imports_are_there() -> None:
    assert call("builtins:eval", "'colorsys' in __import__('sys').modules", imports=("colorsys",))


def test_a_thread_that_goes_on_keeps_nobody_waiting() -> None:
    assert (
        call("builtins:exec", "import threading, time\nthreading.Thread(target=time.sleep, args=[1e6]).start()") is None
    )


def test_ctrl_c_ends_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    children, popen = [], subprocess.Popen

    def noted(*args: Any, **kwargs: Any) -> Any:
        children.append(popen(*args, **kwargs))
        Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            call("time:sleep", 1e6)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [child.returncode for child in children] == [-signal.SIGKILL]


def test_the_child_imports_what_this_process_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, "here"])
    assert call("builtins:eval", "__import__('sys').path")[-1] == "here"


def test_memory_is_measured_alike_without_proc() -> None:
    pid = os.getpid()
    assert isolated._resident(pid) / 2 < isolated._resident_by_ps(pid) < 2 * isolated._resident(pid)
