"""Options, and what tests ask for: `case` of every framework, `jax_case`, `torch_case`, `pair` of the same call, and
`adapter` of every framework that has the `device`.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from cases import Case, cases
from markdown import is_measured
from residuals_lab import frameworks

# Read when JAX starts: eight devices to shard over, and a GPU's memory left to share with PyTorch.
FLAGS = ["--xla_force_host_platform_device_count=8"]
# Thousands of programs that each run once: unoptimized they compile in a quarter of the time.
FLAGS += ["--xla_backend_optimization_level=0"]
if "jax" in frameworks.installed() and version("jaxlib").startswith("0.10."):  # later ones do not know it
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

FIXTURES = {"case": frameworks.NAMES, "jax_case": ("jax",), "torch_case": ("torch",), "pair": frameworks.NAMES}
NEEDS = {"jax": {"jax"}, "torch": {"torch"}, "parity": {"jax", "torch"}}  # what the files of a folder need


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cpu", "gpu"), default="cpu", help="where the ops run (default: cpu)")
    parser.addoption("--quick", action="store_true", help="only the first sample of each op")
    parser.addoption("--whole", action="store_true", help="also what takes minutes, such as all operations of PyTorch")


def pytest_configure(config: pytest.Config) -> None:
    """What one process compiles, the others read from pytest's cache directory, in this run and in the next."""
    if config.pluginmanager.hasplugin("cacheprovider"):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(config.cache.mkdir("jax"))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_ignore_collect(collection_path: Any) -> bool | None:
    """A folder for a framework that is not installed is not collected."""
    folders = collection_path.relative_to(Path(__file__).parent).parts[:1]
    needed = NEEDS.get(folders[0], set()) if folders else set()
    return True if needed - set(frameworks.installed()) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nor is a test in another folder that needs one: `@pytest.mark.needs("torch")`."""
    here = set(frameworks.installed())
    items[:] = [item for item in items if all(here.issuperset(mark.args) for mark in item.iter_markers("needs"))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    device = metafunc.config.getoption("device")
    present = [name for name in frameworks.installed() if _has(name, device)]
    if {"adapter", "device"} <= {*metafunc.fixturenames}:
        metafunc.parametrize("adapter", [frameworks.load(name) for name in present], ids=present)
    for fixture, names in FIXTURES.items():
        if fixture in metafunc.fixturenames:
            here = [name for name in names if name in present]
            wanted = getattr(metafunc.function, "only", lambda case: True)
            quick = metafunc.config.getoption("quick")
            found = [case for case in cases(here, device) if wanted(case) and (case.first or not quick)]
            if fixture == "pair":
                found = [(case, twin) for case in found for twin in found if case.is_before(twin)]
            metafunc.parametrize(fixture, found, ids=_id, indirect=True)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what did not run here, and why."""
    absent = [frameworks.TITLES[name] for name in frameworks.NAMES if name not in frameworks.installed()]
    if absent:
        terminalreporter.write_line(f"not installed, cases not collected: {', '.join(absent)}")
    if config.getoption("quick"):
        terminalreporter.write_line("only the first sample of each op; run all of them without --quick")
    for name in frameworks.installed():
        if not is_measured(name):
            title = frameworks.load(name).TITLE
            terminalreporter.write_line(f"{title}: docs/ops names another release; its own numbers were not compared")
    device = config.getoption("device")
    if device == "cpu":
        terminalreporter.write_line("cases on the CPU only; on a machine with a GPU run also with --device gpu")
    for name in frameworks.installed():
        if not _has(name, device):
            terminalreporter.write_line(f"{frameworks.TITLES[name]} finds no GPU: its GPU cases were not collected")


def _has(name: str, device: str) -> bool:
    return device == "cpu" or device in frameworks.load(name).devices()


def _id(found: Case | tuple[Case, Case]) -> str:
    return str(found) if isinstance(found, Case) else f"{found[0]}-{found[1].adapter.NAME}:{found[1].device}"


def _within_precision(request: pytest.FixtureRequest) -> Iterator[Any]:
    found = (request.param,) if isinstance(request.param, Case) else request.param
    with ExitStack() as stack:
        for case in found:
            stack.enter_context(case.adapter.precision(case.dtype))
        yield request.param


case = pytest.fixture(_within_precision, name="case")
jax_case = pytest.fixture(_within_precision, name="jax_case")
torch_case = pytest.fixture(_within_precision, name="torch_case")
pair = pytest.fixture(_within_precision, name="pair")


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Dynamo counts how often it compiles one piece of code, and every case is the same piece."""
    import torch

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
