"""What a graph holds, as memory tells it: storages that are alive after the forward, and gone once the graph is."""

import gc
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

import torch


class Freed(NamedTuple):
    """Storages that went with the graph."""

    all: set[int]
    late: set[int]  # those of them that stayed until the garbage collector ran: they are part of a reference cycle


def alive(storages: Mapping[int, Any], explained: Container[object]) -> set[int]:
    """The storages that somebody else holds too; garbage is none of them, unless it is explained."""
    found = {key for key, storage in storages.items() if _is_held(storage)}
    if all(key in explained for key in found):
        return found
    gc.collect()
    return {key for key in found if _is_held(storages[key])}


def freed(storages: Mapping[int, Any], among: Iterable[int]) -> Freed:
    """Those of some storages that nobody else holds any more; call it when nothing refers to the graph."""
    late = {key for key in among if _is_held(storages[key])}
    if late:
        gc.collect()
    kept = {key for key in late if _is_held(storages[key])}
    return Freed({*among} - kept, late - kept)


def _is_held(storage: Any) -> bool:
    return torch._C._storage_Use_Count(storage._cdata) > 1 and storage.nbytes() > 0
