"""Operators that change what is saved, and what a caller sees beside the gradients."""

import ast
from collections.abc import Iterator

from mutants.places import called, cotangents, defvjp, is_maths, reads, residuals_made, saves
from mutants.registry import SECOND, WRONG, named_by
from mutants.source import Edit, Source, expression, statements

# Residuals.


@named_by(*WRONG, "gradient-raises", "gradients-swapped", "second-derivative-wrong")
def swap_residuals(source: Source) -> Iterator[Edit]:
    """Two neighbours among what is saved, or among what the backward reads."""
    for node in source.nodes("fwd", "setup"):
        if isinstance(node, ast.Call) and called(node) == "Residuals":
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
        for call in defvjp(source):
            fwd, bwd = (ast.unparse(a) for a in call.args)
            more = f"lambda *a: (lambda y, r: (y, (r, jnp.exp(jax.tree.leaves(a[0])[0]))))(*({fwd})(*a))"
            yield [
                (call.args[0], expression(more)),
                (call.args[1], expression(f"lambda *a: ({bwd})(*a[:-2], a[-2][0], a[-1])")),
            ]
        return
    for save in saves(source):
        args = [*save.args, expression("inputs[0].detach().exp()")]
        others = [(a, expression(f"{ast.unparse(a)}[:-1]")) for a in reads(source)]
        yield [(save, ast.Call(save.func, args, [])), *others]


@named_by("tensor-on-ctx", "leaked-by-cycle")
def keep_on_ctx(source: Source) -> Iterator[Edit]:
    """What is to be saved is kept as an attribute of ctx."""
    for save in saves(source):
        kept = statements(f"ctx.kept = ({', '.join(ast.unparse(a) for a in save.args)},)")
        yield [(source.parents[save], kept), *((a, expression("ctx.kept")) for a in reads(source))]


@named_by("state-between-calls")
def keep_on_class(source: Source) -> Iterator[Edit]:
    """What is to be saved is kept as an attribute of the class."""
    for save in saves(source):
        name = next(a.name for a in source.around(save) if isinstance(a, ast.ClassDef))
        kept = statements(f"{name}.kept = ({', '.join(ast.unparse(a) for a in save.args)},)")
        yield [(source.parents[save], kept), *((a, expression(f"{name}.kept")) for a in reads(source))]


@named_by(*SECOND)
def detach_residual(source: Source) -> Iterator[Edit]:
    """A constant in place of a residual: the first derivative is right."""
    for node in [*residuals_made(source), *cotangents(source)]:
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
        if called(node) == "keep_mask":
            yield [(node, expression(ast.unparse(node).replace("residuals.key", "(residuals.key + 1)")))]
        if called(node) == "unpack_bits":
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
        if not isinstance(node, ast.BinOp) or type(node.op) not in names or not is_maths(source, node):
            continue
        written = getattr(node.left, "id", "")
        if written in ("g", "x", "y", "sin_x", "rstd", "gate", "up", "mask"):
            yield [(node, expression(f"{written}.{names[type(node.op)]}({ast.unparse(node.right)})"))]


@named_by("cotangent-overwritten")
def scale_cotangent_in_place(source: Source) -> Iterator[Edit]:
    """The backward begins with an in-place write to its cotangent, and takes it back from what it uses."""
    if source.framework == "jax":
        return
    for node in cotangents(source):
        yield [(node, expression(f"({node.id}.mul_(2) / 2)"))]


@named_by("global-random-state", "random-in-backward")
def draw_in_backward(source: Source) -> Iterator[Edit]:
    """The backward draws a random number and does not use it."""
    if source.framework == "jax":
        return
    for node in cotangents(source):
        yield [(node, expression(f"({node.id} + 0 * torch.rand_like({node.id}))"))]


@named_by("stride-of-cotangent")
def take_for_contiguous(source: Source) -> Iterator[Edit]:
    """The cotangent read as if it were contiguous."""
    if source.framework == "jax":
        return
    for node in cotangents(source):
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
        if isinstance(node, ast.Call) and called(node) == "fwd" and isinstance(value, ast.Subscript):
            fn = next(a for a in source.around(node) if isinstance(a, (ast.FunctionDef, ast.Lambda, ast.Module)))
            if getattr(fn, "name", "") == "forward":
                yield [(value, expression(f"2 * {ast.unparse(value)}"))]
