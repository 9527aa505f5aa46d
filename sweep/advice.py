"""Take the advice that the audit gives on models of other people, and compare what it said with what was freed.

    python sweep/advice.py                    # all of the list that have no result yet
    python sweep/advice.py --only "nanogpt"   # one, once more
    python sweep/advice.py --table            # what a seed draws of the results, and the models with an obvious saving

The models are in `advice_models.py` and `advice_models_jax.py`, lists that were written before any was audited. Each is
audited in a process of its own, with `is_proved`, on numbers. A result is a line of `sweep/results/advice.jsonl`.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "advice.jsonl"
SEED, DRAWN = 2026, 30


def lists():
    """Name → framework of all models."""
    import ast

    found = {}
    for file, framework in (("advice_models.py", "torch"), ("advice_models_jax.py", "jax")):
        tree = ast.parse((HERE / file).read_text())
        (table,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "MODELS")
        found |= {ast.literal_eval(key): framework for key in table.keys}
    return found


def child(name):
    """Audit one model, take its advice, and print what it said and what was freed."""
    import warnings

    warnings.simplefilter("ignore")
    sys.path.insert(0, str(HERE))
    if lists()[name] == "torch":
        import advice_models
        import torch

        torch.manual_seed(0)
        fn, args = advice_models.MODELS[name]()
    else:
        import advice_models_jax

        fn, args = advice_models_jax.MODELS[name]()
    from residuals_lab.audit import audit

    is_concrete = lists()[name] == "torch"
    found = audit(fn, *args, is_proved=True, is_concrete=is_concrete)
    proof = found.proof
    print(
        json.dumps(
            {
                "model": name,
                "version": found.framework,
                "new_bytes": found.new_bytes,
                "said": proof.said,
                "freed": proof.freed,
                "why": proof.why,
                "error": None if proof.error is None else float(proof.error),
                "allowed": proof.allowed,
                "advice": [
                    {
                        "what": one.advice.what,
                        "op": one.advice.op,
                        "options": one.advice.options,
                        "line": one.advice.line,
                        "said": one.advice.freed,
                        "freed": one.freed,
                        "why": one.why,
                    }
                    for one in proof.taken
                ],
            }
        )
    )


def results():
    """Model → its last result."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {found["model"]: found for found in map(json.loads, lines)}


def run(names, limit):
    """Audit these models, one after the other."""
    RESULTS.parent.mkdir(exist_ok=True)
    for name in names:
        begin = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--child", name], capture_output=True, text=True, timeout=limit
            )
            last = done.stdout.strip().splitlines()[-1:]
            error = done.stderr.strip().splitlines()[-1:]
            found = json.loads(last[0]) if last and not done.returncode else {"model": name, "failed": error}
        except subprocess.TimeoutExpired:
            found = {"model": name, "failed": [f"more than {limit} s"]}
        with RESULTS.open("a") as file:
            file.write(json.dumps(found) + "\n")
        said = found.get("failed") or [(a["op"], a["said"], a["freed"], a["why"]) for a in found["advice"]]
        print(f"{name}: {time.perf_counter() - begin:.0f} s {said}", flush=True)


def table():
    """Print what the seed draws, what is false in all, and the models that have an obvious saving and no advice."""
    import ast

    found = results()
    pieces = [(name, i, a) for name in sorted(found) for i, a in enumerate(found[name].get("advice", ()))]
    proved = [p for p in pieces if p[2]["freed"] is not None]
    print(f"{len(found)} models, {len(pieces)} pieces of advice, {len(proved)} of them taken")
    drawn = random.Random(SEED).sample(pieces, min(DRAWN, len(pieces)))
    print("\n| model | instead of | op | said | freed | off by |\n|---|---|---|---|---|---|")
    for name, _, a in drawn:
        off = "–" if a["freed"] is None else f"{abs(a['freed'] - a['said']) / a['said']:.1%}"
        op = a["op"] + (f"({a['options']})" if a["options"] else "")
        freed = a["why"] if a["freed"] is None else f"{a['freed']:,}"
        print(f"| {name} | {a['what']} | {op} | {a['said']:,} | {freed} | {off} |")
    print("\nFalse, or not taken, in all:")
    for name, _, a in pieces:
        if a["freed"] is None or abs(a["freed"] - a["said"]) > 0.05 * a["said"]:
            print(f"- {name}: {a['what']}, {a['op']} at {a['line']}: said {a['said']:,}, freed {a['freed']} {a['why']}")
    print("\nOther numbers, or failed:")
    for name, one in found.items():
        if one.get("failed") or (one["error"] is not None and one["error"] > one["allowed"]):
            print(f"- {name}: {one.get('failed') or one['error']}")
    tree = ast.parse((HERE / "advice_models.py").read_text())
    (obvious,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "OBVIOUS")
    without = [name for name in ast.literal_eval(obvious) if not found.get(name, {}).get("advice")]
    print(f"\nWith an obvious saving and without advice: {', '.join(without) or 'none'}")


def main():
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="this model, once more")
    parser.add_argument("--limit", type=int, default=300, help="seconds for a model")
    parser.add_argument("--table", action="store_true", help="print what the results say")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child)
    elif given.table:
        table()
    else:
        run(given.only or [name for name in lists() if name not in results()], given.limit)


if __name__ == "__main__":
    main()
