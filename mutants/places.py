"""The places of an op's file that an operator looks for."""

import ast
from collections.abc import Iterator

from mutants.source import Source, running


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def is_index(source: Source, node: ast.AST) -> bool:
    """Whether a number is one of an axis, a place or a size."""
    for a in source.around(node):
        if isinstance(a, (ast.Subscript, ast.Slice, ast.List)) or (isinstance(a, ast.keyword) and a.arg != "value"):
            return True
        if isinstance(a, ast.Call):
            return called(a) in ("range", "unsqueeze", "transpose", "expand_dims", "min", "len", "getattr", "movedim")
        if isinstance(a, ast.stmt):
            return False
    return False


def is_maths(source: Source, node: ast.BinOp) -> bool:
    """Whether an operation is of numbers, and not of axes, sizes, text or tuples."""
    if is_index(source, node) or isinstance(node.left, (ast.List, ast.Tuple)):
        return False
    words = ("ndim", "len(", ".shape", "range(", "numel()", "start", "first", "block")
    return not any(word in ast.unparse(node) for word in words)


UNREAD = ("likes", "drawn", "pieces_beside", "isinstance", "is_distributed", "zeros_like", "_others", "_count", "_cuts")


def cotangents(source: Source) -> Iterator[ast.Name]:
    """The places where a backward reads its cotangent as numbers."""
    for fn in source.functions("bwd"):
        if not isinstance(fn, (ast.FunctionDef, ast.Lambda)):
            continue
        given = [a.arg for a in (*fn.args.args, *fn.args.kwonlyargs)]
        names = [a for a in given if a == "g" or (a.startswith("g_") and a != "g_hat")]
        for node in running(fn):
            if not isinstance(node, ast.Name) or node.id not in names or not isinstance(node.ctx, ast.Load):
                continue
            parent = source.parents[node]
            is_read = isinstance(parent, ast.Call) and node in parent.args and called(parent) not in UNREAD
            if isinstance(parent, ast.BinOp) or is_read:
                yield node


def returned_tuples(source: Source) -> Iterator[ast.Tuple]:
    """The gradients that the backwards return."""
    for fn in source.functions("bwd"):
        for node in running(fn):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
                yield node.value


def residuals_made(source: Source) -> Iterator[ast.expr]:
    """What goes into `Residuals`."""
    for node in source.nodes("fwd", "setup"):
        if isinstance(node, ast.Call) and called(node) == "Residuals":
            for a in node.args:
                if not isinstance(a, (ast.Starred, ast.Constant)) and not ast.unparse(a).endswith(
                    ("key", "labels", "mask")
                ):
                    yield a


def rounded(source: Source, text: str) -> str:
    """The text of an array rounded to bfloat16, in its own dtype."""
    rounded = f"({text}).to(torch.bfloat16).to(({text}).dtype)"
    if source.framework == "jax":
        rounded = f"({text}).astype(jnp.bfloat16).astype(({text}).dtype)"
    return f"(None if ({text}) is None else {rounded})"


def defvjp(source: Source) -> list[ast.Call]:
    return [n for n in ast.walk(source.tree) if isinstance(n, ast.Call) and called(n) == "defvjp"]


def saves(source: Source) -> Iterator[ast.Call]:
    """The calls of save_for_backward in a class's setup_context."""
    for node in source.nodes("setup") if source.framework == "torch" else ():
        is_call = isinstance(node, ast.Call) and called(node) == "save_for_backward"
        if is_call and any(isinstance(a, ast.ClassDef) for a in source.around(node)):
            yield node


def reads(source: Source) -> list[ast.AST]:
    """Where a class's backward reads what was saved."""
    nodes = [n for n in source.nodes("bwd") if isinstance(n, ast.Attribute) and n.attr == "saved_tensors"]
    return [n for n in nodes if any(isinstance(a, ast.ClassDef) for a in source.around(n))]
