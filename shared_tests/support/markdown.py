"""The fenced blocks of a Markdown file, and how each kind is run and compared.

A fence is ```` ```language frameworks ````: what follows the language names the frameworks that the block needs, and a
host of code shows none of it. Blocks of one file with the same frameworks share one namespace and run in order.

    python   is run; a `text` block that comes next is what it has to print, and without one it has to print nothing
    pycon    is run by doctest
    console  `$ residuals …` is run, `$ echo $?` gives its exit code; other commands are for the reader, without output
    source   a block after `<!-- source: path: name, name -->` has to be these statements of that file
    (none)   a picture in characters; nothing is run

Outputs are compared without regard to white space; `...` matches anything. Versions match each other, and so do
rounding errors: 0 and whatever is below 1e-4 in the form 1.2e-16.
"""

import ast
import contextlib
import doctest
import importlib.util
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from residuals_lab import frameworks

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LANGUAGES = {"python", "pycon", "text", "console", ""}
NOT_RUN = {"cd", "export", "git", "nox", "pip", "python", "source"}
MENTIONS = re.compile(r"\b(?:import|from) (?:residuals_)?(jax|torch)\b|\bframeworks\.load\(\"(jax|torch)\"\)")

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>[^`]*)$")
_SOURCE = re.compile(r"<!-- source: (?P<path>\S+): (?P<names>.+?) -->")
_COMPARE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_VERSION = re.compile(r"\b(JAX|NumPy|PyTorch|Python|jax|numpy|torch|residuals)([ =]+)\d+(\.\d+)+\S*")
_ROUNDING = re.compile(r"(?<![\w.])(0|\d(\.\d+)?e-(0[5-9]|[1-9]\d))(?!\w|\.\d)")


@dataclass(frozen=True)
class Block:
    path: Path
    line: int  # of its first line of text, from 1
    language: str
    frameworks: tuple[str, ...]
    text: str
    source: tuple[str, tuple[str, ...]] | None = None  # a file and the names of statements in it
    output: str | None = None  # of a python block

    @property
    def place(self) -> str:
        return f"{self.path.name}:{self.line}"


class Mismatch(AssertionError):
    """What a file shows is not what happens."""


def is_measured(framework: str) -> bool:
    """Whether the pages name the release that runs here; another one may hold something else by its own means."""
    measured_on = (DOCS / "ops" / "README.md").read_text(encoding="utf-8").replace(",", " ")
    return f"{frameworks.load(framework).TITLE} " in measured_on


def script(name: str) -> ModuleType:
    """A script of the lessons, as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(DOCS))  # a script may import another
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DOCS))
    return module


def blocks(path: Path, text: str | None = None) -> list[Block]:
    """The fenced blocks of a file, in order, each `text` block joined to the python block that prints it."""
    found: list[Block] = []
    for block in _fenced(path, path.read_text(encoding="utf-8") if text is None else text):
        if block.language not in LANGUAGES:
            raise Mismatch(f"{block.place}: no rule to run a {block.language!r} block")
        if block.language != "text":
            found.append(block)
        elif found and found[-1].language == "python" and found[-1].output is None:
            found[-1] = Block(**{**vars(found[-1]), "output": block.text})
        else:
            raise Mismatch(f"{block.place}: a text block has to follow the python block that prints it")
    return found


def _fenced(path: Path, text: str) -> Iterator[Block]:
    lines = iter(enumerate(text.splitlines(), 1))
    before, ended = "", True  # the paragraph before a fence, which may be a marker
    for number, line in lines:
        fence = _FENCE.match(line)
        if not fence:
            if line.strip():
                before = line.strip() if ended else f"{before} {line.strip()}"
            ended = not line.strip()
            continue
        inside, closed = [], False
        for _, line in lines:
            if line.strip().startswith(fence["ticks"]) and not line.strip(" `~"):
                closed = True
                break
            inside.append(line.removeprefix(fence["indent"]))
        if not closed:
            raise Mismatch(f"{path.name}:{number}: the fence is not closed")
        language, *frameworks = fence["info"].split() or [""]
        source = _SOURCE.fullmatch(before)
        wanted = (source["path"], tuple(source["names"].split(", "))) if source else None
        yield Block(path, number + 1, language, tuple(frameworks), "\n".join(inside) + "\n", wanted)
        before, ended = "", True


def run(session: list[Block]) -> None:
    """Run blocks that share a namespace, in order; Mismatch at the first that does something else than it shows."""
    namespace: dict[str, Any] = {"__name__": session[0].path.stem}
    for block in session:
        if block.source:
            continue
        if block.language == "python":
            _run_python(block, namespace)
        elif block.language == "pycon":
            _run_pycon(block, namespace)
        elif block.language == "console":
            _run_console(block)


def _run_python(block: Block, namespace: dict[str, Any]) -> None:
    padding = "\n" * (block.line - 1)  # so that a traceback shows the file's own line
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(padding + block.text, block.path, "exec", dont_inherit=True), namespace)
    _compare(block.place, block.output or "", printed.getvalue())


def _run_pycon(block: Block, namespace: dict[str, Any]) -> None:
    example = doctest.DocTestParser().get_doctest(block.text, namespace, block.place, str(block.path), block.line - 1)
    if not example.examples:
        raise Mismatch(f"{block.place}: no >>> in a pycon block")
    example.globs = namespace  # not a copy: later blocks see what this one made
    report: list[str] = []
    runner = doctest.DocTestRunner(_Checker(), verbose=False, optionflags=_COMPARE)
    if runner.run(example, out=report.append, clear_globs=False).failed:
        raise Mismatch("".join(report))


def _run_console(block: Block) -> None:
    code = 0
    for command, shown in _commands(block):
        words = shlex.split(command)
        if words == ["echo", "$?"]:
            _compare(f"{block.place}: $ {command}", shown, f"{code}\n")
            code = 0
            continue
        if code:
            raise Mismatch(f"{block.place}: exit code {code} before $ {command}")
        if words[0] == "residuals":
            ended = subprocess.run(
                [sys.executable, "-m", "residuals_lab", *words[1:]],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                check=False,
            )
            code = ended.returncode
            _compare(f"{block.place}: $ {command}", shown, ended.stdout)
        elif words[0] not in NOT_RUN or shown:
            raise Mismatch(f"{block.place}: $ {command} is not run, so it can neither be new nor show an output")
    if code:
        raise Mismatch(f"{block.place}: exit code {code}")


def _commands(block: Block) -> Iterator[tuple[str, str]]:
    text = block.text.replace("\\\n", " ")
    if not text.startswith("$ "):
        raise Mismatch(f"{block.place}: a console block has to start with a command")
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


class _Checker(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(_normalised(want), _normalised(got), optionflags)


def _compare(place: str, shown: str, found: str) -> None:
    if not shown.strip() and not found.strip():
        return
    if not _Checker().check_output(shown, found, _COMPARE):
        raise Mismatch(f"{place}\nshown:\n{shown}\nfound:\n{found}")


def _normalised(text: str) -> str:
    return _ROUNDING.sub("#", _VERSION.sub(r"\1\2#", text))


def compare_source(block: Block) -> None:
    """Mismatch unless the block is, blank lines aside, the statements of the file that its marker names."""
    path, names = block.source or ("", ())
    statements = _statements((ROOT / path).read_text(encoding="utf-8"))
    missing = [name for name in names if name not in statements]
    if missing:
        raise Mismatch(f"{block.place}: {path} has no {', '.join(missing)}")
    real = "\n".join(statements[name] for name in names)
    if _without_blank_lines(block.text) != _without_blank_lines(real):
        raise Mismatch(f"{block.place} is not what {path} has; it has\n{real}")


def _statements(text: str) -> dict[str, str]:
    """The text of a module's statements: definitions and assignments by name, calls by what they call."""
    found = {}
    for node in ast.parse(text).body:
        name = getattr(node, "name", "")
        if isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
        elif isinstance(node, ast.AnnAssign):
            name = ast.unparse(node.target)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            name = ast.unparse(node.value.func)
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        found[name] = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return found


def _without_blank_lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]
