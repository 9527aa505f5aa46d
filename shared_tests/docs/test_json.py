"""docs/json.md says what is in the documents for machines, all of it and nothing else; and their sums are right."""

import copy
import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from audited import source
from markdown import DOCS
from residuals_lab import cli, frameworks, learn
from residuals_lab.check import rules

PAGE = (DOCS / "json.md").read_text(encoding="utf-8")
INSTALLED = frameworks.installed()
BOTH = pytest.mark.parametrize("framework", INSTALLED)
TYPES = {"int": int, "float": float, "string": str, "bool": bool, "list": list, "map": dict}

Tables = dict[str, dict[str, str]]  # record → key → type
Documents = list[tuple[str, Any]]  # each with the name of its table

VIEWS = {
    "jax": """
def views(x):
    y = n.sin(x)
    return (n.exp(y[:2]) * y[:2]).sum() + (n.cos(y[2:]) * y[2:]).sum() + (n.cos(y) * y).sum()
""",
    "torch": """
def not_proved(x):
    return act(checkpoint(lambda x: n.cos(n.sin(x)), x, use_reentrant=False)).sum()

lstm = torch.nn.LSTM(8, 16)

def views(x):
    y = n.sin(x) + torch.func.grad(lambda x: n.cos(x).sum())(x)
    return (n.exp(y[:2]) * y[:2]).sum() + (n.cos(y[2:]) * y[2:]).sum() + (n.cos(y) * y).sum()
""",
}
WRONG = "import {framework}\ndef fn(x): return x.sum() * float('nan')\n"


def tables(page: str) -> Tables:
    """The tables of the page: the first cell of a table's head is the record's name."""
    found: Tables = {}
    for name, rows in re.findall(r"^\| (\w+) \| type \| meaning \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", page, re.M):
        assert name not in found, f"two tables of {name}"
        found[name] = dict(re.findall(r"^\| `(\w+)` \| ([\w ]+) \| .*\|$", rows, re.M))
        assert len(found[name]) == len(rows.splitlines()), f"{name}: a row is not a key, a type and a meaning"
    return found


class Reader:
    """Reads documents by the tables of a page; `met` are the types that it met, by their place in a table."""

    def __init__(self, page: str) -> None:
        self.tables = tables(page)
        self.met: set[tuple[str, str]] = set()

    def wrong(self, kind: str, value: Any, path: str, place: str = "") -> Iterator[str]:
        """What is not of this type, a line each."""
        base = kind.removesuffix(" or null")
        self.met.add((place, base if value is not None else "null"))
        if value is None:
            if kind == base and kind != "float":  # one that is not finite is null
                yield f"{path}: expected {kind}, got null"
        elif type(value) is not TYPES.get(base.partition(" ")[0], dict):
            yield f"{path}: expected {kind}, got {json.dumps(value)[:40]}"
        elif base.startswith("list of "):
            for v in value:
                yield from self.wrong(base.removeprefix("list of "), v, f"{path}[]", f"{place}[]")
        elif base.startswith("map of "):
            for v in value.values():
                yield from self.wrong(base.removeprefix("map of "), v, f"{path}.*", f"{place}.*")
        elif base not in TYPES:
            keys = self.tables[base]
            yield from (f"{path}.{key}: not on the page" for key in value.keys() - keys.keys())
            yield from (f"{path}.{key}: not in the document" for key in keys.keys() - value.keys())
            for key in keys.keys() & value.keys():
                yield from self.wrong(keys[key], value[key], f"{path}.{key}", f"{base}.{key}")

    def said(self) -> set[tuple[str, str]]:
        """The types of all places in the tables, of the items of lists and maps too."""
        return {met for name, keys in self.tables.items() for key, kind in keys.items() for met in _in(kind, name, key)}


def _in(kind: str, record: str, key: str) -> Iterator[tuple[str, str]]:
    place, base = f"{record}.{key}", kind.removesuffix(" or null")
    if kind != base:
        yield place, "null"
    yield place, base
    while " of " in base:
        container, _, base = base.partition(" of ")
        place += {"list": "[]", "map": ".*"}[container]
        yield place, base


def sums(document: Any, path: str) -> Iterator[str]:
    """Sums of residuals, anywhere in a document, that are not what the records of the residuals add up to."""
    if isinstance(document, list):
        for i, value in enumerate(document):
            yield from sums(value, f"{path}[{i}]")
    if isinstance(document, dict):
        for key, value in document.items():
            yield from sums(value, f"{path}.{key}")
        if document.get("residuals") is not None and "saved_bytes" in document:
            for key, those in (("saved_bytes", (True, False)), ("new_bytes", (True,))):
                every = {r["storage"]: r["storage_bytes"] for r in document["residuals"] if r["is_new"] in those}
                if document[key] != sum(every.values()):
                    yield f"{path}.{key}: {document[key]}, of residuals that have {sum(every.values())}"


def printed(*arguments: object) -> Any:
    out = io.StringIO()
    with redirect_stdout(out):
        code = cli.main([*map(str, arguments)])
    assert code in (0, 1), arguments
    return json.loads(out.getvalue()) if "--json" in arguments else None


def audits(framework: str, folder: Path) -> Documents:
    mine = source(framework, folder, "n.cos(x), n.exp(x)", "g * r[0]")
    mine.write_text(mine.read_text() + VIEWS[framework])
    one, three = ["--arg", "f32[64,8]", "--json"], ["--arg", "f32[64,8]"] * 3
    beside = [f"{mine}:attend", *three, "--beside", f"{mine}:gate", "--arg", "f32[64,8]", "--json"]
    found = [printed("audit", f"{mine}:{name}", *one) for name in ("fn", "again", "views")]
    found += [printed("audit", f"{mine}:attend", *three, "--json", "--compiled", "--by", "source")]
    if framework == "torch":
        found += [printed("audit", f"{mine}:{name}", *one) for name in ("on_ctx", "pinned")]
        found += [printed("audit", f"{mine}:lstm", "--arg", "f32[5,2,8]", "--json")]
        found += [printed("audit", f"{mine}:attend", *three, "--json", "--prove", "--concrete")]
        found += [printed("audit", f"{mine}:not_proved", *one, "--prove")]
    return [("beside", printed("audit", *beside)), *(("audit", document) for document in found)]


def comparisons(framework: str, folder: Path) -> Documents:
    """Of two ops in every framework, and of a function that gives no number."""
    wrong = folder / f"wrong_{framework}.py"
    wrong.write_text(WRONG.format(framework=framework))
    return [
        ("comparison", printed("compare", "tanh", "rms_norm", "scaled", "x_sin_x", "--size", 64, "--json")),
        ("comparison", printed("compare", f"{wrong}:fn", "--like", "x_sin_x", "--size", 64, "--json")),
    ]


def ports(framework: str, folder: Path) -> Documents:
    """Of equal functions, of a gradient that is NaN at 0 in one alone, and of one that repeats and keeps less."""
    numpy = {"jax": "jax.numpy", "torch": "torch"}[framework]
    mine = folder / f"ports_{framework}.py"
    mine.write_text(
        f"import {numpy} as n\n"
        "def root(x): return n.sqrt(x * x)\n"
        "def safe(x): return n.sqrt(n.where(x * x > 0, x * x, 1e-300))\n"
    )
    call = "compare", f"{mine}:root", "--arg", "f32[4,8]", "--json", "--beside"
    others = f"{mine}:root", f"{mine}:safe", f"residuals_{framework}:gelu"
    return [("ports", printed(*call, other)) for other in others]


def gradient_checks(framework: str, folder: Path) -> Documents:
    """Of a gradient that ignores its cotangent."""
    mine = folder / f"checked_{framework}.py"
    (rule,) = (rule for rule in rules.load() if rule.code == "cotangent-ignored")
    mine.write_text(str(rule.example(framework, is_right=False)))
    return [("gradient_check", printed("check", f"{mine}:fn", "--arg", "f32[4,6]", "--quick", "--json"))]


def benches(framework: str, folder: Path) -> Documents:
    call = "bench", "tanh", "attention", "--framework", framework, "--size", 64, "--rounds", 6, "--json"
    call += "--minutes", 0.0001  # too few for the second
    return [("bench", printed(*call))]


def checks(framework: str, folder: Path) -> Documents:
    """Of a function that grew, and of one that cannot be audited any more."""
    mine, lock = folder / f"locked_{framework}.py", folder / "residuals.lock"
    numpy = {"jax": "jax.numpy", "torch": "torch"}[framework]
    both = "import {} as n\ndef fn(x): return {}\ndef other(x): return {}\n"
    mine.write_text(both.format(numpy, "n.sin(x).sum()", "n.sin(x).sum()"))
    for name in ("fn", "other"):
        printed("lock", "write", f"{mine}:{name}", "--arg", "f32[4,8]", "--file", lock)
    mine.write_text(both.format(numpy, "n.exp(n.sin(x)).sum()", "x @ x"))
    return [("check", printed("lock", "check", "--file", lock, "--json"))]


def grades(framework: str, folder: Path) -> Documents:
    """Of the solution, and of a file that Python cannot read."""
    found, exercise = [], "extra_residual"
    for text in (learn.asset(exercise, framework, "solution.py"), "def"):
        learn.file_of(exercise, framework).write_text(text, encoding="utf-8")
        found.append(printed("learn", exercise, "--framework", framework, "--check", "--json"))
    return [("grade", document) for document in found]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Documents]:
    """Real documents of every command, by framework."""
    found = {}
    for name in INSTALLED:
        folder = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            makers = audits, comparisons, ports, gradient_checks, benches, checks, grades
            found[name] = [document for make in makers for document in make(name, folder)]
    return found


@BOTH
def test_a_document_is_as_the_page_says(framework: str, documents: dict[str, Documents]) -> None:
    for record, document in documents[framework]:
        assert [*Reader(PAGE).wrong(record, document, record)] == []
        assert document["schema_version"] == 2


@pytest.mark.needs("jax", "torch")  # only both have a difference, and only PyTorch an operation that is unsure
def test_the_page_has_nothing_else(documents: dict[str, Documents]) -> None:
    reader = Reader(PAGE)
    for record, document in (found for name in INSTALLED for found in documents[name]):
        assert [*reader.wrong(record, document, record)] == []
    assert sorted(reader.said() - reader.met) == []


@BOTH
def test_bytes_are_the_sums_of_the_residuals(framework: str, documents: dict[str, Documents]) -> None:
    for record, document in documents[framework]:
        assert [*sums(document, record)] == []
    kept = [r for record, document in documents[framework] if record == "audit" for r in document["residuals"]]
    if framework == "torch":
        assert {"view", "hidden", "new", "input"} <= {r["kind"] for r in kept}
        shared = [document for record, document in documents[framework] if record == "audit"]
        assert any(len({r["storage"] for r in d["residuals"]}) < len(d["residuals"]) for d in shared)
    else:
        assert all(r["bytes"] == r["storage_bytes"] for r in kept), "in JAX every array is a storage of its own"


def test_a_difference_is_noticed(documents: dict[str, Documents]) -> None:
    (document,) = (d for record, d in documents[INSTALLED[0]] if record == "beside")

    def found(where: str, change: Any) -> list[str]:
        other = copy.deepcopy(document)
        change(other[where][0])
        return [*Reader(PAGE).wrong("beside", other, "beside"), *sums(other, "beside")]

    assert found("matched", lambda r: r.update(more=1)) == ["beside.matched[].more: not on the page"]
    assert found("matched", lambda r: r.pop("why")) == ["beside.matched[].why: not in the document"]
    assert found("matched", lambda r: r.update(why=1)) == ["beside.matched[].why: expected string, got 1"]
    assert found("audits", lambda a: a.update(peak_bytes=1.5)) == ["beside.audits[].peak_bytes: expected int, got 1.5"]
    assert found("audits", lambda a: a.update(findings=None)) == [
        "beside.audits[].findings: expected list of waste, got null"
    ]
    (wrong,) = found("audits", lambda a: a.update(new_bytes=a["new_bytes"] + 4))
    assert wrong.startswith("beside.audits[0].new_bytes: ")
    fewer = Reader(re.sub(r"^\| `peak_bytes` .*\n", "", PAGE, flags=re.M))
    assert [*fewer.wrong("beside", document, "beside")] == ["beside.audits[].peak_bytes: not on the page"] * 2
