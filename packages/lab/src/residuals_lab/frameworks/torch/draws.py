"""Which draw of random numbers an operation makes: each is another, unless a checkpoint goes back to do it again."""

from typing import Any

import torch
from torch import Tensor

_RATES = ("dropout", "dropout_p", "p")  # arguments that say how much to drop: at 0 an operation draws nothing


class Draws:
    """Counts draws where the generators themselves do not, on fake tensors; inside it, to get and set their state is to
    get and set the count.
    """

    def __init__(self) -> None:
        self._count = 0
        self._states: dict[int, tuple[Tensor, int]] = {}  # `id` of a state → the state, and the count at that time

    def attribute(self, func: Any, args: Any, kwargs: Any) -> str:
        """An attribute that tells an operation from the same one with other random numbers; "" if it draws none."""
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return ""
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        if any(named.get(rate, a.default_value) == 0 for a in func._schema.arguments if (rate := a.name) in _RATES):
            return ""
        self._count += 1
        return f" draw {self._count}"

    def __enter__(self) -> None:
        self._get, self._set = torch.get_rng_state, torch.set_rng_state
        torch.get_rng_state, torch.set_rng_state = self._state, self._go_to  # type: ignore[assignment]

    def __exit__(self, *raised: Any) -> None:
        torch.get_rng_state, torch.set_rng_state = self._get, self._set

    def _state(self) -> Tensor:
        state = self._get()
        self._states[id(state)] = state, self._count
        return state

    def _go_to(self, state: Tensor) -> None:
        self._count = self._states.get(id(state), (state, self._count))[1]
        self._set(state)
