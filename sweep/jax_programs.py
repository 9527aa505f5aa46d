"""Programs in JAX: Flax's linen and nnx, Equinox, and plain JAX, as people write them; audited as they are."""

from collections.abc import Callable
from inspect import isfunction
from typing import Any

import jax_equinox
import jax_linen
import jax_nnx
import jax_plain

# A function of each of these modules that says it gives a `Program` is an entry, by the name of module and function.
MODULES = (jax_linen, jax_nnx, jax_equinox, jax_plain)
ENTRIES: dict[str, Callable[[], Any]] = {
    f"{module.__name__.removeprefix('jax_')} {name}": make
    for module in MODULES
    for name, make in vars(module).items()
    if isfunction(make)
    and make.__module__ == module.__name__
    and make.__annotations__.get("return") == jax_linen.Program
}
SEED, DRAWN = 20261129, 50


def measure(name: str) -> dict[str, Any]:
    from jax_count import measured

    return measured(*ENTRIES[name]())
