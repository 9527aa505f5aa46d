"""The arguments of a target, as a command line spells them.

An argument is `f32[1024,512]` for an array of that dtype and shape, a Python literal such as `0.1` or `"mean"`, or
`file.py:function` for the result of that function, say a tree of parameters. `name=` before it makes it a keyword.
"""

import ast
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from residuals_lab.errors import UsageError
from residuals_lab.frameworks.messages import explained
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.targets.functions import load_target
from residuals_lab.targets.numbers import named_file, read_numbers

DTYPES = {
    "f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16", "c128": "complex128",
    "c64": "complex64", "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u8": "uint8", "u32": "uint32", "bool": "bool", "key": "key",
}  # fmt: skip


class Argument(NamedTuple):
    """An argument as somebody wrote it, and the option that it was given to, which says what it is."""

    how: Literal["arg", "param", "frozen", "input"]
    text: str


def _in_32_bits(a: Any) -> Any:
    return a.astype("float32") if a.dtype == "float64" else a


def value(
    adapter: Framework, argument: Argument, is_concrete: bool, ran: dict[Path, ModuleType] | None = None
) -> tuple[str, Any]:
    """An argument's name, if it has one, and its value; `ran` as in `load_target`."""
    name, equals, text = argument.text.partition("=")
    if not equals or not name.isidentifier():
        name, text = "", argument.text
    if argument.how == "input":
        name, path = named_file(argument.text)
        return name, adapter.array(_in_32_bits(read_numbers(name, path)))
    array = re.fullmatch(r"(\w+)\[((?: *\d+ *,)*(?: *\d+ *)?)\]", text)
    if array:
        if array[1] not in DTYPES and array[1] not in DTYPES.values():
            raise UsageError(f"--{argument.how}: expected a dtype of {', '.join(DTYPES)}, got {argument.text!r}")
        try:
            shape = tuple(int(n) for n in array[2].split(",") if n.strip())
            made = adapter.shaped(shape, DTYPES.get(array[1], array[1]))
            if is_concrete:  # XLA would end the process where there is no memory for it
                np.empty(math.prod(shape) * made.dtype.itemsize, np.uint8)
            return name, adapter.random_like(made) if is_concrete else made
        except (RuntimeError, OverflowError, TypeError, ValueError, MemoryError) as problem:  # of too many bytes
            what = str(problem).partition("\n")[0]
            raise UsageError(f"--{argument.how}: {text} cannot be made: {what}") from problem
    if re.match(r"\w+\[", text):
        raise UsageError(f"--{argument.how}: expected a dtype and whole numbers, as in f32[1024,512], got {text!r}")
    if ":" in text and not text.startswith(("{", "'", '"')):
        try:
            make = load_target(text, ran)
        except UsageError as problem:
            raise UsageError(str(problem).replace("target:", f"--{argument.how}:", 1)) from problem
        try:
            return name, make() if is_concrete else adapter.without_computing(make)
        except (UsageError, KeyboardInterrupt):
            raise
        except BaseException as problem:
            what = f"{text} raised {explained(problem, is_concrete=True)}"
            raise UsageError(f"--{argument.how}: expected a function without arguments, and {what}") from problem
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        expected = "f32[1024,512], a Python literal, or file.py:function that gives the value"
        raise UsageError(f"--{argument.how}: expected {expected}, got {argument.text!r}") from None
