"""Operators that change what the backward computes: its terms, its cotangent, what it returns, its reductions."""

import ast
from collections.abc import Iterator

from mutants.places import called, cotangents, is_index, is_maths, residuals_made, returned_tuples, rounded
from mutants.registry import WRONG, named_by
from mutants.source import Edit, Source, expression

# Terms of the derivative.


@named_by(*WRONG)
def flip_sign(source: Source) -> Iterator[Edit]:
    """a + b for a − b, and the other way round; a for −a."""
    for node in source.nodes("fwd", "bwd", "helper"):
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)) and is_maths(source, node):
            op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            yield [(node, ast.BinOp(node.left, op, node.right))]
        if (
            isinstance(node, ast.UnaryOp)
            and isinstance(node.op, ast.USub)
            and not isinstance(node.operand, ast.Constant)
        ):
            yield [(node, node.operand)]


@named_by(*WRONG)
def drop_term(source: Source) -> Iterator[Edit]:
    """a for a + b, and b."""
    for node in source.nodes("fwd", "bwd"):
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)) and is_maths(source, node):
            yield [(node, node.left)]
            if isinstance(node.op, ast.Add):
                yield [(node, node.right)]


@named_by(*WRONG, "cotangent-ignored", "gradient-shape", "gradient-raises", "other-rank")
def drop_factor(source: Source) -> Iterator[Edit]:
    """a for a · b, and b, in the backward."""
    for node in source.nodes("bwd"):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and is_maths(source, node):
            yield [(node, node.left)]
            yield [(node, node.right)]


@named_by(*WRONG)
def double(source: Source) -> Iterator[Edit]:
    """2 · a · b for a · b."""
    for node in source.nodes("bwd", "fwd"):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and is_maths(source, node):
            yield [(node, ast.BinOp(ast.Constant(2), ast.Mult(), node))]


@named_by(*WRONG, "gradient-raises", "not-finite", "zero-size")
def wrong_constant(source: Source) -> Iterator[Edit]:
    """Another number: one more, or 0 for 1."""
    for node in source.nodes("bwd", "fwd", "helper"):
        is_number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if is_number and not is_index(source, node):
            yield [(node, ast.Constant(node.value + 1))]


@named_by(*WRONG, "gradient-raises")
def other_function(source: Source) -> Iterator[Edit]:
    """A function's neighbour: cos for sin, the sum for the mean."""
    pairs = {"sin": "cos", "cos": "sin", "mean": "sum", "rsqrt": "sqrt", "sqrt": "abs", "tanh": "sin", "exp": "exp2"}
    pairs |= {"square": "abs", "log": "log2", "sigmoid": "tanh", "erf": "tanh", "maximum": "minimum"}
    for node in source.nodes("bwd", "fwd", "helper"):
        if not isinstance(node, ast.Attribute) or node.attr not in pairs:
            continue
        if isinstance(source.parents[node], ast.Call) and ast.unparse(node.value) in ("torch", "jnp", "jax.lax"):
            yield [(node, ast.Attribute(node.value, pairs[node.attr], ast.Load()))]


@named_by(*WRONG, "not-finite", "gradient-raises")
def comparison_off(source: Source) -> Iterator[Edit]:
    """Another comparison: < for ≤, ≠ for =."""
    swaps = {ast.LtE: ast.GtE, ast.Lt: ast.LtE, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
    for node in source.nodes("bwd", "fwd", "helper"):
        if not isinstance(node, ast.Compare) or type(node.ops[0]) not in swaps:
            continue
        if not isinstance(getattr(node.comparators[0], "value", None), str):
            yield [(node, ast.Compare(node.left, [swaps[type(node.ops[0])]()], node.comparators))]


@named_by(*WRONG)
def swap_branches(source: Source) -> Iterator[Edit]:
    """where(c, b, a) for where(c, a, b)."""
    for node in source.nodes("bwd", "fwd", "helper"):
        if isinstance(node, ast.Call) and called(node) in ("where", "select") and len(node.args) == 3:
            c, a, b = node.args
            yield [(node, ast.Call(node.func, [c, b, a], node.keywords))]


@named_by("not-finite", "zero-size", "raises", "gradient-raises", *WRONG)
def remove_eps(source: Source) -> Iterator[Edit]:
    """The square root of what may be 0."""
    for node in source.nodes("bwd", "fwd", "helper"):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and "eps" in ast.unparse(node.right):
            yield [(node, node.left)]
        if isinstance(node, ast.Call) and called(node) == "max" and isinstance(node.args[-1], ast.Constant):
            yield [(node, node.args[0])]


# The cotangent.


@named_by("cotangent-ignored", "cotangent-not-linear", "output-cotangent-ignored", "gradient-wrong")
def drop_cotangent(source: Source) -> Iterator[Edit]:
    """Ones in place of the cotangent."""
    for node in cotangents(source):
        yield [(node, expression(f"{source.np}.ones_like({node.id})"))]


@named_by("cotangent-collapsed", "gradient-wrong")
def collapse_cotangent(source: Source) -> Iterator[Edit]:
    """The cotangent's mean or sum in place of each element."""
    for node in cotangents(source):
        for how in ("mean", "sum"):
            yield [(node, expression(f"(0 * {node.id} + {node.id}.{how}())"))]


@named_by("cotangent-not-linear")
def bend_cotangent(source: Source) -> Iterator[Edit]:
    """Clipped, or without its sign."""
    for node in cotangents(source):
        yield [(node, expression(f"{source.np}.clip({node.id}, -0.5, 0.5)"))]
        yield [(node, expression(f"{source.np}.abs({node.id})"))]


# What is returned.


@named_by("gradients-swapped", "gradient-raises", "gradient-wrong", "gradient-shape", "gradient-missing")
def swap_gradients(source: Source) -> Iterator[Edit]:
    """Two neighbours among the gradients that are returned."""
    for node in returned_tuples(source):
        for i in range(len(node.elts) - 1):
            a, b = node.elts[i : i + 2]
            if not any(isinstance(e, (ast.Constant, ast.Starred)) for e in (a, b)):
                yield [(node, ast.Tuple([*node.elts[:i], b, a, *node.elts[i + 2 :]], ast.Load()))]


@named_by("gradient-missing", "no-gradient", "gradient-raises")
def return_none(source: Source) -> Iterator[Edit]:
    """None in place of one gradient."""
    for node in returned_tuples(source):
        for i, e in enumerate(node.elts):
            if not isinstance(e, (ast.Constant, ast.Starred)):
                yield [(node, ast.Tuple([*node.elts[:i], ast.Constant(None), *node.elts[i + 1 :]], ast.Load()))]


@named_by("gradient-factor", "gradient-wrong")
def double_gradient(source: Source) -> Iterator[Edit]:
    """Twice one gradient."""
    for node in returned_tuples(source):
        for i, e in enumerate(node.elts):
            if not isinstance(e, (ast.Constant, ast.Starred)):
                twice = expression(f"None if ({ast.unparse(e)}) is None else 2 * ({ast.unparse(e)})")
                yield [(node, ast.Tuple([*node.elts[:i], twice, *node.elts[i + 1 :]], ast.Load()))]


@named_by("gradient-shape", "gradient-dtype", "gradient-raises", "broadcast-argument", "low-precision", "other-rank")
def forget_to_match(source: Source) -> Iterator[Edit]:
    """The gradient as it was computed, not summed to its primal's shape, nor cast to its dtype."""
    for node in source.nodes("bwd", "helper"):
        if isinstance(node, ast.Call) and called(node) in ("match", "as_primal", "sum_to_size", "to_dtype"):
            is_method = called(node) == "sum_to_size"
            yield [(node, node.func.value if is_method else node.args[0])]


@named_by("low-precision", "gradient-dtype", "gradient-wrong", "second-derivative-wrong")
def round_to_bfloat16(source: Source) -> Iterator[Edit]:
    """The cotangent, or a residual, in bfloat16."""
    for node in [*cotangents(source), *residuals_made(source)]:
        yield [(node, expression(rounded(source, ast.unparse(node))))]


# Reductions.


@named_by(*WRONG, "gradient-raises", "gradient-shape", "other-rank")
def other_axis(source: Source) -> Iterator[Edit]:
    """A reduction over axis 0, over the last, or over all."""
    for node in source.nodes("bwd", "fwd", "helper"):
        if isinstance(node, ast.Call) and called(node) in ("sum", "mean", "amax", "max", "logsumexp", "var_mean"):
            for k in [k for k in node.keywords if k.arg in ("dim", "axis")]:
                rest = [a for a in node.keywords if a is not k]
                for axis in [a for a in ("0", "-1") if a != ast.unparse(k.value)]:
                    yield [(node, ast.Call(node.func, node.args, [ast.keyword(k.arg, expression(axis)), *rest]))]
                keep = [a for a in rest if a.arg not in ("keepdim", "keepdims")]
                yield [(node, ast.Call(node.func, node.args, keep))]


@named_by(*WRONG, "gradient-raises", "gradient-shape", "raises")
def drop_keepdims(source: Source) -> Iterator[Edit]:
    """A reduction without keepdims."""
    for node in source.nodes("bwd", "fwd", "helper"):
        if isinstance(node, ast.Call) and any(k.arg in ("keepdim", "keepdims") for k in node.keywords):
            rest = [k for k in node.keywords if k.arg not in ("keepdim", "keepdims")]
            yield [(node, ast.Call(node.func, node.args, rest))]


@named_by(*WRONG, "gradient-shape", "gradient-raises", "other-rank", "broadcast-argument")
def sum_over_fewer(source: Source) -> Iterator[Edit]:
    """A sum over axis 0 alone in place of all axes but those of the parameter."""
    for node in source.nodes("bwd"):
        if isinstance(node, ast.Call) and called(node) in ("sum_to", "sum_to_size") and node.args:
            a = node.args[0] if called(node) == "sum_to" else node.func.value
            yield [(node, expression(f"({ast.unparse(a)}).sum(0)"))]
