"""How the house is built: who imports whom, what is where, and that nothing heavy happens at import."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from residuals_lab import frameworks
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops import OPS

ROOT = Path(__file__).parents[1]
SOURCES = {name: ROOT / "packages" / name / "src" / f"residuals_{name}" for name in ("numpy", "jax", "torch", "lab")}
OPS_PACKAGES = ("numpy", "jax", "torch")
# The files of `_lib`, and the packages that have them: all three, or the reason why not.
FAMILIES = {
    "arrays": {"numpy"},  # names for NumPy's types; each framework has one type of array
    "attention": {"numpy", "jax", "torch"},
    "barriers": {"jax"},  # PyTorch compiles no forward and backward into one program
    "bits": {"numpy", "jax", "torch"},
    "blocks": {"torch"},  # an eager program alone has temporaries that no compiler fuses
    "checks": {"jax", "torch"},  # NumPy is the tests' own, who call it rightly
    "cotangents": {"numpy", "jax", "torch"},
    "dropout": {"numpy", "jax", "torch"},
    "dtypes": {"jax", "torch"},  # NumPy computes in float64
    "gates": {"numpy", "jax", "torch"},
    "gelu": {"numpy", "jax", "torch"},
    "labels": {"numpy", "jax", "torch"},
    "norms": {"numpy", "jax", "torch"},
    "products": {"jax", "torch"},  # NumPy multiplies in float64
    "modes": {"torch"},  # JAX has none: its transformations trace an op, which need not know of them
}
FILES = {name: sorted(path.rglob("*.py")) for name, path in SOURCES.items()}

# What a package may import beside the standard library and itself.
ALLOWED = {"numpy": {"numpy"}, "jax": {"jax"}, "torch": {"torch"}, "lab": {"numpy", "rich", "residuals_numpy"}}
# The rooms of the lab, from the top down, each with the rooms below that it may import; all may import `NEAR`.
ARROWS = {
    "__main__": "cli",
    "cli": "options streams",  # and the package of the command that is chosen, by its name
    "pytest_plugin": "testing",
    "testing": "audit check",
    "api": "audit check compare",
    "learn": "options targets ops frameworks trace",
    "lock": "audit options targets frameworks trace",
    "compare": "options targets ops lanes frameworks trace",
    "bench": "options targets ops lanes frameworks trace",
    "check": "audit options targets ops frameworks trace",
    "audit": "options targets lanes frameworks trace",
    "options": "lanes",
    "streams": "",
    "targets": "frameworks trace",
    "ops": "frameworks trace",
    "lanes": "trace",
    "frameworks": "trace",
    "trace": "",
}
NEAR = {"errors", "finding", "show", "__version__"}


def imports(path: Path) -> set[str]:
    """The modules a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= (
                {node.module or ""}
                if node.module != "residuals_lab"
                else {f"residuals_lab.{alias.name}" for alias in node.names}
            )
    return found


def imported_names(path: Path) -> set[str]:
    """What a file imports, each name with its module."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}


def is_learner_code(path: Path) -> bool:
    """Stubs and solutions are files to be given to a learner; the lab does not import them."""
    return "exercises" in path.parts


@pytest.mark.parametrize("package", SOURCES)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    for path in FILES[package]:
        if is_learner_code(path):
            continue
        allowed = ALLOWED[package] | {f"residuals_{package}"}
        if path.parent.parent.name == "frameworks":
            allowed |= {path.parent.name, f"residuals_{path.parent.name}"}
        if package == "lab":
            allowed |= {"lanes": {"matplotlib"}, "bench": {"matplotlib"}, "pytest_plugin": {"pytest"}}.get(
                room_of(path), set()
            )
        roots = {name.partition(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
        assert roots <= allowed, f"{path.relative_to(ROOT)} imports {sorted(roots - allowed)}"


@pytest.mark.parametrize("package", OPS_PACKAGES)
def test_an_op_imports_nothing_of_ours_but_lib(package: str) -> None:
    """Nor does a family of `_lib` import anything but other families."""
    ours = f"residuals_{package}"
    paths = [path for path in FILES[package] if path.parent.name in {"ops", "_lib"}]
    assert any(path.parent.name == "_lib" for path in paths)
    for path in paths:
        found = {name for name in imports(path) if name.partition(".")[0] == ours}
        families = {f"{ours}._lib.{family}" for family in families_of(package)}
        assert found <= families, f"{path.relative_to(ROOT)} imports {sorted(found - families)}"


def families_of(package: str) -> set[str]:
    """The names of the files in the package's `_lib`."""
    return {path.stem for path in (SOURCES[package] / "_lib").iterdir() if path.suffix == ".py"} - {"__init__"}


def test_lib_has_the_same_families_in_every_package() -> None:
    found = {name: families_of(name) for name in OPS_PACKAGES}
    assert found == {name: {family for family, of in FAMILIES.items() if name in of} for name in OPS_PACKAGES}
    for name in OPS_PACKAGES:
        (docstring,) = ast.parse((SOURCES[name] / "_lib" / "__init__.py").read_text()).body
        assert isinstance(docstring, ast.Expr), f"residuals_{name}/_lib/__init__.py is a docstring and nothing else"


def room_of(path: Path) -> str:
    """The folder of the lab that a file is in, or its own name."""
    return path.relative_to(SOURCES["lab"]).with_suffix("").parts[0]


def test_the_labs_arrows() -> None:
    for path in FILES["lab"]:
        if is_learner_code(path):
            continue
        found = {name.split(".")[1] for name in imports(path) if name.startswith("residuals_lab.")} - {room_of(path)}
        allowed = {*ARROWS.get(room_of(path), "").split()} | NEAR
        assert found <= allowed, f"{path.relative_to(ROOT)} imports {sorted(found - allowed)}"


def test_one_word_for_one_thing() -> None:
    """In the lab, a residual is saved and not held, the backward repeats, and what is around a step is a module."""
    for path in FILES["lab"]:
        if room_of(path) != "learn":  # findings are prose, for learners
            other = re.findall(
                r"\b(held|crossing|recomputed|computed? again|computes again|scopes?)\b", path.read_text()
            )
            assert not other, f"{path.relative_to(ROOT)} says {other}"


def public_names(path: Path) -> set[str]:
    """The names that a module defines, or imports for others as `a as a`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names if alias.asname == alias.name}
    return {name for name in found if not name.startswith("_")}


@pytest.mark.parametrize("name", frameworks.installed())
def test_an_adapter_has_the_names_of_the_protocol_and_no_others(name: str) -> None:
    adapter, methods = frameworks.load(name), {n: a for n, a in vars(Framework).items() if inspect.isfunction(a)}
    asked = {n for n in (*Framework.__annotations__, *methods) if not n.startswith("_")}
    assert public_names(SOURCES["lab"] / "frameworks" / name / "__init__.py") == asked
    for method in asked & {*methods}:
        _, *expected = inspect.signature(methods[method]).parameters.values()
        found = inspect.signature(getattr(adapter, method)).parameters.values()
        assert [(p.name, p.kind) for p in found] == [(p.name, p.kind) for p in expected], f"{name}: {method}"


def test_the_arrows_lead_downwards() -> None:
    rooms = [*ARROWS]
    assert all(rooms.index(below) > i for i, room in enumerate(rooms) for below in ARROWS[room].split())


def test_a_command_is_imported_by_nobody() -> None:
    """By its name alone, in `cli`."""
    for path in FILES["lab"]:
        assert not any(name.endswith(".command") for name in imported_names(path)), path.relative_to(ROOT)


@pytest.mark.parametrize("view", ["document", "page", "summary", "table"])
def test_a_view_runs_nobodys_code(view: str) -> None:
    """It reads a result; it loads no framework, and no target."""
    for path in (path for path in FILES["lab"] if path.stem == view):
        allowed = {"residuals_lab.frameworks.TITLES", "residuals_lab.frameworks.compiled"}
        rooms = ("residuals_lab.frameworks", "residuals_lab.targets", "residuals_lab.audit.target")
        found = {name for name in imported_names(path) if name.startswith(rooms)}
        assert all(name.startswith(tuple(allowed)) for name in found), f"{path.relative_to(ROOT)} imports {found}"


def test_functions_are_small() -> None:
    """At most 60 lines beside the docstring, and 30 branches."""
    branching = ast.If | ast.IfExp | ast.For | ast.While | ast.ExceptHandler | ast.match_case
    for path in (path for paths in FILES.values() for path in paths):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                doc = len((ast.get_docstring(node, clean=False) or "").splitlines())
                lines = (node.end_lineno or 0) - node.lineno + 1 - doc
                branches = sum(isinstance(n, branching) for n in ast.walk(node))
                where = f"{path.relative_to(ROOT)}: {node.name}"
                assert lines <= 60, f"{where} has {lines} lines"
                assert branches <= 30, f"{where} has {branches} branches"


def test_every_op_is_in_every_package() -> None:
    for name in OPS_PACKAGES:
        modules = {path.stem for path in (SOURCES[name] / "ops").glob("*.py")} - {"__init__"}
        assert modules == {op.name for op in OPS}, f"residuals_{name}/ops and the lab's table differ"
        package = ast.parse((SOURCES[name] / "__init__.py").read_text())
        exported = next(
            ast.literal_eval(node.value)
            for node in package.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        )
        assert modules <= set(exported), f"residuals_{name} does not export {modules - set(exported)}"
        assert exported == sorted(exported)


def test_packages_are_complete_and_of_one_version() -> None:
    versions = set()
    for name, source in SOURCES.items():
        assert (source / "py.typed").exists()
        assert (source.parents[1] / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
        assert (source.parents[1] / "README.md").read_text().startswith(f"# residuals-{name}\n")
        (line,) = (x for x in (source / "__init__.py").read_text().splitlines() if x.startswith("__version__"))
        versions.add(line.partition('"')[2].rstrip('"'))
        project = tomllib.loads((source.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert {"authors", "classifiers", "description", "keywords", "license"} <= set(project), name
    (version,) = versions
    assert f"residuals-numpy=={version}" in project["dependencies"], "the truth of the lab's own version"


@pytest.mark.parametrize("package", frameworks.installed())
def test_public_docstrings_say_everything(package: str) -> None:
    adapter = frameworks.load(package)
    for op in OPS:
        doc = adapter.public(op.name).__doc__
        for section in ("Args:", "Returns:", "Saves:", "Raises:", "Source:"):
            assert section in doc, f"{package} {op.name}: no {section}"
        saves = doc.partition("Saves:")[2].partition("Raises:")[0]
        for field in adapter.op(op.name).Residuals._fields:
            assert f"{field}:" in saves, f"{package} {op.name}: Saves does not name {field}"


def loaded_by(code: str) -> set[str]:
    """The top-level modules loaded in a fresh interpreter after running `code`."""
    printing = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", printing], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("command", ["", "compare", "check", "learn", "audit", "lock"])
def test_help_imports_no_framework(command: str) -> None:
    code = (
        "import residuals_lab.cli\n"
        f"try: residuals_lab.cli.main({[*command.split(), '--help']})\n"
        "except SystemExit as stop: assert not stop.code\n"
    )
    loaded = loaded_by(code)
    assert not loaded & {"jax", "torch", "rich"}
    assert command or "numpy" not in loaded, "the list of commands needs none of them"


@pytest.mark.parametrize("package", frameworks.installed())
def test_importing_one_package_imports_nothing_else_of_ours(package: str) -> None:
    other = {"jax": "torch", "torch": "jax"}[package]
    loaded = loaded_by(f"import residuals_{package}")
    assert not loaded & {other, f"residuals_{other}", "residuals_lab", "residuals_numpy"}


@pytest.mark.parametrize("package", frameworks.installed())
def test_importing_changes_no_global_setting(package: str) -> None:
    settings = {
        "jax": "import jax\ndef settings(): return dict(jax.config.values)",
        "torch": "import torch\ndef settings(): return (torch.get_default_dtype(), torch.is_grad_enabled(), "
        "torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())",
    }[package]
    code = f"{settings}\nbefore = settings()\nimport residuals_{package}, residuals_lab.frameworks.{package}\n"
    loaded_by(f"{code}assert settings() == before")


def test_the_face_of_the_lab() -> None:
    """It imports a room when it is asked for something in it."""
    assert not loaded_by("from residuals_lab import api\nassert set(api.__all__) <= set(dir(api))") & {"numpy", "rich"}
    loaded_by(
        "from residuals_lab import api\nimport residuals_lab.audit\nassert api.audit is residuals_lab.audit.audit"
    )
    with pytest.raises(subprocess.CalledProcessError):
        loaded_by("from residuals_lab import api\napi.nothing")
