"""An op's file as a syntax tree, in parts, and changes to it."""

import ast
import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = ("jax", "torch")
# In place of a node: another one, or for a statement several, or none.
Change = tuple[ast.AST, ast.AST | Sequence[ast.stmt]]
Edit = Sequence[Change]  # all that one mutant changes

SILENT = ("annotation", "returns", "decorator_list", "defaults", "kw_defaults", "type_comment")  # not run, or not maths
BACKWARD = ("bwd", "backward", "_backward", "_scores_gradient", "_gradients", "_soft_bwd", "bwd_residuals", "_scales")


def package(framework: str) -> Path:
    """The folder of an ops package."""
    return ROOT / "packages" / framework / "src" / f"residuals_{framework}"


def part_of(fn: ast.FunctionDef, framework: str) -> str:
    """What a function of an op's file is for: "fwd", "bwd", "setup", "value", "helper", or "" for what stays as it is.

    "setup" says what is saved in PyTorch; "value" is JAX's function for calls that nobody differentiates.
    """
    name = fn.name
    if not name.startswith(("_", "fwd", "bwd", "forward", "backward", "setup")) or name == "_":
        return ""  # the public function, and what a compiler is told
    if name in BACKWARD:
        return "bwd"
    if name in ("setup_context", "_saved", "_save"):
        return "setup"
    if framework == "jax" and any("custom_vjp" in ast.unparse(d) for d in fn.decorator_list):
        return "value"
    return "fwd" if name in ("fwd", "forward") or name.endswith("_fwd") else "helper"


class Source:
    """One op's file in one framework."""

    def __init__(self, framework: str, op: str, text: str | None = None) -> None:
        self.framework, self.op = framework, op
        self.path = package(framework) / "ops" / f"{op}.py"
        self.tree = ast.parse(text or self.path.read_text(encoding="utf-8"))
        self.np = "torch" if framework == "torch" else "jnp"

    @cached_property
    def parts(self) -> list[tuple[str, ast.AST]]:
        """The functions that may be changed, each with what it is for."""
        found: list[tuple[str, ast.AST]] = []
        for top in self.tree.body:
            for fn in top.body if isinstance(top, ast.ClassDef) else [top]:
                if isinstance(fn, ast.FunctionDef) and (part := part_of(fn, self.framework)):
                    found.append((part, fn))
                elif isinstance(fn, ast.Expr) and "defvjp" in ast.unparse(fn):  # JAX: two functions, maybe lambdas
                    found += [("fwd", fn.value.args[0]), ("bwd", fn.value.args[1])]
        return found

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def functions(self, *parts: str) -> list[ast.AST]:
        """The functions of these parts."""
        return [fn for part, fn in self.parts if part in parts]

    def nodes(self, *parts: str) -> Iterator[ast.AST]:
        """All nodes that run in the functions of these parts."""
        for fn in self.functions(*parts):
            yield from running(fn)

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes around one, the nearest first."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def part(self, node: ast.AST) -> str:
        """The part that a node is in; "" for the rest of the file."""
        named = {id(fn): part for part, fn in self.parts}
        return next((named[id(a)] for a in (node, *self.around(node)) if id(a) in named), "")

    def changed(self, edit: Edit) -> str:
        """The text of the file after an edit."""
        memo: dict[int, ast.AST] = {}
        tree = copy.deepcopy(self.tree, memo)
        made = {id(memo[id(old)]): new for old, new in edit}

        class Changes(ast.NodeTransformer):
            def visit(self, node: ast.AST) -> ast.AST | list[ast.stmt]:
                new = made.get(id(node))
                if new is None:
                    return self.generic_visit(node)
                # A change around another one has the inner node in it, so that both are made.
                return copy.deepcopy(new) if isinstance(new, ast.AST) else [copy.deepcopy(s) for s in new]

        return ast.unparse(ast.fix_missing_locations(Changes().visit(tree))) + "\n"


class Site(NamedTuple):
    """Where an edit is, and what it does, for people."""

    line: int
    last: int
    what: str


def site(edit: Edit) -> Site:
    """The lines of the first change of an edit, and its text before and after."""
    old, new = edit[0]
    after = [new] if isinstance(new, ast.AST) else new
    shown = " ".join("; ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(a))) for a in after).split())
    return Site(
        old.lineno, old.end_lineno or old.lineno, f"{' '.join(ast.unparse(old).split())} → {shown or 'nothing'}"
    )


def running(fn: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function that run: no annotation, no docstring, no assertion, no message."""
    for name, value in ast.iter_fields(fn):
        for child in value if isinstance(value, list) else [value]:
            is_text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            is_silent = name in SILENT or isinstance(child, (ast.Assert, ast.Raise, ast.arguments))
            if isinstance(child, ast.AST) and not is_text and not is_silent:
                yield child
                yield from running(child)


def expression(text: str) -> ast.expr:
    """A new node of this text."""
    return ast.parse(text, mode="eval").body


def statements(text: str) -> list[ast.stmt]:
    """New statements of this text."""
    return ast.parse(text).body
