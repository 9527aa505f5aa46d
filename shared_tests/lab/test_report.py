"""What people read of an audit: a page in any colours, text in a pipe, pictures from the command, and the help."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from command import assert_usage
from residuals_lab import cli, frameworks
from residuals_lab.audit import page

FRAMEWORK, *_ = frameworks.installed()
SOURCE = {
    "jax": "import jax.numpy as n\n\ndef f(x):\n    return n.exp(n.sin(x)).sum()\n",
    "torch": "import torch as n\n\ndef f(x):\n    return n.exp(n.sin(x)).sum()\n",
}[FRAMEWORK]


@pytest.fixture
def target(tmp_path: Path) -> str:
    path = tmp_path / "given.py"
    path.write_text(SOURCE)
    return f"{path}:f"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = cli.main(["audit", *map(str, arguments)])
    except SystemExit as end:  # of --help
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def report(target: str) -> Any:
    from residuals_lab.audit.target import Argument, audit_target

    return audit_target(target, [Argument("arg", "f32[64,8]")])


def contrast(*colours: tuple[float, ...]) -> float:
    """Of two colours, as WCAG has it: 4.5 is enough for text."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (n / 255 for n in colour)]
        return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def test_html_is_readable_on_a_light_page_and_on_a_dark_one(target: str) -> None:
    found = report(target)._repr_html_()
    assert "color: inherit; background: none" in found
    mixed = re.findall(r"color: color-mix\(in srgb, currentColor (\d+)%, #\w{6}\)", found)
    assert len(mixed) == len(re.findall('<span style="[^"]*color:', found)) > 0, "no colour is one of its own"
    for share in {int(percent) / 100 for percent in mixed}:
        for hue in page._HUES[1:]:
            for text, paper in (((31, 35, 40), (255, 255, 255)), ((212, 212, 212), (30, 30, 30))):
                colour = tuple(share * a + (1 - share) * b for a, b in zip(text, hue, strict=True))
                assert contrast(colour, paper) >= 4.5, (hue, paper)


def test_a_page_stands_alone_and_follows_its_reader(target: str) -> None:
    found = page.page([report(target)])
    assert "color-scheme: light dark" in found
    assert "@media (prefers-color-scheme: dark)" in found
    outside = set(re.findall(r'(?:src|href)="(?!#)([^"]+)"|url\((?!#)([^)]+)\)|@import', found))
    assert not outside, "one file, without anything from elsewhere"


def test_a_page_has_all_that_the_audit_has(target: str) -> None:
    audit = report(target)
    found = page.page([audit, audit])
    assert found.count("<section>") == 2
    values = [int(n) for n in re.findall(r'<td class="number" data-value="(\d+)">', found)]
    assert sum(values[0::3]) == 2 * audit.saved_bytes
    assert sum(values[1::3]) == 2 * audit.new_bytes
    places = re.findall(r'<tr id="([^"]+)"', found)
    assert len(places) == len({*places})
    assert {*re.findall(r'<a href="#([^"]+)"', found)} <= {*places}
    assert all(f"<code>{r.line}</code>" in found for r in audit.residuals if r.line)


def test_what_a_page_shows_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a <b> & c.py"
    path.write_text(SOURCE)
    found = page.page([report(f"{path}:f")])
    assert "<b> & c.py" not in found
    assert "&lt;b&gt; &amp; c.py" in found


def test_no_blanks_at_the_ends_of_lines(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ((), ("--by", "kind"), ("--beside", target)):
        code, out, _ = run(capsys, target, "--arg", "f32[64,8]", *more)
        assert code == 0
        assert "read by" in out or "arrays" in out
        assert not [line for line in (out + str(report(target))).splitlines() if line != line.rstrip()]


def test_sums_as_json(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (target, "--arg", "f32[64,8]", "--json")
    plain = json.loads(run(capsys, *arguments)[1])
    assert plain.pop("by") is None
    for group in ("source", "module", "kind"):
        document = json.loads(run(capsys, *arguments, "--by", group)[1])
        found = document.pop("by")
        assert document == plain
        assert [*found] == [group]
        assert sum(g["new_bytes"] for g in found[group]) == plain["new_bytes"] > 0
        assert found[group][0].keys() == {"label", "arrays", "saved_bytes", "new_bytes"}
    both = json.loads(run(capsys, *arguments, "--by", "kind", "--beside", target)[1])
    assert [*both["audits"][1]["by"]] == ["kind"]


def test_pictures(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    light, dark = tmp_path / "light.SVG", tmp_path / "dark.svg"
    arguments = (target, "--arg", "f32[64,8]")
    assert run(capsys, *arguments, "--plot", light)[0] == 0
    assert run(capsys, *arguments, "--plot", dark, "--dark")[0] == 0
    assert ("#ffffff" in light.read_text(), "#ffffff" in dark.read_text()) == (True, False)
    assert "#0d1117" in dark.read_text()
    picture = tmp_path / "op.svg"
    op = ["compare", "x_sin_x", "--dtype", "f32", "--framework", FRAMEWORK, "--dark", "--plot", str(picture)]
    assert cli.main(op) == 0
    assert "#0d1117" in picture.read_text()


def test_what_cannot_be_drawn_is_refused_before_the_trace(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it was traced")

    monkeypatch.setattr("residuals_lab.audit.target.audit_target", never)
    pdf, nowhere = tmp_path / "a.pdf", tmp_path / "no" / "a.svg"
    assert_usage(run(capsys, target, "--plot", pdf), "expected a path that ends in .svg or .png, got")
    assert_usage(run(capsys, target, "--plot", nowhere), "no folder")
    assert_usage(run(capsys, target, "--html", nowhere), "no folder")
    assert_usage(run(capsys, target, "--dark"), "--dark: expected --plot FILE with it")
    monkeypatch.setattr("residuals_lab.compare.traces", never)
    code = cli.main(["compare", "tanh", "--plot", str(pdf)])
    assert_usage((code, *capsys.readouterr()), "expected a path that ends in .svg or .png, got")


def test_the_help_is_narrow_and_explains_the_kinds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert not [line for line in out.splitlines() if len(line) > 80]
    kinds = out[out.index("kinds of arrays") :].splitlines()[1:7]
    assert [line.split()[0] for line in kinds] == ["input", "parameter", "output", "new", "view", "hidden"]
    assert "for a dark page" in out
