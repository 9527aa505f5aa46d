"""The names of operations: a word that an analysis compares has a cost, so that a slip of the pen is seen."""

import ast
from collections.abc import Iterator
from pathlib import Path

import residuals_lab
from residuals_lab.ops import BY_NAME
from residuals_lab.trace.costs import COSTS

FILES = [path for path in Path(residuals_lab.__file__).parent.rglob("*.py") if "exercises" not in path.parts]
WORDS = {word for words in COSTS.values() for word in words.split()}
# What torch.fx calls an input of a graph; a backward of JAX that only runs on numbers, as one step; a format; a dot.
NO_WORDS = {"placeholder", "backward", "g", "."}
# Tables of words, by the variable that holds them; of a dict, its values.
TABLES = {"OPS", "DOES", "_MAKING", "_OF_ROWS", "_OF_LOGITS", "_COMPARISONS", "_FROM_BITS", "_DRAWING", "_OF_DRAWS"}
MAKERS = {"step", "again", "_make", "_again"}  # functions that record an operation: their first argument is its word


def strings(node: ast.AST) -> Iterator[str]:
    """The words in an expression, but for the keys of dicts, what is within [], and names of dtypes and costs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from node.value.split()
    elif isinstance(node, ast.Dict):
        for value in node.values:
            yield from strings(value)
    elif not isinstance(node, ast.Subscript) and not (
        isinstance(node, ast.Call | ast.Compare) and ("dtype" in ast.unparse(node) or "cost_of" in ast.unparse(node))
    ):
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


def is_about_ops(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression has the operation of a step in it, `step.op`, or one of these names."""
    return any(
        (isinstance(n, ast.Attribute) and n.attr == "op") or (isinstance(n, ast.Name) and n.id in names)
        for n in ast.walk(node)
    )


def compared(function: ast.FunctionDef) -> Iterator[str]:
    """The words that a function compares with an operation, or with a set that it makes of operations."""
    names = {"op", "ops"}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and is_about_ops(node.value, {"op"}):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(function):
        is_set = isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Sub)
        is_start = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".op.startswith")
        if (isinstance(node, ast.Compare) or is_set or is_start) and is_about_ops(node, names):
            yield from strings(node)


def used(tree: ast.AST) -> Iterator[str]:
    """The words that a module compares, has in a table, or gives to operations that it makes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield from compared(node)
        elif isinstance(node, ast.Assign) and TABLES & {ast.unparse(target) for target in node.targets}:
            is_of_our_ops = isinstance(node.value, ast.List | ast.Tuple)
            yield from () if is_of_our_ops else strings(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MAKERS:
            yield from strings(node.args[0]) if node.args and isinstance(node.args[0], ast.Constant) else ()


def test_every_word_has_a_cost() -> None:
    found = {str(path): {*used(ast.parse(path.read_text(encoding="utf-8")))} for path in FILES}
    unknown = {name: words - WORDS - {*BY_NAME} - NO_WORDS for name, words in found.items()}
    assert {name: words for name, words in unknown.items() if words} == {}
    # One of each kind, lest nothing be found: compared, in a set, at the start, in the tables, made.
    examples = {"matmul", "logsumexp", "new_empty", "is_finite", "clamp_min", "random_split", "nll_loss", "stack"}
    assert examples <= set().union(*found.values())


def test_a_word_has_one_cost() -> None:
    assert sum(len(words.split()) for words in COSTS.values()) == len(WORDS)
