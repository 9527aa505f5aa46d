"""The normal distribution function Φ of a Gaussian error gate, exact or by a tanh."""

import math

import torch
from torch import Tensor

FORMS = ("none", "tanh")
C = math.sqrt(2 / math.pi)
CUBIC = 0.044715


def cdf(x: Tensor, approximate: str) -> Tensor:
    """Φ(x)."""
    if approximate == "tanh":
        return 0.5 * (1 + torch.tanh(C * torch.addcmul(x, x * x, x, value=CUBIC)))
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))  # 1 + erf cancels where x is far to the left


def slope(x: Tensor, phi: Tensor, approximate: str) -> Tensor:
    """Φ′(x), given Φ(x): the normal density, or in the tanh form 2·Φ·(1 − Φ)·u′ with u the argument of the tanh."""
    if approximate == "tanh":
        return torch.addcmul(phi, phi, phi, value=-1) * _polynomial(x, 2 * C, 6 * C * CUBIC)
    return torch.exp(_polynomial(x, math.log(C / 2), -0.5))  # the density's factor as a summand: one pass less


def _polynomial(x: Tensor, a: float, b: float) -> Tensor:
    """a + b·x², in one pass."""
    return torch.addcmul(x.new_full((), a), x, x, value=b)


def form(name: str, approximate: str) -> str:
    """`approximate` itself; ValueError unless it names one of the two forms."""
    if approximate not in FORMS:
        raise ValueError(f'{name}: expected "none" or "tanh", got {approximate!r}')
    return approximate
