"""The lab in one place, for programs: `from residuals_lab import api`. Nothing heavy is imported before it is used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residuals_lab.audit import audit, frozen, parameter
    from residuals_lab.check import check
    from residuals_lab.compare import compare

__all__ = ["audit", "check", "compare", "frozen", "parameter"]
_ROOMS = {"audit": "audit", "frozen": "audit", "parameter": "audit", "check": "check", "compare": "compare"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"residuals_lab.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__]
