"""Audit every entry of a literal list, each in a process of its own, and say how many the audit counts right.

    python sweep/run.py torch_models torch_programs
    python sweep/run.py torch_programs --only "double where" --again

`README.md` says what a list is. It knows no framework: only the list that it loads does.
"""

import argparse
import importlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GIB = 2**30
PATIENCE = 10  # how many seconds an entry may wait for one of the processor's
# Verdicts, from the best to the worst, and how the totals call them.
VERDICTS = {
    "exact": "exact",
    "unsure": "exact, but said not to be",
    "said": "not exact, and said so",
    "refused": "refused; a real run is exact",
    "wrong": "wrong without a word",
    "stuck": "refused or not exact, and a real run does not help",
    "broken": "not counted: the entry itself failed",
}


def drawn(name: str) -> list[str]:
    """The names of a list's entries that its seed draws, in the order in which it draws them."""
    found = importlib.import_module(name)
    return random.Random(found.SEED).sample(sorted(found.ENTRIES), found.DRAWN)


def judged(counted: int, audits: dict[str, dict[str, Any]]) -> str:
    """The verdict on one entry: the worst of those on its audits, where the real run has to be exact."""
    is_real_right = audits["concrete"]["bytes"] == counted
    found = []
    for way, said in audits.items():
        if said["refused"]:
            helps = is_real_right and way != "concrete" and "--concrete" in said["refused"]
            found.append("refused" if helps else "stuck")
        elif said["bytes"] == counted:
            found.append("unsure" if said["unsure"] else "exact")
        elif said["unsure"]:
            found.append("said" if is_real_right and way != "concrete" else "stuck")
        else:
            found.append("wrong")
    return max(found, key=[*VERDICTS].index)


def child(name: str, entry: str, seconds: int, gib: float, answer: Path) -> None:
    """Measure one entry in this process, which is the entry's own, and write down what comes out."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * GIB), int(gib * GIB)))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    os.nice(5)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # an entry may print what it likes
        os.dup2(nowhere, stream)
    try:
        found = importlib.import_module(name).measure(entry)
    except BaseException as problem:  # of any kind: the entry is not ours
        *_, last = traceback.extract_tb(problem.__traceback__)
        found = {"problem": f"{type(problem).__name__} at {Path(last.filename).name}:{last.lineno}: {problem}"[:300]}
    answer.write_text(json.dumps(found))


def measured(name: str, entry: str, seconds: int, gib: float) -> dict[str, Any]:
    """What a process of its own makes of one entry, within these limits.

    It is forked from this one, which has imported the list and so the framework, and has done nothing with it.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        pid = os.fork()
        if not pid:
            try:
                child(name, entry, seconds, gib, answer)
            finally:
                os._exit(0)
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() - started > PATIENCE * seconds:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.05)
        done = answer.read_text() if answer.exists() else json.dumps({"problem": f"takes longer than {seconds} s"})
        row: dict[str, Any] = json.loads(done)
    verdict = "broken" if "problem" in row else judged(row["counted"], row["audits"])
    return {"list": name, "entry": entry, "verdict": verdict, "seconds": round(time.monotonic() - started, 1), **row}


def line(row: dict[str, Any]) -> str:
    """One entry for people: its verdict, bytes counted, and what differs from them."""
    if "problem" in row:
        return f"{row['verdict']:8} {'':>12}  {row['entry']}: {row['problem']}"
    differ = []
    for way, said in row["audits"].items():
        if said["refused"]:
            differ.append(f"{way}: {said['refused']}")
        elif said["bytes"] != row["counted"]:
            differ.append(f"{way} {said['bytes'] - row['counted']:+,}")
        if said["unsure"]:
            differ.append(f"{way} unsure of {', '.join(said['unsure'])}")
    return f"{row['verdict']:8} {row['counted']:>12,}  {row['entry']}{': ' if differ else ''}{'; '.join(differ)}"


def totals(rows: list[dict[str, Any]]) -> str:
    """How many entries have each verdict, with the bytes counted in them."""
    text = []
    for verdict, words in VERDICTS.items():
        found = [row for row in rows if row["verdict"] == verdict]
        nbytes = sum(row.get("counted", 0) for row in found)
        text.append(f"{len(found):5} {100 * len(found) / max(len(rows), 1):6.1f} % {nbytes:>14,} bytes  {words}")
    return "\n".join([*text, f"{len(rows):5} entries"])


def kept(results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The results of earlier runs; of several of one entry, the last."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {(row["list"], row["entry"]): row for row in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="+", metavar="LIST", help="a module in this folder, such as torch_models")
    parser.add_argument("--only", action="append", help="this entry, drawn or not; may be given several times")
    parser.add_argument("--again", action="store_true", help="measure what has been measured before too")
    parser.add_argument("--table", action="store_true", help="measure nothing: print what is there")
    parser.add_argument("--seconds", type=int, default=60, help="the limit of its time on the processor (default: 60)")
    parser.add_argument("--memory", type=float, default=3, help="the limit of its memory, in GiB (default: 3)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="a folder (default: sweep/results)")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    options.results.mkdir(exist_ok=True)
    every = []
    for name in options.lists:
        results = options.results / f"{name}.jsonl"
        before = {} if options.again else kept(results)
        for entry in options.only or drawn(name):
            row = before.get((name, entry))
            if row is None and not options.table:
                row = measured(name, entry, options.seconds, options.memory)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if row:
                every.append(row)
                print(line(row), flush=True)
    print(totals(every))


if __name__ == "__main__":
    main()
