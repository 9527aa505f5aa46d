"""The programs of `jax_programs`, each in a `jax.jit`, as most are run; the same seed draws the same ones."""

from typing import Any

import jax
from jax_programs import DRAWN as DRAWN
from jax_programs import ENTRIES as ENTRIES
from jax_programs import SEED as SEED


def measure(name: str) -> dict[str, Any]:
    from jax_count import measured

    fn, args, roles = ENTRIES[name]()
    return measured(jax.jit(fn), args, roles)
