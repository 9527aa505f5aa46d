"""The pages of the ops, `docs/ops/NAME.md` and an index: made of the sources and of measurements, nothing by hand.

`python docs/op_pages.py` writes them; with `--check` it writes nothing and says which are not what it would write. Both
frameworks have to be installed.
"""

import ast
import inspect
import itertools
import re
import sys
import textwrap
from pathlib import Path

from residuals_lab import frameworks
from residuals_lab.ops import OPS, footprint
from residuals_lab.ops.call import Call

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "ops"
NOTE = "<!-- Written by docs/op_pages.py from the sources and from measurements. Change those, and run it again. -->"
SHOWN = {"numpy": ("forward", "vjp", "residuals"), "jax": ("fwd", "bwd"), "torch": ("fwd", "bwd")}
SECTION = re.compile(r"^(Args|Returns|Saves|Raises|Source):$", re.MULTILINE)
VERSIONS = re.compile(r"^Measured on (.*), on a CPU\.$", re.MULTILINE)
BOTH = ("jax", "torch")


def pages():
    """The text of every page by its file's name."""
    measured = {op.name: measure(op) for op in OPS}
    texts = {f"{op.name}.md": page(op.name, *measured[op.name]) for op in OPS}
    return {"README.md": index({name: rows for name, (_, rows) in measured.items()}), **texts}


def stale(found):
    """The names of pages that are missing, too many, or other than found here.

    Another release of a framework may hold something else by its own means, so those numbers count only where the
    pages name the release that runs; the numbers of our rules always count.
    """
    committed = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")}
    others = unnamed(committed.get("README.md", ""))
    texts = [{name: comparable(text, others) for name, text in of.items()} for of in (committed, found)]
    return [name for name in sorted(set().union(*texts)) if texts[0].get(name) != texts[1].get(name)]


def unnamed(text):
    """The frameworks that run here in another release than the one that the text was measured on."""
    named = VERSIONS.search(text)
    return [name for name in BOTH if not named or frameworks.load(name).TITLE not in named[1].split(" and ")]


def comparable(text, others):
    """A page without its versions, and without what these frameworks hold by their own means."""
    text = VERSIONS.sub("", text)
    for name in others:
        text = re.sub(rf"^\| {frameworks.TITLES[name]} \| (?!this rule).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"( · \S+)+ \|", " |", text) if others else text  # in the index: this rule, plain autodiff, its own


def main(arguments):
    """Write the pages, or check them; the exit code."""
    found = pages()
    if arguments == ["--check"]:
        wrong = stale(found)
        for name in wrong:
            print(f"docs/ops/{name} is not what docs/op_pages.py writes")
        return 1 if wrong else 0
    PAGES.mkdir(exist_ok=True)
    for path in PAGES.glob("*.md"):
        path.unlink()
    for name, text in found.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    return 0


# Measured.


def measure(op):
    """The call that is measured, and rows of framework, rule, and footprint in units of the first array, or None."""
    rows = []
    for adapter in map(frameworks.load, BOTH):
        call = footprint.call_of(op, adapter)
        unit = 4 * next(iter(call.arrays.values())).size
        own = f"its own, `{adapter.OWN[op.name][0]}`" if op.name in adapter.OWN else "its own: none"
        makes = {"this rule": Call.ours, "plain autodiff": Call.plain, own: Call.own, "checkpoint": Call.checkpointed}
        for rule, make in makes.items():
            known = make is not Call.own or op.name in adapter.OWN
            found = footprint.measure(call, adapter, make(call, adapter)) if known else None
            rows.append((adapter.NAME, rule, found and [nbytes / unit for nbytes in found]))
    return call, rows


def number(units):
    """Two decimals; `0` is exactly nothing, and `0.00` is not."""
    return "0" if units == 0 else f"{units:.2f}"


def versions():
    """The line that may differ from machine to machine."""
    return f"Measured on {' and '.join(frameworks.load(name).TITLE for name in BOTH)}, on a CPU."


def in_bytes(call, rows):
    """The section of bytes: at which call, the table, and on which versions."""
    shapes = [f"{name} {list(a.shape)}" for name, a in (call.arrays | call.constants).items()]
    statics = [f"{name} = {value!r}" for name, value in call.static.items()]
    cells = [
        (frameworks.TITLES[framework], rule, *(["–"] * 3 if units is None else map(number, units)))
        for framework, rule, units in rows
    ]
    return [
        wrapped(
            f"Float32, in units of the first array, at {', '.join(shapes + statics)}. *Saved* are the bytes of all "
            "residuals, *new* those of residuals that are no input, parameter or output, and *in a chain* those that "
            "the op adds to linear → op → linear, whose linear layers save their own inputs. `0` is nothing, `0.00` "
            "next to nothing."
        ),
        table("", "", "saved", "new", "in a chain", rows=cells, align=("---", "---", "---:", "---:", "---:")),
        versions(),
    ]


# Read from the sources.


def source(framework, name):
    """An op's file and its text."""
    path = ROOT / "packages" / framework / "src" / f"residuals_{framework}" / "ops" / f"{name}.py"
    return path, path.read_text(encoding="utf-8")


def title(name):
    """The first line of the module: what the op is, and its maths."""
    return ast.get_docstring(ast.parse(source("jax", name)[1])).splitlines()[0]


def statements(text):
    """The statements of a module by the name that they define, in order, each with its node and its lines."""
    found = {}
    for node in ast.parse(text).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", node)
        name = getattr(node, "name", None) or getattr(target, "id", None)
        if name:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            found[name] = node, "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return found


def code(framework, name):
    """The functions to be shown, and those of the file's other functions and constants that they use."""
    found = statements(source(framework, name)[1])
    todo, used = list(SHOWN[framework]), set()
    while todo:
        wanted = todo.pop()
        if wanted in found and wanted not in used | {"Residuals", "RECOMPUTES"}:
            used.add(wanted)
            todo += [node.id for node in ast.walk(found[wanted][0]) if isinstance(node, ast.Name)]
    parts = [(isinstance(node, ast.FunctionDef), lines) for key, (node, lines) in found.items() if key in used]
    text = parts[0][1]
    for (after_function, _), (function, lines) in itertools.pairwise(parts):
        text += ("\n\n\n" if function or after_function else "\n") + lines
    return text


def fields(framework, name):
    """Each field of `Residuals` with its shape and the reason it is kept; the class's own remark under the name ""."""
    text = source(framework, name)[1]
    node, _ = statements(text)["Residuals"]

    def comment(line):
        """What stands after a line, and on lines of their own below it."""
        lines = text.splitlines()
        below = itertools.takewhile(lambda line: line.startswith("    # "), lines[line:])
        return " ".join([lines[line - 1].partition("  # ")[2], *(line.removeprefix("    # ") for line in below)])

    found = {"": ("", comment(node.lineno))}
    for field in node.body:
        if isinstance(field, ast.AnnAssign):
            shape, _, reason = comment(field.lineno).partition("  ")
            found[field.target.id] = shape, reason
    return found


def saved(name):
    """The section of what is saved: a table from both sources, which differ in what PyTorch can leave out."""
    in_jax, in_torch = (fields(framework, name) for framework in BOTH)
    rows = []
    for field, (shape, reason) in in_jax.items():
        other = in_torch[field][1].removeprefix(f"{reason}; ")
        if field:
            rows.append((f"`{field}`", shape, reason if other == reason else f"{reason}<br>PyTorch: {other}"))
    remark = in_torch[""][1]
    return [table("residual", "shape", "why it is kept", rows=rows), *([f"PyTorch: {remark}."] if remark else [])]


def recomputes(name):
    """`RECOMPUTES`, and the remark above it."""
    text = source("jax", name)[1]
    node, _ = statements(text)["RECOMPUTES"]
    above = text.splitlines()[node.lineno - 2]
    return ast.literal_eval(node.value), above.removeprefix("# ") if above.startswith("# ") else ""


def repeated(name):
    """The section of what the backward repeats."""
    found, remark = recomputes(name)
    if not found:
        return ["Nothing that costs: no reduction, contraction, random draw or transcendental of the forward."]
    reasons = "\n".join(wrapped(f"- **{key}**: {why}.", "  ") for key, why in found.items())
    return [remark, reasons] if remark else [reasons]


def docstring(framework, name):
    """The public function's docstring: the text of each section, by entry; what comes first is the section ""."""
    parts = SECTION.split(inspect.getdoc(frameworks.load(framework).public(name)))
    sections = {"": {"": parts[0].strip()}}
    for section, body in zip(parts[1::2], parts[2::2], strict=True):
        entries = re.split(r"\n(?=\S)", textwrap.dedent(body.strip("\n")).strip())
        entries = [" ".join(entry.split()) for entry in entries]
        if section in {"Args", "Saves", "Raises"}:
            sections[section] = {entry.partition(": ")[0]: entry.partition(": ")[2] for entry in entries}
        else:
            sections[section] = {"": " ".join(entries)}
    return sections


NAMES_ONE = re.compile(r"jax|torch|mesh|shard_map|DTensor|global generator", re.IGNORECASE)


def differences(name):
    """What one docstring says of a framework and the other does not, sentence by sentence, side by side."""
    both = [docstring(framework, name) for framework in BOTH]
    rows = []
    for section in both[0]:
        for entry in both[0][section] | both[1][section]:
            texts = [" ".join(found[section].get(entry, "").split()) for found in both]
            sentences = [re.split(r"(?<=[.;]) ", text) for text in texts]
            alike = [{sentence.replace("tensor", "array") for sentence in found} for found in sentences]
            only = [
                " ".join(s for s in found if s.replace("tensor", "array") not in others and NAMES_ONE.search(s))
                for found, others in zip(sentences, reversed(alike), strict=True)
            ]
            if any(only):
                rows.append((" ".join([section.lower(), f"`{entry}`" if entry else ""]).strip(), *only))
    if not rows:
        return "None known: the two docstrings say the same."
    return table("", *(frameworks.TITLES[framework] for framework in BOTH), rows=rows)


# Put together.


def signature(fn):
    """A function's parameters as they are written, without their types."""
    found = inspect.signature(fn)
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=found.empty))


def page(name, call, rows):
    """One page."""
    doc = docstring("jax", name)
    calls = [signature(frameworks.load(framework).public(name)) for framework in BOTH]
    if calls[0] != calls[1]:
        calls = [f"{call}  # {frameworks.TITLES[framework]}" for framework, call in zip(BOTH, calls, strict=True)]
    listing = "\n".join(dict.fromkeys(f"{name}{call}" for call in calls))
    parts = [
        NOTE,
        f"# {name}",
        wrapped(title(name)),
        f"```python\n{listing}\n```",
        *(wrapped(" ".join(part.split())) for part in doc[""][""].split("\n\n")),
        "\n".join(wrapped(f"- `{key}`: {text}", "  ") for key, text in doc["Args"].items()),
        wrapped(f"Returns: {doc['Returns']['']}"),
        "## What is saved, and why",
        *saved(name),
        "## What is repeated, and why",
        *repeated(name),
        "## Bytes",
        *in_bytes(call, rows),
        "## Three implementations",
        wrapped(
            "What the public functions wrap. The rest of each file is checks and the registration of the rule, and in "
            "PyTorch what a second derivative needs beside."
        ),
    ]
    for framework in ("numpy", *BOTH):
        path = source(framework, name)[0].relative_to(ROOT).as_posix()
        parts += [f"### {frameworks.TITLES[framework]}", f"[{path}](../../{path})"]
        parts += [f"```python\n{code(framework, name)}\n```"]
    parts += ["## Differences between the frameworks", differences(name)]
    parts += ["## Source", wrapped(doc["Source"][""]), "[All ops](README.md)"]
    return "\n\n".join(parts) + "\n"


def index(measured):
    """The page that leads to all."""
    lines = []
    for name, rows in measured.items():
        kept = ", ".join(f"`{field}`" for field in fields("jax", name) if field)
        chain = [(framework, "–" if units is None else number(units[2])) for framework, _, units in rows]
        cells = [" · ".join([text for of, text in chain if of == framework][:3]) for framework in BOTH]
        lines.append((f"[{name}]({name}.md)", kept, ", ".join(recomputes(name)[0]) or "–", *cells))
    intro = wrapped(
        "Each page has the maths, what is saved and why, the bytes, and the code in NumPy, JAX and PyTorch. The last "
        "two columns are the bytes that the op adds to linear → op → linear, in units of its first array: with this "
        "rule, with plain autodiff, and with the framework's own op."
    )
    heads = ("op", "saves", "repeats", *(frameworks.TITLES[name] for name in BOTH))
    what = "\n".join(wrapped(f"- **{name}**: {title(name)}", "  ") for name in measured)
    return "\n\n".join([NOTE, "# Ops", intro, table(*heads, rows=lines), versions(), what]) + "\n"


def wrapped(text, indent=""):
    """A paragraph of lines that are no longer than those of the sources."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def table(*heads, rows, align=None):
    """A Markdown table."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, align or ["---"] * len(heads), *cells))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
