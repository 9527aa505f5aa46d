"""`residuals audit`: the same in both frameworks, as a document too; one line for what cannot be audited."""

import json
from pathlib import Path

import pytest

from audited import source
from command import assert_usage, residuals
from residuals_lab import frameworks

INSTALLED = frameworks.installed()
BOTH = pytest.mark.parametrize("framework", INSTALLED)


@BOTH
def test_the_same_command_in_both_frameworks(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = source(framework, tmp_path)
    code, out, _ = residuals(capsys, "audit", f"{path}:attend", *(["--arg", "f32[64,8]"] * 3), "--json")
    document = json.loads(out)
    assert code == 0
    assert document["schema_version"] == 2
    assert {r["name"] for r in document["residuals"]} >= {"q", "v"}
    assert document["new_bytes"] == sum(r["storage_bytes"] for r in document["residuals"] if r["is_new"]) > 0
    for by in ("source", "module", "kind"):
        code, out, _ = residuals(capsys, "audit", f"{path}:attend", *(["--arg", "f32[64,8]"] * 3), "--by", by)
        assert code == 0
        assert f"arrays   {by}" in out
    page = tmp_path / "report.html"
    code, out, _ = residuals(capsys, "audit", f"{path}:gate", "--arg", "f32[64,8]", "--html", page, "--compiled")
    assert (code, "Advice" in out, "After compilation" in out) == (0, True, True)
    assert "<!doctype html>" in page.read_text()


@BOTH
def test_the_document_has_what_is_wasted(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"{source(framework, tmp_path, 'n.cos(x), n.exp(x)', 'g * r[0]')}:fn"
    document = json.loads(residuals(capsys, "audit", target, "--arg", "f32[4,8]", "--json")[1])
    (finding,) = document["findings"]
    assert (finding["what"], finding["names"], finding["freed_bytes"]) == ("unused", ["exp"], 128)
    found = {r["name"]: (r["kind"], r["shape"], r["dtype"], r["bytes"], r["is_unused"]) for r in document["residuals"]}
    assert found == {"cos": ("new", [4, 8], "float32", 128, False), "exp": ("new", [4, 8], "float32", 128, True)}
    made = {r["made_by"]: (r["line"].rpartition(":")[0], r["read_by"]) for r in document["residuals"]}
    assert {op: (Path(line).name, readers) for op, (line, readers) in made.items()} == {
        "cos": (f"mine_{framework}.py", ["mul"]), "exp": (f"mine_{framework}.py", []),
    }  # fmt: skip


BAD = {
    "depends --arg f32[4]": "run it with --concrete",
    "integers --arg f32[4]": "expected a result",
    "broken --arg f32[4,8]": "broken: ",
    "stops --arg f32[4]": ": Stop\n",
    "nothing": "has no function 'nothing'",
    "gate --arg f33[4]": "expected a dtype of",
    "gate --arg f32[4,-1]": "expected a dtype and whole numbers, as in f32[1024",
    "gate --arg f32[4": "expected a dtype and whole numbers, as in f32[1024",
    "gate --arg f32[n]": "expected a dtype and whole numbers, as in f32[1024",
    "gate --arg {path}:SHARED": "--arg: ",
    "gate --arg sideways": "expected f32[1024,512], a Python literal",
    "gate --input data.npy": "expected NAME=FILE",
    "gate --arg f32[4] --plot no/folder.svg": "no folder",
}
BAD_IN = {"jax": {}, "torch": {f"gate --arg f32[{'9' * 30}]": "--arg: f32[999"}}  # JAX makes none, whatever its size


@pytest.mark.parametrize(
    ("framework", "arguments", "message"), [(f, *bad) for f in INSTALLED for bad in {**BAD, **BAD_IN[f]}.items()]
)
def test_what_cannot_be_audited_gets_one_line(
    framework: str, arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = source(framework, tmp_path)
    assert_usage(residuals(capsys, "audit", *f"{path}:{arguments}".format(path=path).split()), message)


@BOTH
def test_a_run_where_the_numbers_decide(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JAX keeps the cosine or the sine, PyTorch x, which is alive anyway."""
    target = f"{source(framework, tmp_path)}:depends"
    code, out, _ = residuals(capsys, "audit", target, "--arg", "f32[4]", "--concrete")
    assert (code, out.splitlines()[1].partition(" in ")[0]) == (
        0, {"jax": "16 B of new memory", "torch": "0 B of new memory"}[framework],
    )  # fmt: skip


@BOTH
def test_what_a_target_prints_is_no_part_of_the_document(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"{source(framework, tmp_path)}:prints"
    code, out, err = residuals(capsys, "audit", target, "--arg", "f32[4]", "--json", "--compiled")
    assert (code, json.loads(out)["new_bytes"], "half of it" in err) == (0, 16 if framework == "jax" else 0, True)


ONCE = """
import {framework}
from dataclasses import dataclass
{register}
print("runs")

@dataclass
class Params:
    w: object

def init():
    return Params({made})

def loss(params, x):
    assert isinstance(params, Params), "of another copy of this file"
    return (params.w * x).sum()
"""
MADE = {
    "jax": ("jax.numpy.ones(4)", "from jax.tree_util import register_dataclass"),
    "torch": ("torch.ones(4, requires_grad=True)", ""),
}


def model_file(framework: str, folder: Path) -> Path:
    """A file that has both a loss and its parameters, and says when it runs."""
    path, (made, register) = folder / "model.py", MADE[framework]
    text = ONCE.format(framework=framework, made=made, register=register)
    path.write_text(text.replace("@dataclass\nclass", "@register_dataclass\n@dataclass\nclass") if register else text)
    return path


@BOTH
def test_a_file_that_has_target_and_arguments_runs_once(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model_file(framework, tmp_path)
    code, out, err = residuals(capsys, "audit", f"{path}:loss", "--param", f"{path}:init", "--arg", "f32[4]")
    assert (code, "parameter" in out) == (0, True), err
    assert err.count("runs") == 1


@BOTH
def test_arguments_of_a_concrete_audit_are_made(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model_file(framework, tmp_path)
    command = ("audit", f"{path}:loss", "--param", f"{path}:init", "--arg", "f32[4]", "--concrete")
    code, out, err = residuals(capsys, *command)
    assert (code, "float32[4]" in out) == (0, True), err


@BOTH
def test_a_device_that_is_not_there(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = (f"{source(framework, tmp_path)}:gate", "--arg", "f32[64,8]")
    assert residuals(capsys, "audit", *target, "--device", "cpu")[1] == residuals(capsys, "audit", *target)[1]
    if "gpu" not in frameworks.load(framework).devices():
        assert_usage(residuals(capsys, "audit", *target, "--device", "gpu"), "--device gpu: ")


@pytest.mark.needs("torch")
def test_a_file_that_asks_for_numbers_while_it_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that it spells out are there; of others it is said how to have them."""
    path = tmp_path / "drops.py"
    for numbers, is_there in (("torch.linspace(0, 0.1, 2)", True), ("torch.rand(2)", False)):
        path.write_text(
            f"import torch\nrates = [x.item() for x in {numbers}]\nmodel = torch.nn.Sequential(torch.nn.Linear(8, 8))\n"
        )
        answer = residuals(capsys, "audit", f"{path}:model", "--arg", "f32[4,8]")
        if is_there:
            assert answer[0] == 0
        else:
            assert_usage(answer, "run it with --concrete")
