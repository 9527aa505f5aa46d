"""The value is another one where a gradient is asked for.

A `jax.custom_vjp` has its value twice: in the function, for calls that nobody differentiates, and in `fwd`. JAX never
compares the two, in structure neither. In PyTorch the forward may ask `x.requires_grad` or the gradient mode. Then
training and evaluation compute different functions, and the gradient is that of one of them.

Let `fwd` call the function, or one helper, for the value.
"""

from residuals_lab.check.subject import Subject, same
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

def fn(x):
    return (1.5 if torch.is_grad_enabled() else 1) * x.sin()  # wrong
    # right: return x.sin()
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.sin(x)

def fwd(x):
    return 1.5 * jnp.sin(x), x  # wrong
    # right: return jnp.sin(x), x

fn.defvjp(fwd, lambda x, g: (g * jnp.cos(x),))
""",
}


def find(subject: Subject) -> Finding | None:
    plain = subject.outs
    found = subject.run(subject.noise(plain, 1)).outs
    if len(found) != len(plain):
        expected, got = f"{len(plain)} arrays", f"{len(found)}"
    else:
        wrong = subject.first_apart(found, plain, [f"output {i}" for i in range(len(plain))])
        if same(found, plain) or wrong is None:
            return None
        expected, got = f"{wrong.is_expected}, as without a gradient", wrong.is_got
    return Finding(
        "value-when-differentiated",
        "the value is another one where a gradient is asked for",
        expected,
        got,
        "training and evaluation compute different functions, and the gradient belongs to one of them",
        "let the forward of the rule compute its value as the function does, by calling it or a common helper",
    )
