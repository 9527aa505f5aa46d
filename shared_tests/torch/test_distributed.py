"""An op on DTensors, under DDP and under FSDP2, in two processes on the CPU that start once and run every case."""

import itertools
import os
import subprocess
import sys
import traceback
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from cases import Case, cases
from residuals_lab import frameworks
from residuals_lab.errors import UsageError
from residuals_lab.ops import BY_NAME
from residuals_lab.ops.call import Call
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error

PROCESSES = 2


def fits_the_table(case: Case) -> bool:
    """Whether the arrays have the axes that the table names, so that one more before `...` is a batch axis.

    And whether PyTorch can: it has no matmul of a DTensor of three axes without elements.
    """
    op, arrays = case.source.op, case.source.arrays
    try:
        found = all(op.axes(name, a.shape) is not None for name, a in arrays.items())
    except UsageError:
        return False
    return found and not (op.name == "linear_cross_entropy" and arrays["x"].size == 0)


def lengthened(case: Case) -> tuple[Case, set[str]]:
    """The case with an axis that two processes share out, and the names of what has it in front, constants included.

    It is a new one before `...`; without that, it is the first array's own first axis, made 8 long.
    """
    call = case.source
    first, *_ = call.op.arrays[next(iter(call.arrays))].split()
    given = call.arrays | call.constants
    sharded = {name for name in given if call.op.axes_of(name).split()[:1] == [first]}

    def longer(name: str, a: np.ndarray) -> np.ndarray:
        if name not in sharded:
            return a
        return np.stack([np.roll(a, i) for i in range(4)]) if first == "..." else np.resize(a, (8, *a.shape[1:]))

    arrays, constants = ({name: longer(name, a) for name, a in of.items()} for of in (call.arrays, call.constants))
    return replace(case, source=replace(call, arrays=arrays, constants=constants)), sharded


CASES = [case for case in cases(["torch"], "cpu") if case.dtype == "float64" and fits_the_table(case)]

# How a loss of rows (4, 8) is placed: the axis along which each of its arrays is shared out; the others are replicated.
PLACEMENTS: dict[str, list[dict[str, int]]] = {
    "cross_entropy": [{"logits": 2}, {"logits": 2, "labels": 1}, {"logits": 1, "labels": 1}, {"logits": 0}, {}],
    "linear_cross_entropy": [
        {"x": 1, "labels": 1},  # tokens
        {"x": 0, "labels": 1},
        {"weight": 0},  # classes
        {"x": 1, "weight": 0, "labels": 1},
        {"weight": 1},  # features
        {"x": 2, "weight": 1},
        {},
    ],
}
PLACED = [
    (op, reduction, axes) for op, each in PLACEMENTS.items() for axes in each for reduction in ("mean", "sum", "none")
]


def placed_case(op: str, reduction: str) -> Case:
    """A loss of rows (4, 8) and 8 classes, some of which are ignored; of a linear layer in chunks of 3."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((4, 8)) < 0.3, -100, rng.integers(8, size=(4, 8))).astype(np.int32)
    axes = {"...": (4, 8), "c": (8,), "d": (6,), "v": (8,)}
    chunk = {"chunk": 3} if op == "linear_cross_entropy" else {}
    arguments = {**BY_NAME[op].draw(rng, axes), **chunk, "labels": labels, "reduction": reduction}
    call, adapter = Call.of(BY_NAME[op], arguments), frameworks.load("torch")
    return Case(call, reduction, "float64", adapter, "cpu", first=False, novel=False, telling=False)


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the processes found for each case: value and gradients, or the traceback of an exception."""
    folder = tmp_path_factory.mktemp("distributed")
    command = [sys.executable, __file__, str(folder)]
    # An idle process of OpenMP spins, and then two processes with a thread for each core slow each other down.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    logs = [folder / f"log{rank}" for rank in range(PROCESSES)]
    running = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            running.append(subprocess.Popen([*command, str(rank)], env=environment, stdout=file, stderr=file))
    try:
        codes = [process.wait(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    assert codes == [0] * PROCESSES, "\n".join(log.read_text() for log in logs)
    return torch.load(folder / "found")


@pytest.mark.parametrize("sharded", CASES, ids=str)
def test_dtensor(sharded: Case, found: dict[str, Any]) -> None:
    case, _ = lengthened(sharded)
    result = found[str(sharded)]
    assert not isinstance(result, str), result
    y, gradients = result
    assert error(y, case.call.forward()) <= FLOAT64_LIMIT
    for (name, truth), d in zip(case.call.vjp(case.g).items(), gradients, strict=True):
        assert error(d, truth) <= FLOAT64_LIMIT, name


@pytest.mark.parametrize(("op", "reduction", "axes"), PLACED, ids=str)
def test_losses_on_any_axis(op: str, reduction: str, axes: dict[str, int], found: dict[str, Any]) -> None:
    """Also along the classes or the features, as where the head is shared out."""
    case, result = placed_case(op, reduction), found[f"{op} {reduction} {axes}"]
    assert not isinstance(result, str), result
    y, gradients = result
    assert error(y, case.call.forward()) <= FLOAT64_LIMIT
    for (name, truth), d in zip(case.call.vjp(case.g).items(), gradients, strict=True):
        assert error(d, truth) <= FLOAT64_LIMIT, name


@pytest.mark.parametrize("wrapper", ["DDP", "FSDP2"])
@pytest.mark.parametrize("replicated", [case for case in CASES if case.first], ids=str)
def test_data_parallel(replicated: Case, wrapper: str, found: dict[str, Any]) -> None:
    """The op of a module's parameters, another loss in each process: the gradients are the mean of theirs."""
    gradients = found[f"{wrapper} {replicated}"]
    assert not isinstance(gradients, str), gradients
    truths = [replicated.call.vjp(weights(replicated, rank)) for rank in range(PROCESSES)]
    for name, d in zip(replicated.call.arrays, gradients, strict=True):
        assert error(d, np.mean([truth[name] for truth in truths], axis=0)) <= FLOAT64_LIMIT, name


def weights(case: Case, rank: int) -> np.ndarray:
    """Those of the op's outputs in the loss of one process."""
    return case.noise(case.g.shape, 10 + rank)


# What follows runs in the processes.


class Model(torch.nn.Module):
    """The loss Σ c·op(parameters)."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.parameters_of_op = torch.nn.ParameterList([a.detach() for a in case.args])

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        return (c * self.case.call.ours(self.case.adapter)(*self.parameters_of_op)).sum()


def run_data_parallel(case: Case, wrapper: str, rank: int, mesh: Any) -> Any:
    model = Model(case)
    wrapped = DistributedDataParallel(model) if wrapper == "DDP" else fully_shard(model, mesh=mesh)
    wrapped(case.array(weights(case, rank)).detach()).backward()
    gradients = [a.grad for a in model.parameters()]
    return [d.full_tensor() if isinstance(d, DTensor) else d for d in gradients]


def run(case: Case, sharded: dict[str, int], mesh: Any) -> Any:
    """The value and the gradients, where these arrays are sharded along these axes."""
    args = []
    for name, a in zip(case.call.arrays, case.args, strict=True):
        placement = Shard(sharded[name]) if name in sharded else Replicate()
        args.append(distribute_tensor(a.detach(), mesh, [placement]).requires_grad_(a.requires_grad))
    for name, a in zip(case.call.constants, case.call.constants_in(case.adapter), strict=True):
        placement = Shard(sharded[name]) if name in sharded else Replicate()
        is_key = a.dtype == torch.uint32  # which each process has by itself
        args.append(a if is_key else distribute_tensor(a, mesh, [placement]))
    c = distribute_tensor(case.array(case.g).detach(), mesh, [Replicate()])
    y = case.call.ours(case.adapter)(*args)
    gradients = torch.autograd.grad((c * y).sum(), [a for a in args if a.requires_grad])
    return y.detach().full_tensor(), [d.full_tensor() for d in gradients]


def main(folder: Path, rank: int) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, timedelta(seconds=60), PROCESSES, rank)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    found: dict[str, Any] = {}
    sharded_cases = {
        str(case): (longer, dict.fromkeys(names, 0)) for case in CASES for longer, names in [lengthened(case)]
    }
    sharded_cases |= {f"{op} {reduction} {axes}": (placed_case(op, reduction), axes) for op, reduction, axes in PLACED}
    for name, (case, sharded) in sharded_cases.items():
        try:
            found[name] = run(case, sharded, mesh)
        except Exception:
            found[name] = traceback.format_exc()
    for case, wrapper in itertools.product([case for case in CASES if case.first], ("DDP", "FSDP2")):
        try:
            found[f"{wrapper} {case}"] = run_data_parallel(case, wrapper, rank, mesh)
        except Exception:
            found[f"{wrapper} {case}"] = traceback.format_exc()
    if rank == 0:
        torch.save(found, folder / "found")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
