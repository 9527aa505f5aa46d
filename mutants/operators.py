"""What a mutant is made by: each function here is one kind of fault, and gives every place of an op where it can be.

A fault bears the rules that are to name it. A place whose line runs for the second derivative alone is another matter:
there the rules are those of the second derivative, which `expected` says.
"""

import ast
from collections.abc import Callable, Iterator

from mutants.source import Edit, Source, expression, running, statements

Operator = Callable[[Source], Iterator[Edit]]
WRONG = ("gradient-wrong", "gradient-factor", "gradient-missing")
SECOND = ("second-derivative-wrong", "silent-second-derivative")
OPERATORS: dict[str, Operator] = {}
RULES: dict[str, tuple[str, ...]] = {}


def named_by(*codes: str) -> Callable[[Operator], Operator]:
    """An operator whose mutants one of these rules is to name first."""

    def register(operator: Operator) -> Operator:
        OPERATORS[operator.__name__], RULES[operator.__name__] = operator, codes
        return operator

    return register


def expected(source: Source, operator: str, edit: Edit) -> tuple[str, ...]:
    """The rules that are to name this mutant."""
    return SECOND if _is_of_second_order(source, edit[0][0]) else RULES[operator]


OF_RESIDUALS = ("g_rstd", "g_mean", "g_sin_x", "g_weights", "g_tanh")  # cotangents that a second derivative alone has


def _is_of_second_order(source: Source, node: ast.AST) -> bool:
    """Whether a place runs only where a residual has a cotangent, or decides whether it does."""
    if source.part(node) != "bwd":
        return False
    for a in (node, *source.around(node)):
        if getattr(a, "name", "") == "bwd_residuals" or getattr(a, "id", "") in OF_RESIDUALS:
            return True
        test = ast.unparse(a.test) if isinstance(a, (ast.If, ast.IfExp)) else ""
        if any(name in test for name in OF_RESIDUALS) and "g is None" not in test:
            return True
    return False


# Terms of the derivative.


@named_by(*WRONG)
def flip_sign(source: Source) -> Iterator[Edit]:
    """a + b for a − b, and the other way round; a for −a."""
    for node in source.nodes("fwd", "bwd", "helper"):
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)) and _is_maths(source, node):
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
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)) and _is_maths(source, node):
            yield [(node, node.left)]
            if isinstance(node.op, ast.Add):
                yield [(node, node.right)]


@named_by(*WRONG, "cotangent-ignored", "gradient-shape", "gradient-raises", "other-rank")
def drop_factor(source: Source) -> Iterator[Edit]:
    """a for a · b, and b, in the backward."""
    for node in source.nodes("bwd"):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and _is_maths(source, node):
            yield [(node, node.left)]
            yield [(node, node.right)]


@named_by(*WRONG)
def double(source: Source) -> Iterator[Edit]:
    """2 · a · b for a · b."""
    for node in source.nodes("bwd", "fwd"):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and _is_maths(source, node):
            yield [(node, ast.BinOp(ast.Constant(2), ast.Mult(), node))]


@named_by(*WRONG, "gradient-raises", "not-finite", "zero-size")
def wrong_constant(source: Source) -> Iterator[Edit]:
    """Another number: one more, or 0 for 1."""
    for node in source.nodes("bwd", "fwd", "helper"):
        is_number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if is_number and not _is_index(source, node):
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
        if isinstance(node, ast.Call) and _called(node) in ("where", "select") and len(node.args) == 3:
            c, a, b = node.args
            yield [(node, ast.Call(node.func, [c, b, a], node.keywords))]


@named_by("not-finite", "zero-size", "raises", "gradient-raises", *WRONG)
def remove_eps(source: Source) -> Iterator[Edit]:
    """The square root of what may be 0."""
    for node in source.nodes("bwd", "fwd", "helper"):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and "eps" in ast.unparse(node.right):
            yield [(node, node.left)]
        if isinstance(node, ast.Call) and _called(node) == "max" and isinstance(node.args[-1], ast.Constant):
            yield [(node, node.args[0])]


# The cotangent.


@named_by("cotangent-ignored", "cotangent-not-linear", "output-cotangent-ignored", "gradient-wrong")
def drop_cotangent(source: Source) -> Iterator[Edit]:
    """Ones in place of the cotangent."""
    for node in _cotangents(source):
        yield [(node, expression(f"{source.np}.ones_like({node.id})"))]


@named_by("cotangent-collapsed", "gradient-wrong")
def collapse_cotangent(source: Source) -> Iterator[Edit]:
    """The cotangent's mean or sum in place of each element."""
    for node in _cotangents(source):
        for how in ("mean", "sum"):
            yield [(node, expression(f"(0 * {node.id} + {node.id}.{how}())"))]


@named_by("cotangent-not-linear")
def bend_cotangent(source: Source) -> Iterator[Edit]:
    """Clipped, or without its sign."""
    for node in _cotangents(source):
        yield [(node, expression(f"{source.np}.clip({node.id}, -0.5, 0.5)"))]
        yield [(node, expression(f"{source.np}.abs({node.id})"))]


# What is returned.


@named_by("gradients-swapped", "gradient-raises", "gradient-wrong", "gradient-shape", "gradient-missing")
def swap_gradients(source: Source) -> Iterator[Edit]:
    """Two neighbours among the gradients that are returned."""
    for node in _returned_tuples(source):
        for i in range(len(node.elts) - 1):
            a, b = node.elts[i : i + 2]
            if not any(isinstance(e, (ast.Constant, ast.Starred)) for e in (a, b)):
                yield [(node, ast.Tuple([*node.elts[:i], b, a, *node.elts[i + 2 :]], ast.Load()))]


@named_by("gradient-missing", "no-gradient", "gradient-raises")
def return_none(source: Source) -> Iterator[Edit]:
    """None in place of one gradient."""
    for node in _returned_tuples(source):
        for i, e in enumerate(node.elts):
            if not isinstance(e, (ast.Constant, ast.Starred)):
                yield [(node, ast.Tuple([*node.elts[:i], ast.Constant(None), *node.elts[i + 1 :]], ast.Load()))]


@named_by("gradient-factor", "gradient-wrong")
def double_gradient(source: Source) -> Iterator[Edit]:
    """Twice one gradient."""
    for node in _returned_tuples(source):
        for i, e in enumerate(node.elts):
            if not isinstance(e, (ast.Constant, ast.Starred)):
                twice = expression(f"None if ({ast.unparse(e)}) is None else 2 * ({ast.unparse(e)})")
                yield [(node, ast.Tuple([*node.elts[:i], twice, *node.elts[i + 1 :]], ast.Load()))]


@named_by("gradient-shape", "gradient-dtype", "gradient-raises", "broadcast-argument", "low-precision", "other-rank")
def forget_to_match(source: Source) -> Iterator[Edit]:
    """The gradient as it was computed, not summed to its primal's shape, nor cast to its dtype."""
    for node in source.nodes("bwd", "helper"):
        if isinstance(node, ast.Call) and _called(node) in ("match", "as_primal", "sum_to_size", "to_dtype"):
            is_method = _called(node) == "sum_to_size"
            yield [(node, node.func.value if is_method else node.args[0])]


@named_by("low-precision", "gradient-dtype", "gradient-wrong", "second-derivative-wrong")
def round_to_bfloat16(source: Source) -> Iterator[Edit]:
    """The cotangent, or a residual, in bfloat16."""
    for node in [*_cotangents(source), *_residuals_made(source)]:
        yield [(node, expression(_rounded(source, ast.unparse(node))))]


# Reductions.


@named_by(*WRONG, "gradient-raises", "gradient-shape", "other-rank")
def other_axis(source: Source) -> Iterator[Edit]:
    """A reduction over axis 0, over the last, or over all."""
    for node in source.nodes("bwd", "fwd", "helper"):
        if isinstance(node, ast.Call) and _called(node) in ("sum", "mean", "amax", "max", "logsumexp", "var_mean"):
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
        if isinstance(node, ast.Call) and _called(node) in ("sum_to", "sum_to_size") and node.args:
            a = node.args[0] if _called(node) == "sum_to" else node.func.value
            yield [(node, expression(f"({ast.unparse(a)}).sum(0)"))]


# Residuals.


@named_by(*WRONG, "gradient-raises", "gradients-swapped", "second-derivative-wrong")
def swap_residuals(source: Source) -> Iterator[Edit]:
    """Two neighbours among what is saved, or among what the backward reads."""
    for node in source.nodes("fwd", "setup"):
        if isinstance(node, ast.Call) and _called(node) == "Residuals":
            for i in range(len(node.args) - 1):
                a, b = node.args[i : i + 2]
                if not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred):
                    yield [(node, ast.Call(node.func, [*node.args[:i], b, a, *node.args[i + 2 :]], node.keywords))]
    for node in source.nodes("bwd"):
        if isinstance(node, ast.Assign) and ast.unparse(node.value).endswith("residuals"):
            target = node.targets[0]
            for i in range(len(target.elts) - 1 if isinstance(target, ast.Tuple) else 0):
                a, b = target.elts[i : i + 2]
                elts = [*target.elts[:i], b, a, *target.elts[i + 2 :]]
                yield [(target, ast.Tuple(elts, ast.Store()))]


@named_by("unused-residual")
def save_one_more(source: Source) -> Iterator[Edit]:
    """One more array is saved, which nobody reads."""
    if source.framework == "jax":
        for call in _defvjp(source):
            fwd, bwd = (ast.unparse(a) for a in call.args)
            more = f"lambda *a: (lambda y, r: (y, (r, jnp.exp(jax.tree.leaves(a[0])[0]))))(*({fwd})(*a))"
            yield [
                (call.args[0], expression(more)),
                (call.args[1], expression(f"lambda *a: ({bwd})(*a[:-2], a[-2][0], a[-1])")),
            ]
        return
    for save in _saves(source):
        args = [*save.args, expression("inputs[0].detach().exp()")]
        reads = [(a, expression(f"{ast.unparse(a)}[:-1]")) for a in _reads(source)]
        yield [(save, ast.Call(save.func, args, [])), *reads]


@named_by("tensor-on-ctx", "leaked-by-cycle")
def keep_on_ctx(source: Source) -> Iterator[Edit]:
    """What is to be saved is kept as an attribute of ctx."""
    for save in _saves(source):
        kept = statements(f"ctx.kept = ({', '.join(ast.unparse(a) for a in save.args)},)")
        yield [(source.parents[save], kept), *((a, expression("ctx.kept")) for a in _reads(source))]


@named_by("state-between-calls")
def keep_on_class(source: Source) -> Iterator[Edit]:
    """What is to be saved is kept as an attribute of the class."""
    for save in _saves(source):
        name = next(a.name for a in source.around(save) if isinstance(a, ast.ClassDef))
        kept = statements(f"{name}.kept = ({', '.join(ast.unparse(a) for a in save.args)},)")
        yield [(source.parents[save], kept), *((a, expression(f"{name}.kept")) for a in _reads(source))]


@named_by(*SECOND)
def detach_residual(source: Source) -> Iterator[Edit]:
    """A constant in place of a residual: the first derivative is right."""
    for node in [*_residuals_made(source), *_cotangents(source)]:
        text = ast.unparse(node)
        free = f"jax.lax.stop_gradient({text})" if source.framework == "jax" else f"({text}).detach()"
        if source.framework == "torch" and source.part(node) == "fwd":
            continue  # what `fwd` makes is a constant in PyTorch anyway
        yield [(node, expression(f"(None if ({text}) is None else {free})"))]


@named_by(*SECOND)
def forget_second_order(source: Source) -> Iterator[Edit]:
    """What reaches an argument through a residual is left out."""
    for node in source.nodes("bwd"):
        if isinstance(node, ast.If) and any(name in ast.unparse(node.test) for name in ("g_rstd", "g_sin_x", "g_mean")):
            yield [(node, ast.Pass())]
        if isinstance(node, ast.If) and ast.unparse(node.test).startswith(("g_weights", "g_tanh")):
            yield [(node, ast.Pass())]


@named_by("random-in-backward")
def redraw_mask(source: Source) -> Iterator[Edit]:
    """The backward draws its own mask."""
    for node in source.nodes("bwd"):
        if not isinstance(node, ast.Call) or not source.op.startswith("dropout"):
            continue
        if _called(node) == "keep_mask":
            yield [(node, expression(ast.unparse(node).replace("residuals.key", "(residuals.key + 1)")))]
        if _called(node) == "unpack_bits":
            ones = f"{source.np}.roll({ast.unparse(node)}, 1)"
            yield [(node, expression(ones))]
            if source.framework == "torch":
                yield [(node, expression("keep_mask(None, drawn(g, broadcast), rate)"))]


# What the caller sees beside the gradients.


@named_by("cotangent-overwritten", "input-overwritten", "second-backward", "gradient-raises")
def write_in_place(source: Source) -> Iterator[Edit]:
    """a · b, a + b or a − b, written over a."""
    if source.framework == "jax":
        return
    names = {ast.Mult: "mul_", ast.Add: "add_", ast.Sub: "sub_"}
    for node in source.nodes("bwd", "fwd"):
        if not isinstance(node, ast.BinOp) or type(node.op) not in names or not _is_maths(source, node):
            continue
        written = getattr(node.left, "id", "")
        if written in ("g", "x", "y", "sin_x", "rstd", "gate", "up", "mask"):
            yield [(node, expression(f"{written}.{names[type(node.op)]}({ast.unparse(node.right)})"))]


@named_by("cotangent-overwritten")
def scale_cotangent_in_place(source: Source) -> Iterator[Edit]:
    """The backward begins with an in-place write to its cotangent, and takes it back from what it uses."""
    if source.framework == "jax":
        return
    for node in _cotangents(source):
        yield [(node, expression(f"({node.id}.mul_(2) / 2)"))]


@named_by("global-random-state", "random-in-backward")
def draw_in_backward(source: Source) -> Iterator[Edit]:
    """The backward draws a random number and does not use it."""
    if source.framework == "jax":
        return
    for node in _cotangents(source):
        yield [(node, expression(f"({node.id} + 0 * torch.rand_like({node.id}))"))]


@named_by("stride-of-cotangent")
def take_for_contiguous(source: Source) -> Iterator[Edit]:
    """The cotangent read as if it were contiguous."""
    if source.framework == "jax":
        return
    for node in _cotangents(source):
        strides = f"torch.empty({node.id}.shape, device='meta').stride()"
        yield [(node, expression(f"torch.as_strided({node.id}, {node.id}.shape, {strides})"))]


@named_by("frozen-subset", "gradient-missing", "gradient-raises", "no-gradient", "unused-residual", *WRONG)
def wrong_need(source: Source) -> Iterator[Edit]:
    """Another argument's place of needs_input_grad, or the opposite of what it says."""
    if source.framework == "jax":
        return
    for node in source.nodes("bwd", "setup"):
        place = getattr(getattr(node, "slice", None), "value", None)
        if place is not None and ast.unparse(node.value) == "ctx.needs_input_grad":
            yield [(node, expression(f"ctx.needs_input_grad[{place + 1}]"))]
            yield [(node, expression(f"(not {ast.unparse(node)})"))]
        if isinstance(node, ast.IfExp) and "need" in ast.unparse(node.test):
            yield [(node, ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse))]


@named_by("output-alone", "gradient-raises", "second-derivative-wrong", "silent-second-derivative")
def expect_cotangent(source: Source) -> Iterator[Edit]:
    """A cotangent is used without asking whether it is None."""
    if source.framework == "jax":
        return
    for node in source.nodes("bwd"):
        is_none = ast.unparse(node.test) if isinstance(node, (ast.If, ast.IfExp)) else ""
        if is_none == "g is None" and isinstance(node, ast.IfExp):
            yield [(node, node.orelse)]
        elif is_none == "g is None":
            yield [(node, ast.Pass())]


@named_by("value-when-differentiated")
def other_value(source: Source) -> Iterator[Edit]:
    """The value that nobody differentiates is another one."""
    for node in source.nodes("value"):
        if isinstance(node, ast.Return):
            yield [(node, statements(f"return jax.tree.map(lambda y: y * 1.001, {ast.unparse(node.value)})"))]


@named_by("gradient-factor", "gradient-wrong")
def double_in_glue(source: Source) -> Iterator[Edit]:
    """Twice the result in the glue, which the rule's backward does not know."""
    for node in source.nodes("fwd"):
        value = source.parents[node]
        if isinstance(node, ast.Call) and _called(node) == "fwd" and isinstance(value, ast.Subscript):
            fn = next(a for a in source.around(node) if isinstance(a, (ast.FunctionDef, ast.Lambda, ast.Module)))
            if getattr(fn, "name", "") == "forward":
                yield [(value, expression(f"2 * {ast.unparse(value)}"))]


# Helpers.


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_index(source: Source, node: ast.AST) -> bool:
    """Whether a number is one of an axis, a place or a size."""
    for a in source.around(node):
        if isinstance(a, (ast.Subscript, ast.Slice, ast.List)) or (isinstance(a, ast.keyword) and a.arg != "value"):
            return True
        if isinstance(a, ast.Call):
            return _called(a) in ("range", "unsqueeze", "transpose", "expand_dims", "min", "len", "getattr", "movedim")
        if isinstance(a, ast.stmt):
            return False
    return False


def _is_maths(source: Source, node: ast.BinOp) -> bool:
    """Whether an operation is of numbers, and not of axes, sizes, text or tuples."""
    if _is_index(source, node) or isinstance(node.left, (ast.List, ast.Tuple)):
        return False
    words = ("ndim", "len(", ".shape", "range(", "numel()", "start", "first", "block")
    return not any(word in ast.unparse(node) for word in words)


UNREAD = ("likes", "drawn", "pieces_beside", "isinstance", "is_distributed", "zeros_like", "_others", "_count", "_cuts")


def _cotangents(source: Source) -> Iterator[ast.Name]:
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
            is_read = isinstance(parent, ast.Call) and node in parent.args and _called(parent) not in UNREAD
            if isinstance(parent, ast.BinOp) or is_read:
                yield node


def _returned_tuples(source: Source) -> Iterator[ast.Tuple]:
    """The gradients that the backwards return."""
    for fn in source.functions("bwd"):
        for node in running(fn):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
                yield node.value


def _residuals_made(source: Source) -> Iterator[ast.expr]:
    """What goes into `Residuals`."""
    for node in source.nodes("fwd", "setup"):
        if isinstance(node, ast.Call) and _called(node) == "Residuals":
            for a in node.args:
                if not isinstance(a, (ast.Starred, ast.Constant)) and not ast.unparse(a).endswith(
                    ("key", "labels", "mask")
                ):
                    yield a


def _rounded(source: Source, text: str) -> str:
    """The text of an array rounded to bfloat16, in its own dtype."""
    rounded = f"({text}).to(torch.bfloat16).to(({text}).dtype)"
    if source.framework == "jax":
        rounded = f"({text}).astype(jnp.bfloat16).astype(({text}).dtype)"
    return f"(None if ({text}) is None else {rounded})"


def _defvjp(source: Source) -> list[ast.Call]:
    return [n for n in ast.walk(source.tree) if isinstance(n, ast.Call) and _called(n) == "defvjp"]


def _saves(source: Source) -> Iterator[ast.Call]:
    """The calls of save_for_backward in a class's setup_context."""
    for node in source.nodes("setup") if source.framework == "torch" else ():
        is_call = isinstance(node, ast.Call) and _called(node) == "save_for_backward"
        if is_call and any(isinstance(a, ast.ClassDef) for a in source.around(node)):
            yield node


def _reads(source: Source) -> list[ast.AST]:
    """Where a class's backward reads what was saved."""
    nodes = [n for n in source.nodes("bwd") if isinstance(n, ast.Attribute) and n.attr == "saved_tensors"]
    return [n for n in nodes if any(isinstance(a, ast.ClassDef) for a in source.around(n))]
