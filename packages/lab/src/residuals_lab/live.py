"""Placeholder until the lanes are merged."""

from residuals_lab.trace import Trace


def peak(trace: Trace) -> int:
    return trace.saved_bytes
