"""Arrays from files."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from residuals_lab.errors import UsageError


def named_file(text: str) -> tuple[str, Path]:
    """The name and the path in `NAME=FILE`."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise UsageError(f"--input: expected NAME=FILE, got {text!r}")
    return name, Path(path)


def read_array(name: str, path: Path) -> np.ndarray:
    """The numbers in a file, as `read_numbers` has them, in float64."""
    return read_numbers(name, path).astype(np.float64)


def read_numbers(name: str, path: Path) -> np.ndarray:
    """The numbers in a `.npy`, `.npz` or `.csv` file, in the dtype of the file, but for long doubles.

    An `.npz` file gives the array called `name`, or the only one it has. A `.csv` file may begin with a line of titles.
    Raises UsageError, in one line, for a file that is missing, empty, non-numeric, complex, or not finite.
    """
    if path.suffix not in _READERS:
        raise UsageError(f"{name}: expected a file ending in {', '.join(_READERS)}, got {path}")
    if not path.is_file():
        raise UsageError(f"{name}: no file at {path}")
    try:
        a = np.asarray(_READERS[path.suffix](name, path))
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as problem:
        raise UsageError(f"{name}: {path} could not be read as numbers: {str(problem).splitlines()[0]}") from None
    if a.dtype.kind == "c":
        raise UsageError(f"{name}: expected real numbers, got {a.dtype} in {path}")
    if a.dtype.kind not in "fiu":
        raise UsageError(f"{name}: expected numbers, got {a.dtype} in {path}")
    if a.size == 0:
        raise UsageError(f"{name}: {path} is empty, shape {a.shape}")
    for what, wrong in (("NaN", np.argwhere(np.isnan(a))), ("infinite", np.argwhere(np.isinf(a)))):
        if len(wrong):
            first = ", ".join(map(str, wrong[0]))
            raise UsageError(
                f"{name}: {path} has {len(wrong)} {what} of {a.size} numbers, the first at index [{first}]"
            )
    native = a.astype(a.dtype.newbyteorder("="))  # frameworks take no other byte order and no long doubles
    return native.astype(np.float64) if native.dtype.kind == "f" and native.itemsize > 8 else native


def _read_npz(name: str, path: Path) -> np.ndarray:
    with np.load(path) as arrays:
        if name in arrays.files:
            return arrays[name]
        if len(arrays.files) != 1:
            raise UsageError(
                f"{name}: expected an array of that name in {path}, got {', '.join(arrays.files) or 'none'}"
            )
        return arrays[arrays.files[0]]


def _read_csv(name: str, path: Path) -> np.ndarray:
    text = path.read_text(encoding="utf-8-sig")  # a spreadsheet puts a byte-order mark first
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return np.zeros(0)
    titles = 1 if len(lines) > 1 and not _is_number(lines[0].split(",")[0]) else 0
    return np.loadtxt(lines[titles:], delimiter=",", ndmin=1)


def _is_number(text: str) -> bool:
    try:
        complex(text)
    except ValueError:
        return False
    return True


_READERS: dict[str, Callable[[str, Path], np.ndarray]] = {
    ".npy": lambda name, path: np.load(path),
    ".npz": _read_npz,
    ".csv": _read_csv,
}
