"""Everything the project does to itself, one session each; `nox -l` is the menu, `nox` runs what is starred there.

Words after `--` go to the command that a session runs: `nox -s compare -- x_sin_x --dtype bf16`.
"""

import glob
import os
import shutil
import subprocess
import sys
import tomllib

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"  # its pip finds PyTorch's CPU build, which uv would pass over
nox.options.reuse_venv = "yes"

TESTING = ["pytest", "pytest-xdist", "hypothesis", "matplotlib"]


def install(session: nox.Session, *frameworks: str, extra: list[str] | None = None, pinned: bool = True) -> None:
    """The lab with these frameworks, by path since none of the packages is on an index; PyTorch as `constraints.txt`
    pins it, or whichever release pip chooses.
    """
    paths = [f"./packages/{name}" for name in ("numpy", "lab", *frameworks)]
    session.install("hatchling")  # once for all four, not once for each
    constraints = ["-c", "constraints.txt"] if pinned else []
    # Compiling all of PyTorch to bytecode takes longer than installing it; a session imports a small part.
    session.install("--no-compile", "--no-build-isolation", *constraints, *paths, *(extra or []))


def pytest(session: nox.Session, *arguments: str) -> None:
    command = ("python", "-m", "pytest", "-n", "auto", "--maxprocesses", "4", *arguments, *session.posargs)
    session.run(*command, env={"OMP_NUM_THREADS": "1"})  # there is a process for each core


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


@nox.session(default=False)
def compare(session: nox.Session) -> None:
    """Print the comparison of every op in NumPy, JAX and PyTorch; `parity` ends with it too."""
    install(session, "jax", "torch")
    session.run("residuals", "compare", *session.posargs)


@nox.session
@nox.parametrize("framework", [nox.param("jax", id="jax"), nox.param("torch", id="torch")])
def tests(session: nox.Session, framework: str) -> None:
    """Run the shared tests with only one framework installed."""
    install(session, framework, extra=TESTING)
    pytest(session)


@nox.session
def parity(session: nox.Session) -> None:
    """Run what needs both frameworks: JAX against PyTorch, the documentation, and the comparison of every op."""
    install(session, "jax", "torch", extra=TESTING)
    pytest(session, *(f"shared_tests/{name}" for name in ("parity", "lab/test_compare.py", "test_house.py")))
    pytest(session, "shared_tests/docs", "-k", "jax-torch")  # what needs one of them has run without the other
    session.run("residuals", "compare")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install("ruff")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, against the frameworks' own."""
    install(session, "jax", "torch", extra=["mypy", "matplotlib", "pytest"])
    session.run("mypy", *(session.posargs or [f"packages/{name}/src" for name in ("numpy", "jax", "torch", "lab")]))


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
def gpu(session: nox.Session) -> None:
    """Run the shared tests on this machine's GPU, with the frameworks that are already installed in this Python."""
    folders = [os.path.abspath(f"packages/{name}/src") for name in ("numpy", "jax", "torch", "lab")]
    session.run(
        sys.executable, "-m", "pytest", "shared_tests", "--device", "gpu", *session.posargs,
        env={"PYTHONPATH": os.pathsep.join(folders)}, external=True,
    )  # fmt: skip
