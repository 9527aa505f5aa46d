"""What an op says of its residuals, in the comments of `Residuals` and under `Saves:`, is what its trace finds."""

import re
from dataclasses import replace
from typing import Any

import pytest

from cases import Case, only
from markdown import script
from residuals_lab import frameworks
from residuals_lab.ops import OPS
from residuals_lab.ops.call import samples

PAGES = script("op_pages")
KIND = re.compile(r"(input|output|new)\b")  # the first word of a comment; `Saves:` has it in the words below
WORDS = {"input": "an input", "output": "the output", "new": "new"}
ELSEWHERE = re.compile(r"\ban (input|output)\b")  # the kind that a field has in other calls than the usual one

# The fields that have another kind in some calls, and the argument of such a call.
OTHERWISE = {
    ("batch_norm", "mean", "input"): {"training": False},
    ("flash_attention", "logsumexp", "output"): {"return_logsumexp": True},
}

each = pytest.mark.parametrize("framework", frameworks.installed())


def said(framework: str, op: str) -> dict[str, tuple[str, str, set[str]]]:
    """Each field's shape, kind, and further kinds, as the comments of `Residuals` have them."""
    found = {}
    for field, (shape, reason) in PAGES.fields(framework, op).items():
        if field:
            kind = KIND.match(reason)
            assert kind, f"{framework} {op}: the comment of {field} begins with no kind"
            found[field] = shape, kind[1], {*ELSEWHERE.findall(reason)}
    return found


@each
@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_comment_and_docstring_say_the_same(framework: str, op: str) -> None:
    saves, comments = PAGES.docstring(framework, op)["Saves"], said(framework, op)
    assert list(saves) == list(comments)
    for field, (shape, kind, others) in comments.items():
        assert re.match(re.escape(f"{shape}, {WORDS[kind]}") + r"\b", saves[field]), f"{field}: {saves[field]}"
        assert {*ELSEWHERE.findall(saves[field])} - {kind} == others, field


@only(dtype="float32", first=True)
def test_the_trace_finds_the_kind_that_is_said(case: Case) -> None:
    trace = case.call.trace(case.adapter, case.call.ours(case.adapter), case.args)
    kinds = {field: kind for field, (_, kind, _) in said(case.adapter.NAME, case.call.op.name).items()}
    assert {r.name: r.kind for r in trace.residuals} == {r.name: kinds[r.name] for r in trace.residuals}


@each
def test_the_trace_finds_the_other_kinds_that_are_said(framework: str) -> None:
    others = {
        (op.name, field, kind)
        for op in OPS
        for field, (_, _, kinds) in said(framework, op.name).items()
        for kind in kinds
    }
    assert others == {*OTHERWISE}
    for (op, field, kind), static in OTHERWISE.items():
        assert kind_in_a_call(framework, op, field, static) == kind


def kind_in_a_call(framework: str, op: str, field: str, static: dict[str, bool]) -> str:
    """The kind that the trace finds for a field in an op's first sample, with these static arguments."""
    adapter, call = frameworks.load(framework), next(iter(samples(op).values()))
    call = replace(call, static=call.static | {name: a for name, a in static.items() if name in call.static})
    names = [*call.arrays, *call.constants]

    def fn(*given: Any) -> Any:
        results = adapter.public(op)(**dict(zip(names, given, strict=True)), **call.static | static)
        return results if "return_logsumexp" in static else results[0]

    arrays = [adapter.array(a, "float32") for a in call.arrays.values()]
    (found,) = (r.kind for r in call.trace(adapter, call.bind(adapter, fn), arrays).residuals if r.name == field)
    return found
