"""Answers to the exercises, planted: the solution with some of its text replaced."""

from typing import NamedTuple

from residuals_lab import frameworks


class Wrong(NamedTuple):
    """The solution with some of its text replaced, the code it must be given, and words that must be in the message."""

    framework: str
    name: str
    code: str
    phrase: str
    edits: dict[str, str]


ARGUMENTS = "residuals: Residuals, g: Array"  # of the solution's `_bwd`
BOTH = [
    ("cotangent", "cotangent-ignored", "the same as for g = 1", {"g * (sin_x": "(sin_x"}),
    ("sign", "gradient-sign", "the negative of it", {"return (g *": "return (-g *", "return g *": "return -g *"}),
    ("lost_x", "gradient-wrong", "g·(sin x + cos x): the second", {"sin_x + x * ": "sin_x + "}),
    ("doubled", "gradient-wrong", "product rule", {"sin_x + x * ": "2 * sin_x + x * "}),
    (
        "name_error",
        "raises",
        "NameError: name 'jn' is not defined, at line",
        {"jnp.cos": "jn.cos", "torch.cos": "jn.cos"},
    ),
    ("at_import", "raises", "the file raises ZeroDivisionError", {"def custom": "1 / 0\n\n\ndef custom"}),
    (
        "exits",
        "raises",
        "SystemExit",
        {"sin_x = residuals": "sin_x = exit()", "sin_x = ctx.saved_tensors": "sin_x = exit()"},
    ),
    ("syntax", "syntax-error", "SyntaxError: '(' was never closed, at line", {"sum(x * sin_x)": "sum(x * sin_x"}),
    ("renamed", "missing-function", "no function `custom_vjp_with_extra_residual`", {"def custom": "def my_custom"}),
    ("sum_of_gradient", "wrong-shape", "an array of shape ()", {"grad(f_with_sin)(x)": "grad(f_with_sin)(x).sum()"}),
    ("gradient_twice", "gradient-wrong", "that of f_with_sin at x", {"grad(f_with_sin)(x)": "grad(f_with_sin)(2 * x)"}),
]
BOTH += [
    (
        "cosine_from_sine",
        "gradient-wrong",
        "cos x without its sign",
        {"jnp.cos(x)": "jnp.sqrt(1 - sin_x**2)", "torch.cos(x)": "torch.sqrt(1 - sin_x**2)"},
    ),
    (
        "sine_of_minus_x",
        "sin-recomputed",
        "computes a sine",
        {"= residuals\n": "= residuals\n    sin_x = -jnp.sin(-x)\n"}
        | {"= ctx.saved_tensors\n": "= ctx.saved_tensors\n        sin_x = -torch.sin(-x)\n"},
    ),
    (
        "rule_called_for_nothing",
        "rule-not-used",
        "goes past the rule",
        {"return jax.grad(f_with_sin)(x)": "jax.grad(f_with_sin)(x)\n    return jnp.sin(x) + x * jnp.cos(x)"}
        | {"return torch.func.grad(f_with_sin)(x)": "torch.func.grad(f_with_sin)(x)\n    return x.sin() + x * x.cos()"},
    ),
]
BOTH += [
    (
        "right_only_once",
        "state-between-calls",
        "is right only the first time",
        {"return jax.grad": "CALLS.append(x)\n    return len(CALLS) * jax.grad"}
        | {"return torch.func.grad": "CALLS.append(x)\n    return len(CALLS) * torch.func.grad"}
        | {"def custom": "CALLS = []\n\n\ndef custom"},
    ),
    ("interrupts", "raises", "KeyboardInterrupt", {"def custom": "raise KeyboardInterrupt\n\n\ndef custom"}),
    (
        "in_another_folder",
        "raises",
        "line 1: ",
        {'"""f_with_sin(x) = Σ': 'import os; os.chdir("/"); 1 / 0\n"""f_with_sin(x) = Σ'},
    ),
]
JAX = [
    ("swapped_rule", "rule-swapped", "where `_bwd(residuals, g)` comes first", {"(_fwd, _bwd)": "(_bwd, _fwd)"}),
    (
        "swapped_rule_of_other_names",
        "rule-swapped",
        "where `two(residuals, g)` comes first",
        {"_fwd": "one", "_bwd": "two"} | {"(one, two)": "(two, one)"},
    ),
    ("swapped_arguments", "arguments-swapped", "got: `_bwd(g, residuals)`", {ARGUMENTS: "g, residuals"}),
    (
        "swapped_arguments_and_a_sign",
        "arguments-swapped",
        "what `_fwd` returned, then the cotangent",
        {ARGUMENTS: "a, b", "= residuals": "= b", "return (g *": "return (-a *"},
    ),
    ("no_cotangent", "backward-arguments", "got: `_bwd(residuals)`", {ARGUMENTS: "residuals", "(g * ": "("}),
    (
        "three_arguments",
        "backward-arguments",
        "got: `_bwd(x, sin_x, g)`",
        {ARGUMENTS: "x, sin_x, g", "    x, sin_x = residuals\n": ""},
    ),
    (
        "swapped_pair",
        "fwd-value-wrong",
        "the value comes first",
        {"jnp.sum(x * sin_x), (x, sin_x)": "(x, sin_x), jnp.sum(x * sin_x)"},
    ),
    (
        "formula",
        "rule-not-used",
        "`return jax.grad(f_with_sin)(x)`",
        {"return jax.grad(f_with_sin)(x)": "return jnp.sin(x) + x * jnp.cos(x)"},
    ),
    (
        "plain_gradient",
        "rule-not-used",
        "goes past the rule",
        {"jax.grad(f_with_sin)(x)": "jax.grad(f_with_sin.fun)(x)"},
    ),
    ("half", "not-started", "`_bwd` is still to be written", {"x, sin_x = residuals": "raise NotImplementedError"}),
    ("two_objects", "two-residual-objects", "ONE object with all residuals", {"(x, sin_x)\n": "x, sin_x\n"}),
    ("value_alone", "fwd-not-a-pair", "an array of shape ()", {", (x, sin_x)\n": "\n"}),
    ("other_value", "fwd-value-wrong", "the two have to agree", {"jnp.sum(x * sin_x)": "2 * jnp.sum(x * sin_x)"}),
    ("no_sum", "not-a-scalar", "an array of shape (5,)", {"jnp.sum(x * jnp.sin(x))": "x * jnp.sin(x)"}),
    ("other_function", "wrong-value", "Σ x·sin x", {"jnp.sum(x * jnp.sin(x))": "jnp.sum(jnp.sin(x))"}),
    ("no_rule", "no-custom-rule", "@jax.custom_vjp", {"@jax.custom_vjp": "", "f_with_sin.defvjp(_fwd, _bwd)": ""}),
    ("no_defvjp", "no-custom-rule", "defvjp", {"f_with_sin.defvjp(_fwd, _bwd)": ""}),
    ("no_comma", "wrong-number-of-gradients", "with the comma", {"jnp.cos(x)),)": "jnp.cos(x)))"}),
    ("none", "gradient-wrong", "did you return None", {"(g * (sin_x + x * jnp.cos(x)),)": "(None,)"}),
    ("summed", "wrong-shape", "an array of shape ()", {"(g * (sin_x + x * jnp.cos(x)),)": "(jnp.sum(g * x),)"}),
    ("sine_saved_and_repeated", "sin-recomputed", "though sin_x is saved", {"(sin_x + ": "(jnp.sin(x) + "}),
    (
        "only_x",
        "sin-recomputed",
        "save sin_x beside x",
        {"(x, sin_x)\n": "x\n", "x, sin_x = residuals": "x = residuals", "(sin_x + ": "(jnp.sin(x) + "},
    ),
    (
        "gradient_saved",
        "residual-missing",
        "x and sin_x are not saved",
        {
            "(x, sin_x)\n": "sin_x + x * jnp.cos(x)\n",
            "x, sin_x = residuals": "",
            "(sin_x + x * jnp.cos(x))": "residuals",
        },
    ),
    (
        "cosine_saved",
        "too-much-saved",
        "cos is saved too",
        {"(x, sin_x)\n": "(x, sin_x, jnp.cos(x))\n", "x, sin_x =": "x, sin_x, cos_x =", "jnp.cos(x)),)": "cos_x),)"},
    ),
    (
        "sine_saved_twice",
        "too-much-saved",
        "sin_x is saved too",
        {"(x, sin_x)\n": "(x, sin_x, jnp.sin(x))\n", "x, sin_x = residuals": "x, sin_x, _ = residuals"},
    ),
    (
        "global_array",
        "state-between-calls",
        "two calls of f_with_sin disturb each other",
        {"(x, sin_x)\n": "(KEPT.append(sin_x), x)[1]\n", "x, sin_x = residuals": "x, sin_x = residuals, KEPT[-1]"}
        | {"Residuals = ": "KEPT = []\nResiduals = "},
    ),
    (
        "global_stack",
        "state-between-calls",
        "the gradient of the first of two calls",
        {"(x, sin_x)\n": "(KEPT.append(sin_x), x)[1]\n", "x, sin_x = residuals": "x, sin_x = residuals, KEPT.pop()"}
        | {"Residuals = ": "KEPT = []\nResiduals = "},
    ),
    (
        "global_queue",
        "state-between-calls",
        "the gradient of the second of two calls",
        {"(x, sin_x)\n": "(KEPT.append(sin_x), x)[1]\n", "x, sin_x = residuals": "x, sin_x = residuals, KEPT.pop(0)"}
        | {"Residuals = ": "KEPT = []\nResiduals = "},
    ),
    (
        "class_attribute",
        "state-between-calls",
        "its argument `residuals`",
        {"    return jnp.sum(x * sin_x), ": "    Kept.sin_x = sin_x\n    return jnp.sum(x * sin_x), "}
        | {
            "x, sin_x = residuals": "x, sin_x = residuals[0], Kept.sin_x",
            "Residuals = ": "class Kept: ...\n\nResiduals = ",
        },
    ),
    (
        "last_call_alone",
        "state-between-calls",
        "got: AssertionError: another x",
        {"(x, sin_x)\n": "(KEPT.append((x, sin_x)), x)[1]\n", "Residuals = ": "KEPT = []\nResiduals = "}
        | {"x, sin_x = residuals": "x, (kept, sin_x) = residuals, KEPT[-1]\n    assert (x == kept).all(), 'another x'"},
    ),
    (
        "function_attribute",
        "state-between-calls",
        "an attribute of a class or a function",
        {"    return jnp.sum(x * sin_x), ": "    _fwd.sin_x = sin_x\n    return jnp.sum(x * sin_x), "}
        | {"x, sin_x = residuals": "x, sin_x = residuals[0], _fwd.sin_x"},
    ),
    (
        "default_argument",
        "state-between-calls",
        "the value for x =",
        {
            "def _fwd(x: Array)": "def _fwd(x, kept={})",
            "    sin_x = jnp.sin(x)\n": "    sin_x = kept.setdefault(0, jnp.sin(x))\n",
        },
    ),
    (
        "constant_array",
        "closed-over",
        "from a global or a closure; the residuals are x (input",
        {"(g * (sin_x": "(g * ONES * (sin_x", "Residuals = ": "ONES = jnp.ones(1)\nResiduals = "},
    ),
    (
        "branches_on_numbers",
        "raises",
        "has a shape and no numbers yet",
        {"x, sin_x = residuals": "x, sin_x = residuals\n    if x[0] > 0:\n        g = 1 * g"},
    ),
    (
        "gradient_stopped",
        "no-custom-rule",
        "without a `detach` or `stop_gradient` in between",
        {
            "def f_with_sin": "def rule",
            "f_with_sin.defvjp(_fwd, _bwd)": "rule.defvjp(_fwd, _bwd)\n\n\n"
            "def f_with_sin(x):\n    plain = jnp.sum(x * jnp.sin(x))\n"
            "    return plain + jax.lax.stop_gradient(rule(x) - plain)",
        },
    ),
    (
        "rule_in_the_function",
        "rule-made-anew",
        "move the rule out",
        {
            "@jax.custom_vjp\ndef f_with_sin(x: Array) -> Array:\n    return": "def value(x):\n    return",
            "f_with_sin.defvjp(_fwd, _bwd)": "def f_with_sin(x):\n    rule = jax.custom_vjp(value)\n"
            "    rule.defvjp(_fwd, _bwd)\n    return rule(x)",
        },
    ),
    (
        "sine_stopped",
        "second-derivative-wrong",
        "stop_gradient",
        {"x, sin_x = residuals": "x, sin_x = residuals[0], jax.lax.stop_gradient(residuals[1])"},
    ),
    (
        "cotangent_stopped",
        "second-derivative-wrong",
        "with respect to the cotangent g",
        {"x, sin_x = residuals": "(x, sin_x), g = residuals, jax.lax.stop_gradient(g)"},
    ),
]
GRADIENT = "g * (sin_x + x * cos_x) + g_sin_x * cos_x"
OLD_STYLE = {
    "def forward(x: Tensor)": "def forward(ctx, x)",
    "return torch.sum(x * sin_x), sin_x": "ctx.save_for_backward(x, sin_x)\n        return torch.sum(x * sin_x)",
    "setup_context": "not_called",
    ", g_sin_x: Tensor": "",
    " + g_sin_x * cos_x": "",
    "y, _ = XSinX": "y = XSinX",
}
SINE = "def sine(x, kept={}):\n    return kept.setdefault(0, torch.sin(x).detach()).clone()\n\n\n"
COTANGENTS = "ctx: Any, g: Tensor, g_sin_x: Tensor"  # of the solution's `backward`
TORCH = [
    (
        "swapped_setup",
        "arguments-swapped",
        "got: `setup_context(ctx, output, inputs)`",
        {"inputs: tuple[Tensor], output: tuple[Tensor, Tensor]": "output, inputs"},
    ),
    ("swapped_cotangents", "arguments-swapped", "`backward(ctx, g_sin_x, g)`", {COTANGENTS: "ctx, g_sin_x, g"}),
    ("swapped_ctx", "arguments-swapped", "got: `backward(g, ctx, g_sin_x)`", {COTANGENTS: "g, ctx, g_sin_x"}),
    ("named_vjp", "raises", "NotImplementedError: You must implement", {"def backward": "def vjp"}),
    ("no_cotangent", "backward-arguments", "got: `backward(ctx)`", {COTANGENTS: "ctx"}),
    ("one_cotangent", "backward-arguments", "each of the 2 outputs", {COTANGENTS: "ctx, g", " + g_sin_x * cos_x": ""}),
    (
        "sine_overwritten",
        "residual-overwritten",
        "sin_x changed by one backward",
        {"g * (sin_x + x * cos_x)": "g * sin_x.add_(x * cos_x)"},
    ),
    (
        "sine_overwritten_unseen",
        "residual-overwritten",
        "`backward` overwrites sin_x",
        {"g * (sin_x + x * cos_x)": "g * sin_x.data.add_(x * cos_x)"},
    ),
    (
        "input_overwritten",
        "residual-overwritten",
        "this x is the caller's own",
        {"g * (sin_x + x * cos_x)": "g * x.mul_(cos_x).add_(sin_x)"},
    ),
    (
        "works_once",
        "residual-overwritten",
        "got: AttributeError",
        {"save_for_backward(x, sin_x)": "save_for_backward(x, sin_x)\n        ctx.left = 1"}
        | {"        cos_x = ": "        del ctx.left\n        cos_x = "},
    ),
    (
        "other_the_second_time",
        "residual-overwritten",
        "is right only once",
        {"save_for_backward(x, sin_x)": "save_for_backward(x, sin_x)\n        ctx.times = 0"}
        | {"        cos_x = ": "        ctx.times += 1\n        g = g * ctx.times\n        cos_x = "},
    ),
    (
        "formula",
        "rule-not-used",
        "`return torch.func.grad(f_with_sin)(x)`",
        {"return torch.func.grad(f_with_sin)(x)": "return torch.sin(x) + x * torch.cos(x)"},
    ),
    (
        "plain_gradient",
        "rule-not-used",
        "goes past the rule",
        {"torch.func.grad(f_with_sin)(x)": "torch.func.grad(lambda x: XSinX.forward(x)[0])(x)"},
    ),
    ("half", "not-started", "`backward` is still", {"x, sin_x = ctx.saved_tensors": "raise NotImplementedError"}),
    ("old_style", "raises", "setup_context", OLD_STYLE),
    (
        "saved_intermediate",
        "second-derivative-wrong",
        "takes what you saved for a constant",
        OLD_STYLE | {"torch.func.grad(f_with_sin)(x)": "torch.autograd.grad(f_with_sin(x), x)[0]"},
    ),
    (
        "saved_in_setup",
        "second-derivative-wrong",
        "takes what you saved for a constant",
        {"save_for_backward(x, sin_x)": "save_for_backward(x, torch.sin(x))"},
    ),
    (
        "not_differentiable",
        "second-derivative-wrong",
        "leave it differentiable",
        {"save_for_backward(x, sin_x)": "save_for_backward(x, sin_x)\n        ctx.mark_non_differentiable(sin_x)"},
    ),
    ("cotangent_dropped", "second-derivative-wrong", "sin_x was taken for a constant", {" + g_sin_x * cos_x": ""}),
    (
        "once_differentiable",
        "second-derivative-wrong",
        "such as `once_differentiable`",
        {"    def backward": "    @torch.autograd.function.once_differentiable\n    def backward"},
    ),
    ("detached", "second-derivative-wrong", "or `detach`", {GRADIENT: f"({GRADIENT}).detach()"}),
    ("no_sum", "not-a-scalar", "an array of shape (5,)", {"torch.sum(x * sin_x)": "x * sin_x"}),
    ("both_outputs", "not-a-scalar", "a tuple of 2", {"    return y\n": "    return y, _\n"}),
    ("other_function", "wrong-value", "Σ x·sin x", {"torch.sum(x * sin_x)": "torch.sum(sin_x)"}),
    (
        "no_rule",
        "no-custom-rule",
        "the `apply` of a torch.autograd.Function",
        {"y, _ = XSinX.apply(x)": "y = torch.sum(x * torch.sin(x))"},
    ),
    ("two_gradients", "wrong-number-of-gradients", "a tuple of 2", {GRADIENT: f"{GRADIENT}, None"}),
    ("none", "gradient-wrong", "did you return None", {GRADIENT: "None"}),
    ("summed", "wrong-shape", "an array of shape ()", {GRADIENT: f"torch.sum({GRADIENT})"}),
    ("silently_reduced", "wrong-shape", "an array of shape (2, 5)", {GRADIENT: f"({GRADIENT}).expand(2, -1) / 2"}),
    (
        "tuple_of_gradients",
        "wrong-shape",
        "a tuple of 1",
        {"torch.func.grad(f_with_sin)(x)": "torch.autograd.grad(f_with_sin(x), x)"},
    ),
    ("sine_saved_and_repeated", "sin-recomputed", "though sin_x is saved", {"(sin_x + ": "(torch.sin(x) + "}),
    (
        "only_x",
        "sin-recomputed",
        "save sin_x beside x",
        {"_backward(x, sin_x)": "_backward(x)", "x, sin_x = ctx.saved_tensors": "(x,) = ctx.saved_tensors"}
        | {"(sin_x + ": "(torch.sin(x) + "},
    ),
    (
        "gradient_saved",
        "residual-missing",
        "x and sin_x are not saved",
        {"_backward(x, sin_x)": "_backward(sin_x + x * torch.cos(x))", GRADIENT: "g * d"}
        | {"x, sin_x = ctx.saved_tensors\n        cos_x = torch.cos(x)": "(d,) = ctx.saved_tensors"},
    ),
    (
        "cosine_saved",
        "too-much-saved",
        "cos is saved too",
        {"_backward(x, sin_x)": "_backward(x, sin_x, torch.cos(x))"}
        | {"x, sin_x = ctx.saved_tensors\n        cos_x = torch.cos(x)": "x, sin_x, cos_x = ctx.saved_tensors"},
    ),
    (
        "on_ctx",
        "tensor-on-ctx",
        "sin_x hangs on `ctx`",
        {"_backward(x, sin_x)": "_backward(x)\n        ctx.sin_x = sin_x"}
        | {"x, sin_x = ctx.saved_tensors": "(x,), sin_x = ctx.saved_tensors, ctx.sin_x"},
    ),
    (
        "in_an_object_on_ctx",
        "tensor-on-ctx",
        "in `ctx.kept`",
        {"_backward(x, sin_x)": "_backward(x)\n        ctx.kept = type('Kept', (), {'sin_x': sin_x})"}
        | {"x, sin_x = ctx.saved_tensors": "(x,), sin_x = ctx.saved_tensors, ctx.kept.sin_x"},
    ),
    (
        "in_a_function_on_ctx",
        "tensor-on-ctx",
        "in `ctx.kept`",
        {"_backward(x, sin_x)": "_backward(x)\n        ctx.kept = lambda: sin_x"}
        | {"x, sin_x = ctx.saved_tensors": "(x,), sin_x = ctx.saved_tensors, ctx.kept()"},
    ),
    (
        "global_tensor",
        "state-between-calls",
        "two calls of f_with_sin disturb each other",
        {"_backward(x, sin_x)": "_backward(x)\n        KEPT.append(sin_x)", "class XSinX": "KEPT = []\n\n\nclass XSinX"}
        | {"x, sin_x = ctx.saved_tensors": "(x,), sin_x = ctx.saved_tensors, KEPT[-1]"},
    ),
    (
        "global_tensors_by_index",
        "closed-over",
        "from a global or a closure; the residuals are x (input",
        {"_backward(x, sin_x)": "_backward(x)\n        KEPT.append(sin_x)\n        ctx.i = len(KEPT) - 1"}
        | {
            "class XSinX": "KEPT = []\n\n\nclass XSinX",
            "x, sin_x = ctx.saved_tensors": "(x,), sin_x = ctx.saved_tensors, KEPT[ctx.i]",
        },
    ),
    (
        "class_attribute",
        "state-between-calls",
        "`ctx.saved_tensors`",
        {"_backward(x, sin_x)": "_backward(x, sin_x)\n        XSinX.sin_x = sin_x"}
        | {"x, sin_x = ctx.saved_tensors": "x, sin_x = ctx.saved_tensors[0], XSinX.sin_x"},
    ),
    (
        "function_attribute",
        "state-between-calls",
        "an attribute of a class or a function",
        {"_backward(x, sin_x)": "_backward(x, sin_x)\n        f_with_sin.sin_x = sin_x"}
        | {"x, sin_x = ctx.saved_tensors": "x, sin_x = ctx.saved_tensors[0], f_with_sin.sin_x"},
    ),
    (
        "default_argument",
        "state-between-calls",
        "the value for x =",
        {"sin_x = torch.sin(x)": "sin_x = sine(x)", "class XSinX": f"{SINE}class XSinX"},
    ),
    (
        "rule_in_the_function",
        "rule-made-anew",
        "move the rule out",
        {
            "XSinX.apply(x)": "type('Rule', (XSinX,), {}).apply(x)",
        },
    ),
    (
        "gradient_stopped",
        "no-custom-rule",
        "the `apply` of a torch.autograd.Function",
        {"return y\n": "plain = torch.sum(x * torch.sin(x))\n    return plain + (y - plain).detach()\n"},
    ),
    (
        "writes_grad",
        "writes-grad",
        "which a second call makes twice the gradient",
        {"return torch.func.grad(f_with_sin)(x)": "f_with_sin(x).backward()\n    return x.grad"},
    ),
    (
        "clears_grad",
        "writes-grad",
        "another x.grad than before the call",
        {"return torch.func.grad(f_with_sin)(x)": "x.grad = None\n    f_with_sin(x).backward()\n    return x.grad"},
    ),
    (
        "takes_grad_away",
        "writes-grad",
        "x.grad belongs to the caller",
        {
            "return torch.func.grad(f_with_sin)(x)": "x.grad = None\n    f_with_sin(x).backward()\n"
            "    d = x.grad\n    x.grad = None\n    return d"
        },
    ),
]
WRONG = [
    Wrong(framework, *row)
    for framework, rows in (("jax", BOTH + JAX), ("torch", BOTH + TORCH))
    for row in rows
    if framework in frameworks.installed()
]


def _in_the_backward(line: str) -> dict[str, str]:
    unpacking = "= residuals\n", "= ctx.saved_tensors\n"
    return {unpacking[0]: f"{unpacking[0]}    {line}\n", unpacking[1]: f"{unpacking[1]}        {line}\n"}


# Answers that end the process that runs them, or that never end.
ENDING = [
    Wrong(framework, *row)
    for framework in frameworks.installed()
    for row in (
        ("endless", "does-not-end", ": `while True: pass`", _in_the_backward("while True: pass")),
        ("exits", "exits-process", "exit code 0", {"def custom": "import os\n\nos._exit(0)\n\n\ndef custom"}),
        (
            "too_much",
            "too-much-memory",
            ": `while True: kept += [b'x' * 2**24]`",
            {"def custom": "kept = []\nwhile True: kept += [b'x' * 2**24]\n\n\ndef custom"},
        ),
        (
            "crashes",
            "crashes",
            ": `import ctypes; ctypes.string_at(0)`",
            _in_the_backward("import ctypes; ctypes.string_at(0)"),
        ),
    )
]

RULE = {"def f_with_sin": "def rule", "f_with_sin.defvjp(_fwd, _bwd)\n": "rule.defvjp(_fwd, _bwd)\n\n\nBEHIND\n"}
BEHIND = "BEHIND"  # in place of which an answer has what calls its rule

# Other answers that are right: the framework, a name, the edits.
RIGHT = [
    ("jax", "residuals_in_another_order", {"(x, sin_x)\n": "(sin_x, x)\n", "x, sin_x =": "sin_x, x ="}),
    (
        "jax",
        "residuals_in_a_dict",
        {"(x, sin_x)\n": "dict(x=x, s=sin_x)\n", "= residuals": "= residuals['x'], residuals['s']"},
    ),
    ("jax", "jit", {"def custom": "f_with_sin = jax.jit(f_with_sin)\n\n\ndef custom"}),
    ("jax", "jitted_gradient", {"def custom": "@jax.jit\ndef custom"}),
    ("jax", "value_and_grad", {"jax.grad(f_with_sin)(x)": "jax.value_and_grad(f_with_sin)(x)[1]"}),
    (
        "jax",
        "constant_of_the_module",
        {
            "x, sin_x = residuals": "(x, sin_x), g = residuals, g * ONE",
            "Residuals = ": "ONE = jnp.ones(())\nResiduals = ",
        },
    ),
    ("jax", "defaults", {ARGUMENTS: "residuals, g=1.0"}),
    ("jax", "other_names", {"_fwd": "f_with_sin_fwd", "_bwd": "f_with_sin_bwd"}),
    ("jax", "numpy_at_the_end", {"return jax.grad(f_with_sin)(x)": "return jax.device_get(jax.grad(f_with_sin)(x))"}),
    ("jax", "behind_a_function", RULE | {BEHIND: "def f_with_sin(x):\n    return rule(x)"}),
    ("jax", "behind_a_jitted_function", RULE | {BEHIND: "@jax.jit\ndef f_with_sin(x):\n    return rule(x)"}),
    ("jax", "jitted_rule", RULE | {BEHIND: "f_with_sin = jax.jit(rule)"}),
    ("jax", "partial", RULE | {BEHIND: "from functools import partial\n\nf_with_sin = partial(rule)"}),
    (
        "jax",
        "wraps",
        RULE
        | {BEHIND: "from functools import wraps\n\n\n@wraps(rule)\ndef f_with_sin(*args):\n    return rule(*args)"},
    ),
    (
        "jax",
        "object",
        RULE
        | {BEHIND: "class Function:\n    def __call__(self, x):\n        return rule(x)\n\n\nf_with_sin = Function()"},
    ),
    (
        "jax",
        "static_argument",
        RULE
        | {
            BEHIND: "def f_with_sin(x):\n    return rule(x, 1)",
            "@jax.custom_vjp": "@partial(jax.custom_vjp, nondiff_argnums=(1,))",
        }
        | {"rule(x: Array)": "rule(x, n)", "_fwd(x: Array)": "_fwd(x, n)", ARGUMENTS: "n, residuals, g"}
        | {"import jax\n": "from functools import partial\n\nimport jax\n"},
    ),
    (
        "jax",
        "second_argument",
        RULE
        | {BEHIND: "def f_with_sin(x):\n    return rule(x, 1.0)", "jnp.cos(x)),)": "jnp.cos(x)), None)"}
        | {"rule(x: Array)": "rule(x, scale)", "_fwd(x: Array)": "_fwd(x, scale)"},
    ),
    (
        "jax",
        "sum_outside",
        RULE
        | {BEHIND: "def f_with_sin(x):\n    return jnp.sum(rule(x))"}
        | {"jnp.sum(x * jnp.sin(x))": "x * jnp.sin(x)", "jnp.sum(x * sin_x)": "x * sin_x"},
    ),
    ("torch", "compiled", {"def f_with_sin": "@torch.compile\ndef f_with_sin"}),
    ("torch", "compiled_whole", {"def f_with_sin": "@torch.compile(fullgraph=True)\ndef f_with_sin"}),
    (
        "torch",
        "compiled_behind_a_function",
        {
            "def f_with_sin": "@torch.compile\ndef compiled",
            "def custom": "def f_with_sin(x):\n    return compiled(x)\n\n\ndef custom",
        },
    ),
    (
        "torch",
        "behind_a_function",
        {
            "def f_with_sin": "def inner",
            "def custom": "def f_with_sin(x):\n    return inner(x)\n\n\ndef custom",
        },
    ),
    (
        "torch",
        "apply_at_the_top",
        {"def f_with_sin": "apply = XSinX.apply\n\n\ndef f_with_sin", "_ = XSinX.apply(x)": "_ = apply(x)"},
    ),
    (
        "torch",
        "second_argument",
        {
            "forward(x: Tensor)": "forward(x, scale)",
            "(x,), (_": "(x, _), (_",
            "apply(x)": "apply(x, 1.0)",
            f"return {GRADIENT}": f"return {GRADIENT}, None",
        },
    ),
    (
        "torch",
        "backward_on_a_copy",
        {
            "return torch.func.grad(f_with_sin)(x)": "x = x.detach().requires_grad_()\n"
            "    f_with_sin(x).backward()\n    return x.grad",
        },
    ),
    ("torch", "residuals_in_another_order", {"(x, sin_x)\n": "(sin_x, x)\n", "x, sin_x = ctx": "sin_x, x = ctx"}),
    (
        "torch",
        "named_vjp",
        {"def backward": "def vjp", "torch.func.grad(f_with_sin)(x)": "torch.autograd.grad(f_with_sin(x), x)[0]"},
    ),
    ("torch", "backward_in_place", {GRADIENT: "(x * cos_x).add_(sin_x).mul_(g).add_(g_sin_x * cos_x)"}),
    (
        "torch",
        "any_number_of_cotangents",
        {COTANGENTS: "ctx, *gs", "        cos_x = ": "        g, g_sin_x = gs\n        cos_x = "},
    ),
    ("torch", "other_names", {"XSinX": "Sine", "sin_x": "s"}),
    ("torch", "autograd", {"torch.func.grad(f_with_sin)(x)": "torch.autograd.grad(f_with_sin(x), x)[0]"}),
    ("torch", "sum_outside", {"torch.sum(x * sin_x), sin_x": "x * sin_x, sin_x", "return y": "return y.sum()"}),
    (
        "torch",
        "no_zeros",
        {
            "(x, sin_x)\n": "(x, sin_x)\n        ctx.set_materialize_grads(False)\n",
            f"return {GRADIENT}": "parts = (g, sin_x + x * cos_x), (g_sin_x, cos_x)\n"
            "        return sum(a * b for a, b in parts if a is not None)",
        },
    ),
]
