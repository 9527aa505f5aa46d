"""Arrays from files."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from residuals_lab.errors import UsageError, guess


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

    An `.npz` file gives the array called `name`, or the only one it has. A `.csv` file may begin with a line of titles:
    `signal.csv:volt` is one of its columns, and a column that is called `name` is taken without being asked for.
    Raises UsageError, in one line, for a file that is missing, empty, non-numeric, complex, or not finite.
    """
    column = ""
    if ".csv:" in str(path):
        whole, _, column = str(path).rpartition(":")
        path = Path(whole)
    if path.suffix not in _READERS:
        raise UsageError(f"{name}: expected a file ending in {', '.join(_READERS)}, got {path}")
    if path.is_dir():
        raise UsageError(f"{name}: expected a file, got the folder {path}")
    if not path.is_file():
        raise UsageError(f"{name}: no file at {path}")
    try:
        a = np.asarray(_read_csv(name, path, column) if column else _READERS[path.suffix](name, path))
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as problem:
        why = str(problem).splitlines()[0]
        if "pickle" in why:  # NumPy's own hint names an option that there is not here
            why = "it has Python objects in it"
        raise UsageError(f"{name}: {path} could not be read as numbers: {why}") from None
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


def _read_csv(name: str, path: Path, column: str = "") -> np.ndarray:
    text = path.read_text(encoding="utf-8-sig")  # a spreadsheet puts a byte-order mark first
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return np.zeros(0)
    first = [title.strip().strip('"') for title in lines[0].split(",")]
    titles = [] if len(lines) == 1 or _is_number(first[0]) else first
    if column and column not in titles:
        has = f"it has {', '.join(titles)}" if titles else "it has no line of titles"
        raise UsageError(f"{name}: {path} has no column {column!r}; {has}{guess(column, titles)}")
    of_the_name = name if name in titles and len(titles) > 1 else ""
    chosen = titles.index(column or of_the_name) if column or of_the_name else None
    return np.loadtxt(lines[1 if titles else 0 :], delimiter=",", ndmin=1, usecols=chosen)


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
