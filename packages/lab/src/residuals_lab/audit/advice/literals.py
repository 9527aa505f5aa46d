"""The numbers that a program spells out, as the two frameworks write them down."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from residuals_lab.trace import Step


def operands(step: Step, keys: Mapping[int, Any]) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
    """A step's arguments, with an ellipsis in place of each array, and those by keyword; None if they are not known."""
    text = str(keys.get(step.outs[0], ("", ""))[1])
    if text.startswith("{"):  # of JAX, where all operands are arrays
        found = re.search(r"'y': (-?\d+)", text) if step.op == "integer_pow" else None
        return [*[...] * len(step.ins), *([int(found[1])] if found else [])], {}
    text = re.sub(r"\btorch\.\w+|device\([^)]*\)|<[^>]*>", "None", text).replace("'tensor'", "...")
    try:
        args, kwargs = ast.literal_eval(re.sub(r"\binf\b", "1e999", text))
    except (SyntaxError, TypeError, ValueError):
        return None
    return args, kwargs


def literal(key: Any) -> float | None:
    """The number that a value is, by its key, if JAX has it spelled out: as `Literal(0.5)`, or `0.5:f32[]`."""
    if not (isinstance(key, tuple) and isinstance(key[1], tuple) and key[1][:1] == ("literal",)):
        return None
    found = re.search(r"-?(?:\d[\d.e+-]*|inf|nan)|True|False", key[1][1])
    return as_number(found[0]) if found else None


def as_number(text: Any) -> float | None:
    try:
        return float({"True": 1, "False": 0}.get(text, text))
    except (TypeError, ValueError):
        return None


def numbers(step: Step, keys: Mapping[int, Any]) -> list[float]:
    """The numbers that are spelled out among the operands of a step."""
    arguments = operands(step, keys)
    given = [a for a in (arguments[0] if arguments else ()) if isinstance(a, (int, float))]
    found = [literal(keys.get(n)) for n in step.ins]
    return [*given, *(a for a in found if a is not None)]


def named(options: str) -> dict[str, Any]:
    """Options as they are spelled out, 'eps=1e-05, offset=1.0', by their names."""
    pairs = [option.split("=", 1) for option in options.split(", ") if option]
    return {name: ast.literal_eval(value) for name, value in pairs}
