"""`python -m mutants`: make mutants of our ops, have them judged, print the matrix."""

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mutants import child, matrix
from mutants.operators import OPERATORS, expected
from mutants.source import FRAMEWORKS, ROOT, Edit, Source, package, site

RESULTS = ROOT / ".nox" / "mutants"  # which git ignores
LIMITS = child.Limits(seconds=120, nbytes=8 << 30)
IMPORTS = {"jax": "import jax\nimport jax.numpy as jnp\n", "torch": "import torch\n"}  # what an operator may name
JAX_JUDGES = ("check", "quick", "gradcheck", "reference", "comparison")
JUDGES = {"jax": JAX_JUDGES, "torch": (*JAX_JUDGES, "opcheck")}


class Mutant(NamedTuple):
    """One fault in one op."""

    id: str
    op: str
    operator: str
    line: int
    last: int
    what: str
    expected: tuple[str, ...]
    source: Source
    edit: Edit


def main() -> int:
    """Judge as many mutants as asked for that are not judged yet, and print the matrix of all of those."""
    asked = _asked()
    for framework in [asked.framework] if asked.framework else FRAMEWORKS:
        warm(framework)
        results = Results(RESULTS / f"{framework}-{asked.seed}.jsonl", asked.again)
        chosen = sampled(framework, None if asked.all else asked.count, asked.seed, lines(framework), asked.without)
        for number, (mutant, covering) in enumerate(chosen, 1):
            judges = asked.judges or JUDGES[framework]
            missing = [name for name in JUDGES[framework] if name in judges and name not in results.of[mutant.id]]
            if missing and not asked.matrix:
                start = time.monotonic()
                known = results.of[mutant.id].get("comparison", {}).get("sample")
                for name, verdict in judged(framework, mutant, [known] if known else covering, missing).items():
                    results.add(mutant.id, name, verdict)
                seconds = time.monotonic() - start
                print(
                    f"{number}/{len(chosen)} {mutant.id} {seconds:.0f} s {results.of[mutant.id]['check']['by'][:1]}",
                    flush=True,
                )
        if not asked.matrix:
            judge_unchanged(framework, [m for m, _ in chosen], results)
        print(matrix.text(framework, [m for m, _ in chosen], results.of, asked.verbose))
    return 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("--framework", choices=FRAMEWORKS)
    parser.add_argument("--count", type=int, default=150, help="how many mutants a framework (150)")
    parser.add_argument("--all", action="store_true", help="all mutants there are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--again", nargs="*", default=[], choices=JUDGES["torch"], metavar="JUDGE", help="judge again by these"
    )
    parser.add_argument("--judges", nargs="+", choices=JUDGES["torch"], metavar="JUDGE", help="these alone")
    parser.add_argument("--without", nargs="*", default=[], metavar="OP", help="leave these ops out")
    parser.add_argument("--matrix", action="store_true", help="print what is there, judge nothing")
    parser.add_argument("--verbose", action="store_true", help="print every mutant that survives or is named otherwise")
    return parser.parse_args()


class Results:
    """The verdicts, mutant → judge → verdict, in a file of a line each: what is there is not judged again."""

    def __init__(self, path: Path, again: list[str]) -> None:
        self.path, self.of = path, defaultdict[str, dict[str, Any]](dict)
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            found = json.loads(line)
            if found["judge"] not in again:
                self.of[found["id"]][found["judge"]] = found["verdict"]

    def add(self, id: str, judge: str, verdict: Any) -> None:
        """Remember a verdict, here and in the file."""
        self.of[id][judge] = verdict
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"id": id, "judge": judge, "verdict": verdict}) + "\n")


def mutants(framework: str) -> Iterator[Mutant]:
    """All mutants of a framework's ops; places where nothing would change are none."""
    for path in sorted((package(framework) / "ops").glob("[a-z]*.py")):
        source = Source(framework, path.stem)
        for name, operator in OPERATORS.items():
            seen = set()
            for edit in operator(source):
                at = site(edit)
                before, _, after = at.what.partition(" → ")
                if before == after or at in seen:
                    continue
                seen.add(at)
                key = hashlib.sha256(f"{at.line} {edit[0][0].col_offset} {at.what}".encode()).hexdigest()[:8]
                id = f"{framework}/{path.stem}/{name}/{key}"
                yield Mutant(id, path.stem, name, *at, expected(source, name, edit), source, edit)


def sampled(
    framework: str, count: int | None, seed: int, run: dict[str, dict[str, list[int]]], without: list[str]
) -> list[tuple[Mutant, list[str]]]:
    """As many mutants as asked for, equally many of each operator where there are so many, each with the samples that
    run its lines. A longer list begins with the shorter ones.
    """
    by_operator: dict[str, list[tuple[Mutant, list[str]]]] = defaultdict(list)
    for mutant in mutants(framework):
        at = range(mutant.line, mutant.last + 1)
        covering = [name for name, seen in run[mutant.op].items() if not set(at).isdisjoint(seen)]
        if covering and mutant.op not in without:
            by_operator[mutant.operator].append((mutant, covering))
    for operator, found in by_operator.items():
        random.Random(f"{seed} {operator}").shuffle(found)
    chosen = []
    for rank in range(max(map(len, by_operator.values()))):
        chosen += [found[rank] for found in by_operator.values() if rank < len(found)]
    return chosen[:count]


def lines(framework: str) -> dict[str, dict[str, list[int]]]:
    """Which lines each sample runs, measured once for a state of the ops' files."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((package(framework) / "ops").glob("*.py")))
    path = RESULTS / f"lines-{framework}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = child.call(_lines_run, framework, limits=LIMITS._replace(seconds=900))
        path.write_text(json.dumps(found), encoding="utf-8")
    made: dict[str, dict[str, list[int]]] = json.loads(path.read_text(encoding="utf-8"))
    return made


def judge_unchanged(framework: str, chosen: list[Mutant], results: Results) -> None:
    """Others' judges on the ops as they are, at the samples of the mutants: what these fail there is no fault."""
    for mutant in chosen:
        sample = results.of[mutant.id]["comparison"]["sample"]
        id = matrix.unchanged_id(mutant, sample)
        others = [name for name in JUDGES[framework] if name in ("gradcheck", "opcheck") and name not in results.of[id]]
        if others:
            folder = str(package(framework).parent)
            for name, verdict in _in_child(framework, mutant.op, [sample], others, folder).items():
                results.add(id, name, verdict)


def judged(framework: str, mutant: Mutant, covering: list[str], judges: list[str]) -> dict[str, Any]:
    """The verdicts of these judges on a mutant, each group in a child process that has the mutant's package."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        made, changed = Path(folder, package(framework).name), mutant.source.changed(mutant.edit)
        shutil.copytree(package(framework), made, ignore=shutil.ignore_patterns("__pycache__"))
        (made / "ops" / f"{mutant.op}.py").write_text(changed + IMPORTS[framework], encoding="utf-8")
        return _in_child(framework, mutant.op, covering, judges, folder)


def _in_child(framework: str, op: str, covering: list[str], judges: list[str], folder: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = child.call(_judge, framework, op, covering, judges, folder, limits=LIMITS)
        return found
    except child.Ended as ended:
        if len(judges) > 1:  # one of them met its end: each by itself
            each = [_in_child(framework, op, covering, [one], folder) for one in judges]
            return {name: verdict for found in each for name, verdict in found.items()}
        return {judges[0]: {"killed": True, "by": ["ended"], "first": str(ended), "sample": covering[0]}}


# What runs in the child. No ops package is imported before, so that it is the mutant's.


def _judge(framework: str, op: str, covering: list[str], judges: list[str], folder: str) -> Any:
    sys.path.insert(0, folder)
    return importlib.import_module("mutants.judges").judge(framework, op, covering, judges)


def _lines_run(framework: str) -> Any:
    return importlib.import_module("mutants.calls").lines_run(framework)


def warm(framework: str) -> None:
    """Import what every child needs, but nothing that has an op of ours in it."""
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"])
    # Mutants of one op compile the same programs but for a few.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(RESULTS / "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    needed = {"jax": ["jax.numpy", "jax.test_util"], "torch": ["torch._dynamo", "torch._functorch.aot_autograd"]}
    for name in ("residuals_lab.check", "mutants.judges", *needed[framework]):
        importlib.import_module(name)
    assert f"residuals_{framework}" not in sys.modules


if __name__ == "__main__":
    sys.exit(main())
