"""The operators that make mutants: each finds a place in one of our ops, and leaves a program that parses."""

import ast

import pytest
from mutants.operators import OPERATORS, RULES
from mutants.source import FRAMEWORKS, Source, package, site

from residuals_lab.check import rules

OPS = {name: sorted(path.stem for path in (package(name) / "ops").glob("[a-z]*.py")) for name in FRAMEWORKS}
SOURCES = {(name, op): Source(name, op) for name in FRAMEWORKS for op in OPS[name]}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_changes_an_op(operator: str) -> None:
    """In each framework in which it finds a place, the first op that has one."""
    found = []
    for framework in FRAMEWORKS:
        edits = (
            (source, e)
            for (name, _), source in SOURCES.items()
            if name == framework
            for e in OPERATORS[operator](source)
        )
        found += [next(edits, None)]
    assert any(found), "no op of ours has a place for it"
    for source, edit in filter(None, found):
        changed, before = source.changed(edit), ast.unparse(source.tree)
        assert ast.dump(ast.parse(changed)) != ast.dump(source.tree)
        assert not site(edit).what.startswith(" → ")
        more = {*changed.splitlines()} - {*before.splitlines()}
        assert len(more) <= 2 + len(edit), "it changed more than its place"


def test_an_operator_bears_rules_that_there_are() -> None:
    codes = {rule.code for rule in rules.load()}
    assert {code for found in RULES.values() for code in found} <= codes
