"""A bench for machines. The page docs/json.md says what each key means."""

import platform
from typing import Any

from residuals_lab.bench import Bench, Entry, Interval, Way
from residuals_lab.trace.document import SCHEMA_VERSION


def document(result: Bench) -> dict[str, Any]:
    """All that was measured, and where."""
    options = result.options
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "python": platform.python_version(),
        "device": options.device,
        "threads": result.threads,
        "dtype": options.dtype,
        "size": options.size,
        "is_compiled": options.is_compiled,
        "is_fused": options.is_fused,
        "rounds": options.rounds,
        "seed": options.seed,
        "entries": [_entry(entry) for entry in result.entries],
        "not_run": list(result.not_run),
    }


def processor() -> str:
    """The name of the processor, as the system has it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return next(iter(names), platform.processor() or "unknown processor")


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "framework": entry.framework,
        "version": entry.title,
        "shapes": {name: list(shape) for name, shape in entry.shapes.items()},
        "first_array_bytes": entry.first_array_bytes,
        "is_quiet": entry.is_quiet,
        "noise": {phase: _interval(i) for phase, i in entry.noise.items()},
        "floor_seconds": entry.floor_seconds,
        "floor_is": entry.floor_is,
        "ways": [_way(way) for way in entry.ways],
    }


def _way(way: Way) -> dict[str, Any]:
    return {
        "name": way.name,
        "seconds": way.seconds,
        "ratio": way.ratio and {phase: _interval(i) for phase, i in way.ratio.items()},
        "peak_bytes": way.peak_bytes,
        "saved_bytes": way.saved_bytes,
        "new_bytes": way.new_bytes,
    }


def _interval(found: Interval) -> dict[str, float]:
    return found._asdict()
