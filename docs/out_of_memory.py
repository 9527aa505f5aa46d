"""Draws the figure of `out-of-memory.md`: what a decoder keeps as it is often written, and with four parts replaced."""

from pathlib import Path

from residuals_lab import lanes
from residuals_lab.audit.target import Argument, audit_target

DOCS = Path(__file__).parent
FIGURES = {look: DOCS / "figures" / f"out-of-memory-{look}.svg" for look in ("light", "dark")}
TOKENS = [Argument("arg", "i64[8,1024]")] * 2


def reports():
    """The two audits, by title."""
    targets = {"as it is often written": "usual", "with four parts replaced": "lean"}
    return {
        title: audit_target(f"{DOCS / 'decoder_torch.py'}:{name}", TOKENS).picture for title, name in targets.items()
    }


def draw(folder=DOCS / "figures"):
    """Draw both looks into this folder."""
    pictures = reports()
    for look, path in FIGURES.items():
        lanes.draw(pictures, Path(folder) / path.name, is_dark=look == "dark")


if __name__ == "__main__":
    draw()
