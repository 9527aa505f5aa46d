"""What stands for what in two traces side by side."""

import torch
from torch import Tensor

from residuals_lab.audit import audit
from residuals_lab.audit.matching import explained, matched


def test_what_stands_for_what_beside() -> None:
    """Of several with as many bytes the one that the same operation reads; and what is left over is only here."""

    def left(x: Tensor) -> Tensor:
        return (x * 2).sin().sum()

    def right(x: Tensor) -> Tensor:
        return (x.exp() * x.tanh()).sum() + (x + 1).sin().sum()

    traces = [audit(fn, torch.ones(4, 8, requires_grad=True)).trace for fn in (left, right)]
    found = {m.name: (m.left.count, m.right.count, m.difference, explained(m)) for m in matched(*traces)}
    assert found.pop("mul | add") == (1, 1, 0, "")
    assert {name: m[:3] for name, m in found.items()} == {"exp": (0, 1, 128), "tanh": (0, 1, 128)}
    assert found["exp"][3].startswith("only here: read by mul")
