"""Where an equation of a jaxpr comes from: the user's line, and the functions and names around it."""

import os
import re
from functools import cache
from typing import Any

from residuals_lab.frameworks.places import innermost, shown_as

_NN = os.path.join("jax", "_src", "nn") + os.sep
_TRACE = os.path.join(os.path.dirname(__file__), "tracing.py")
_TRANSFORMS = {"checkpoint", "jvp", "rematted_computation", "transpose", "vmap"}  # on a stack of names


@cache
def place(traceback: Any) -> tuple[str, str]:
    """The user's line, and the functions around it, the innermost last, with one of `jax.nn` that it calls."""
    frames = []
    for frame in traceback.frames:
        if frame.file_name == _TRACE:
            break
        frames.append(frame)
    users = [f.function_name for f in reversed(frames) if shown_as(f.file_name)]
    library = [f.function_name for f in reversed(frames) if _NN in f.file_name]
    names = [name.rpartition(".")[2] for name in (*users, *library[:1])]
    functions = "/".join(name for name in names if name.isidentifier())
    return innermost((f.file_name, f.line_num, "") for f in frames)[0], functions


def named(eqn: Any, around: str) -> str:
    """The names on an equation's stack, without the transformations around them: `transpose(jvp(mlp))` is `mlp`; and
    without formulas, as `jnp.einsum` puts its own there.
    """
    names = [name for name in re.split(r"[/()]+", str(eqn.source_info.name_stack)) if name and name not in _TRANSFORMS]
    names = [name for name in names if "->" not in name]
    return "/".join([around, *names] if around else names)
