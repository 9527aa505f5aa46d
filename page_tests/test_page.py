"""The audit's page in a real browser: it sorts, searches, opens rows, points to them; light, dark, narrow.

`nox -s pages` runs this and needs a Chromium on the path. It prints where its screenshots are.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from residuals_lab.audit import page
from residuals_lab.audit.target import Argument, audit_target
from residuals_lab.frameworks import installed

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"wide": (1400, 2400), "middle": (800, 2400), "narrow": (360, 3200)}
LOOKS = {"light": 1, "dark": 0}  # the numbers of Blink's preferred colour scheme

# Does what a reader does, and leaves what it finds in the title.
SCRIPT = """
const section = document.querySelector("section"), body = section.querySelector("tbody"), found = {};
const column = i => [...body.rows].filter(row => !row.hidden).map(row => row.cells[i].textContent);
const heads = section.querySelectorAll("th button");
const numbers = i => [...body.rows].map(row => Number(row.cells[i].dataset.value));
heads[0].click(); found.down = numbers(0); heads[0].click(); found.up = numbers(0);
heads[3].click(); found.names = column(3);
const input = section.querySelector("input");
const search = text => { input.value = text; input.dispatchEvent(new Event("input")); return column(6); };
found.all = body.rows.length; found.searched = search("decoder_torch.py:33");
found.output = section.querySelector("output").textContent;
found.none = search("no such array"); found.again = search("");
const link = section.querySelector(".findings a"); link.click();
const row = document.activeElement;
found.pointed = "#" + row.id === link.hash; found.open = row.querySelector("details").open;
const counts = [...row.querySelectorAll("details li")].map(li => Number(li.dataset.count));
found.inside = counts.reduce((a, b) => a + b); found.arrays = Number(row.cells[2].dataset.value);
const isSeen = a => a.getBoundingClientRect().height > 0;
const spot = [...document.querySelectorAll(".spot")].find(isSeen);
found.pictures = [...document.querySelectorAll(".lanes svg")].filter(isSeen).length;
const width = document.documentElement.clientWidth;
found.outside = [...document.querySelectorAll("td, .lanes text")].filter(isSeen)
  .filter(a => a.getBoundingClientRect().right > width + 1).map(a => a.textContent);
const colour = a => getComputedStyle(a).borderLeftColor;
found.swatch = colour(document.querySelector(".kind"));
found.bars = [...document.querySelectorAll(".lanes path")].map(a => getComputedStyle(a).fill);
found.order = document.querySelector(".totals").compareDocumentPosition(document.querySelector(".lanes"));
found.titles = document.body.innerText.split("decoder_torch.py:usual").length - 1;
found.tree = [...document.querySelectorAll(".tree > *")].filter(isSeen).length;
spot.focus(); found.said = document.getElementById("said").textContent;
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.title = JSON.stringify(found);
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if CHROMIUM is None:
        pytest.fail("expected chromium, chromium-browser or google-chrome on the path; install one")
    if "torch" not in installed():
        pytest.fail("the page of these tests is of a decoder in PyTorch; install torch")
    tokens = [Argument("arg", "i64[8,1024]")] * 2
    path = tmp_path_factory.mktemp("pages") / "page.html"
    path.write_text(page.page([audit_target(f"{ROOT}/docs/decoder_torch.py:usual", tokens)]), encoding="utf-8")
    return path


def browse(path: Path, size: str, *options: str) -> str:
    width, height = SIZES[size]
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={width},{height}", "--virtual-time-budget=5000", *options, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("size", SIZES)
def test_a_reader_sorts_searches_opens_and_points(written: Path, size: str) -> None:
    driven = written.with_name(f"driven-{size}.html")
    text = written.read_text(encoding="utf-8").replace("</script>\n</html>", f"{SCRIPT}</script>\n</html>")
    driven.write_text(text, encoding="utf-8")
    title = re.findall(r"<title>(\{.*?\})</title>", browse(driven, size, "--dump-dom"), re.DOTALL)
    found = json.loads(title[0].replace("&quot;", '"').replace("&amp;", "&").replace("&gt;", ">"))
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["up"] == sorted(found["up"])
    assert found["names"] == sorted(found["names"], key=str.lower)
    assert 0 < len(found["searched"]) < found["all"]
    assert all("decoder_torch.py:33" in line for line in found["searched"])
    assert found["output"] == f"{len(found['searched'])} of {found['all']} rows"
    assert found["none"] == []
    assert len(found["again"]) == found["all"]
    assert found["pointed"]
    assert found["open"]
    assert found["inside"] == found["arrays"] > 1
    assert re.search(r"iB in \d+ arrays at .*decoder_torch.py:\d+", found["said"])
    assert found["overflow"] <= 0, "the page itself does not scroll sideways"
    assert found["outside"] == [], "nothing is out of sight at the right"
    assert found["pictures"] == 1
    assert found["swatch"] in found["bars"], "a kind has the colour that it has in the picture"
    assert found["order"] == 4, "the totals are before the picture"
    assert found["titles"] == 1
    assert found["tree"] > 3, "the tree shows the first modules"


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("size", SIZES)
def test_screenshots(written: Path, size: str, look: str) -> None:
    shot = written.with_name(f"{size}-{look}.png")
    browse(written, size, f"--blink-settings=preferredColorScheme={LOOKS[look]}", f"--screenshot={shot}")
    assert shot.stat().st_size > 10_000
    print(f"wrote {shot}")
