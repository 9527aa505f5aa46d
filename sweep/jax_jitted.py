"""The programs of `jax_programs`, each in a `jax.jit`, as most are run; the same seed draws the same ones."""

from collections.abc import Callable
from typing import Any

from jax_programs import DRAWN as DRAWN
from jax_programs import ENTRIES as ENTRIES
from jax_programs import SEED as SEED
from jax_programs import made


def measure(name: str) -> dict[str, Any]:
    from jax_count import measured

    fn, args, roles = made(name)
    return measured(jitted(fn), args, roles)


def jitted(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` in a jit of the arrays among its arguments, as `equinox.filter_jit` does it: a module has functions too."""
    import jax

    def call(*args: Any) -> Any:
        leaves, treedef = jax.tree.flatten(args)
        places = [i for i, a in enumerate(leaves) if hasattr(a, "dtype")]

        @jax.jit
        def of_arrays(arrays: list[Any]) -> Any:
            given = dict(zip(places, arrays, strict=True))
            return fn(*treedef.unflatten([given.get(i, a) for i, a in enumerate(leaves)]))

        return of_arrays([leaves[i] for i in places])

    return call
