"""Everything the project does to itself, one session each; `nox -l` is the menu, `nox` runs what is starred there.

Words after `--` go to the command that a session runs: `nox -s compare -- x_sin_x --dtype bf16`.
"""

import glob
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"  # for `requires`
nox.options.default_venv_backend = "virtualenv"  # its pip finds PyTorch's CPU build, which uv would pass over
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests(jax)", "tests(torch)", "both", "parity", "types"]

TESTING = ["pytest", "pytest-xdist", "hypothesis", "matplotlib"]
PACKAGES = ("numpy", "jax", "torch", "lab")


def begin(session: nox.Session) -> None:
    """Say how far a plain `nox` is, which does not say it by itself."""
    every = [*(nox.options.sessions or ())]
    if len(sys.argv) == 1:  # no sessions are chosen
        session.log(f"session {every.index(session.name) + 1} of {len(every)}")


def install(session: nox.Session, *frameworks: str, extra: list[str] | None = None, pinned: bool = True) -> None:
    """The lab with these frameworks, by path since none of the packages is on an index; PyTorch as `constraints.txt`
    pins it, or whichever release pip chooses.

    Ours are installed in place, so this is done once, until what is to be installed changes; `--upgrade` is never done.
    """
    paths = [f"-e./packages/{name}" for name in ("numpy", "lab", *frameworks)]
    constraints = ["-c", "constraints.txt"] if pinned else []
    wanted = [*constraints, *paths, *(extra or [])]
    projects = ("constraints.txt", *sorted(glob.glob("packages/*/pyproject.toml")))
    described = "\n".join([*wanted, *(Path(path).read_text() for path in projects)])
    done = Path(session.virtualenv.location, "installed.txt")
    if done.is_file() and done.read_text() == described and "--upgrade" not in wanted:
        return
    session.install("hatchling", "editables")  # once for all four, not once for each
    # Compiling all of PyTorch to bytecode takes longer than installing it; a session imports a small part.
    session.install("--no-compile", "--no-build-isolation", *wanted)
    done.write_text(described)


def pytest(session: nox.Session, *arguments: str, python: str = "python") -> None:
    command = ("-m", "pytest", "-n", "auto", "--maxprocesses", "4", "-rs", *arguments, *session.posargs)
    session.run(python, *command, env={"OMP_NUM_THREADS": "1"}, external=True)  # there is a process for each core


def in_both(program: str) -> str:
    """A program of the environment that the session `both` has made."""
    return os.path.join(os.environ["RESIDUALS_BOTH"], program)


def newest_python() -> str | None:
    """The newest Python at hand; None if that is the one that runs this."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for minor in range(14, sys.version_info.minor, -1):
        for path in (shutil.which(f"python3.{minor}"), *glob.glob(f"{root}/versions/3.{minor}.*/bin/python")):
            if path and not subprocess.run([path, "-c", ""], capture_output=True).returncode:
                return path
    return None


def oldest_releases() -> list[str]:
    """Each lower bound in the packages' `pyproject.toml`, as the one release to install: `jax==0.10` is 0.10.0."""
    bounds: set[str] = set()
    for path in glob.glob("packages/*/pyproject.toml"):
        with open(path, "rb") as file:
            project = tomllib.load(file)["project"]
        bounds.update(*project.get("optional-dependencies", {}).values(), project["dependencies"])
    return sorted(bound.replace(">=", "==") for bound in bounds if ">=" in bound)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    begin(session)
    session.install("ruff")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", *session.posargs)


@nox.session
@nox.parametrize("framework", [nox.param("jax", id="jax"), nox.param("torch", id="torch")])
def tests(session: nox.Session, framework: str) -> None:
    """Run the shared tests with only one framework installed."""
    begin(session)
    install(session, framework, extra=TESTING)
    pytest(session)


@nox.session
def both(session: nox.Session) -> None:
    """Make the environment with both frameworks, in which `compare`, `parity` and `types` run."""
    begin(session)
    install(session, "jax", "torch", extra=[*TESTING, "mypy"])
    os.environ["RESIDUALS_BOTH"] = session.bin


@nox.session(venv_backend="none", requires=["both"])
def parity(session: nox.Session) -> None:
    """Run what needs both frameworks: JAX against PyTorch, the documentation, and the comparison of every op."""
    begin(session)
    folders = [f"shared_tests/{name}" for name in ("parity", "lab/test_compare.py", "test_house.py")]
    pytest(session, *folders, python=in_both("python"))
    # What a page asks of one framework has run without the other.
    pytest(session, "shared_tests/docs", "-k", "jax-torch", python=in_both("python"))
    session.run(in_both("residuals"), "compare", external=True)


@nox.session(venv_backend="none", requires=["both"])
def types(session: nox.Session) -> None:
    """Check types, strictly, against the frameworks' own."""
    begin(session)
    paths = session.posargs or [f"packages/{name}/src" for name in PACKAGES]
    session.run(in_both("python"), "-m", "mypy", *paths, external=True)


@nox.session(venv_backend="none", requires=["both"], default=False)
def compare(session: nox.Session) -> None:
    """Print the comparison of every op in NumPy, JAX and PyTorch; `parity` ends with it too."""
    session.run(in_both("residuals"), "compare", *session.posargs, external=True)


@nox.session(default=False)
def oldest(session: nox.Session) -> None:
    """Run the tests, the first sample of each op, on the oldest releases that the packages admit, with this Python."""
    install(session, "jax", "torch", extra=[*TESTING, *oldest_releases()], pinned=False)
    pytest(session, "--quick")


@nox.session(python=newest_python(), default=False)
def newest(session: nox.Session) -> None:
    """Run the tests, the first sample of each op, on the newest releases, with the newest Python at hand."""
    install(session, "jax", "torch", extra=["--upgrade", "jax", "torch", "numpy", *TESTING], pinned=False)
    pytest(session, "--quick")


@nox.session(default=False)
def models(session: nox.Session) -> None:
    """Audit models of transformers, Flax and Equinox: exact to the byte, and one of 8 billion parameters."""
    install(session, "jax", "torch", extra=["pytest", "transformers", "flax", "equinox"])
    session.run("python", "-m", "pytest", "model_tests", "-W", "ignore", *session.posargs)


@nox.session(default=False)
def sweep(session: nox.Session) -> None:
    """Audit a hundred models and programs that nobody here chose, and count how many of the totals are right."""
    libraries = ["diffusers", "equinox", "flax", "optax", "peft", "timm", "torchvision", "transformers"]
    install(session, "jax", "torch", extra=libraries)
    session.run("python", "sweep/run.py", *(session.posargs or ["torch_programs", "torch_models", "jax_programs"]))


@nox.session(default=False)
def conformance(session: nox.Session) -> None:
    """Run our ops on PyTorch's own samples of its ops and on ONNX's node tests; print how many of them ours take."""
    install(session, "jax", "torch", extra=["pytest", "expecttest", "onnx"])
    session.run("python", "-m", "pytest", "conformance_tests", "-W", "ignore", "-s", *session.posargs)


@nox.session(venv_backend="none", requires=["both"], default=False)
def mutants(session: nox.Session) -> None:
    """Judge the check by faults that a machine makes in our ops, 150 a framework; none is judged twice."""
    session.run(in_both("python"), "-m", "mutants", *session.posargs, external=True)


@nox.session(default=False)
def alarms(session: nox.Session) -> None:
    """Check that `residuals check` leaves right functions alone: ours, the frameworks', Optax's, documented rules."""
    install(session, "jax", "torch", extra=["pytest", "optax"])
    session.run("python", "-m", "pytest", "alarm_tests", "-W", "ignore", *session.posargs)


@nox.session(default=False)
def pages(session: nox.Session) -> None:
    """Open the audit's page in a real browser, light, dark and narrow; needs a Chromium on the path."""
    install(session, "torch", extra=["pytest", "matplotlib"])
    session.run("python", "-m", "pytest", "page_tests", "-s", *session.posargs)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Time the ops and run the quick shared tests on this machine's GPU, with the frameworks that this Python has."""
    session.run(sys.executable, "gpu.py", *session.posargs, external=True)
