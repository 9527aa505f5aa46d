"""What the audit says is kept after compilation."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from residuals_lab import frameworks
from residuals_lab.audit import audit, frozen
from residuals_lab.errors import UsageError

INSTALLED = frameworks.installed()


@pytest.mark.needs("torch")
class TestTorch:
    def x(self) -> Any:
        import torch

        return torch.ones(64, 64, requires_grad=True)

    def test_what_is_computed_again_is_not_kept(self) -> None:
        """As Inductor keeps it: of a softmax the weights, of an elementwise chain and an activation its input."""
        import torch

        weights = audit(lambda x: (torch.softmax(x @ x, -1) @ x).sum(), self.x(), compiled=True).compiled
        (kept,) = (a for a in weights.arrays if a.is_new)
        assert (kept.nbytes, weights.new_bytes) == (16384, 16384)
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64), torch.nn.GELU())
        report = audit(model, self.x(), compiled=True)
        assert (report.new_bytes, report.compiled.new_bytes) == (2 * 16384 + 2 * 256, 16384 + 2 * 256)

    def test_a_pool_is_compiled(self) -> None:
        """In a process of its own, where nothing else has imported what Inductor's decompositions look for."""
        code = (
            "import torch; from residuals_lab.audit import audit; x = torch.ones(1, 64, 64, requires_grad=True); "
            "print(audit(lambda x: torch.nn.MaxPool2d(2)(x), x, compiled=True).compiled.new_bytes)"
        )
        run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout == f"{32 * 32}\n", "an index of a byte for each of its results"

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo reads it where it goes on
    def test_what_crosses_between_graphs(self) -> None:
        """A result of one graph, and of what runs between two, is not alive for that."""
        import torch

        def broken(x: Any) -> Any:
            y = torch.exp(x)
            torch._dynamo.graph_break()
            return torch.sin(y).sum()

        between = torch._dynamo.disable(lambda y: torch.exp(torch.sin(y)))
        assert audit(broken, self.x(), compiled=True).compiled.new_bytes == 16384
        assert audit(lambda x: (between(x * 2) @ x).sum(), self.x(), compiled=True).compiled.new_bytes == 2 * 16384

    def test_a_module_from_outside_is_as_it_was(self) -> None:
        import torch

        norm = torch.nn.BatchNorm1d(64)
        report = audit(lambda x: torch.sin(norm(x)).sum(), self.x(), compiled=True)
        assert report.compiled.new_bytes == 2 * 256
        assert norm.num_batches_tracked == 0
        assert norm.running_mean.abs().sum() == 0


@pytest.mark.needs("jax")
def test_what_a_callable_tree_holds_is_differentiated_and_what_is_frozen_is_not() -> None:
    import jax
    import jax.numpy as jnp

    def layer(w: Any, x: Any) -> Any:
        return jnp.tanh(jnp.sin(x) @ w).sum()

    def scratch(fn: Any, *args: Any) -> int:
        return audit(fn, *args, compiled=True).compiled.new_bytes

    a = jnp.ones((256, 256))
    tree = jax.tree_util.Partial(layer, a)
    assert scratch(tree, a) == scratch(layer, a, a)
    assert scratch(tree, frozen(a)) == scratch(layer, a, frozen(a)) != scratch(layer, a, a)


@pytest.mark.parametrize("framework", INSTALLED)
def test_what_cannot_be_compiled_is_said_in_a_line(framework: str) -> None:
    before, calls = {"jax": 2, "torch": 1}[framework], []  # of these calls the audit itself makes so many

    def fn(x: Any) -> Any:
        calls.append(1)
        if len(calls) > before:
            raise ValueError("only so often")
        return (x * x).sum()

    x = frameworks.load(framework).array(np.ones(8), "float32")
    x = x.requires_grad_() if framework == "torch" else x
    with pytest.raises(UsageError, match=r"^cannot be compiled: .*test_compiled.py:\d+: ValueError: only so often$"):
        audit(fn, x, compiled=True)
