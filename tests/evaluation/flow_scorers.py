"""Scorers that go wrong, each in its way, and one that does not."""

from __future__ import annotations

import time


def raises(*, outputs: str) -> float:
    """Raise."""
    raise RuntimeError(outputs)


def hangs(*, outputs: str) -> float:
    """Take longer than is allowed."""
    time.sleep(0.2)
    return float(len(outputs))


def nan(*, outputs: str) -> float:
    """Give no number."""
    del outputs
    return float("nan")


def fine(*, outputs: str) -> float:
    """Find every answer good."""
    return float(bool(outputs))
