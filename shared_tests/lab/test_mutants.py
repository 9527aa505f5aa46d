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
    for source in SOURCES.values():
        edit = next(OPERATORS[operator](source), None)
        if edit is not None:
            break
    else:
        pytest.fail("no op of ours has a place for it")
    changed = source.changed(edit)
    assert ast.dump(ast.parse(changed)) != ast.dump(source.tree)
    before, _, after = site(edit).what.partition(" → ")
    assert before != after
    lines = ast.unparse(source.tree).splitlines()
    assert len({*changed.splitlines()} - {*lines}) <= 2 + len(edit), "it changed more than its place"


def test_an_operator_bears_rules_that_there_are() -> None:
    codes = {rule.code for rule in rules.load()}
    assert {code for found in RULES.values() for code in found} <= codes
