"""A port beside its original: `residuals audit … --beside …` of both frameworks."""

import json
from pathlib import Path

import pytest

from audited import source
from command import residuals


def test_a_port_beside_its_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, port = (f"{source(name, tmp_path)}:gate" for name in ("jax", "torch"))
    command = ("audit", original, "--arg", "f32[64,8]")
    code, out, _ = residuals(capsys, *command, "--beside", port)
    assert (code, "Side by side" in out) == (0, True)
    code, _, _ = residuals(capsys, *command, "--framework", "jax", "--beside", port, "--framework", "torch")
    assert code == 0, "each has its own"
    code, out, _ = residuals(capsys, *command, "--beside", port, "--json")
    document = json.loads(out)
    left, right = (report["new_bytes"] for report in document["audits"])
    assert sum(match["difference_bytes"] for match in document["matched"]) == right - left
