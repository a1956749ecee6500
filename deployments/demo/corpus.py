"""The corpus of the demo: 500 questions with their passages and right answers; see CORPUS.md."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("corpus.csv.gz")


@dataclass(frozen=True, slots=True)
class Row:
    """One question, the passage that answers it, and the right answer."""

    id: str
    question: str
    context: str
    answer: str


@cache
def corpus() -> tuple[Row, ...]:
    """Return the bundled corpus; every question stands in it once."""
    with gzip.open(_FILE, "rt", encoding="utf-8", newline="") as file:
        return tuple(Row(**fields) for fields in csv.DictReader(file))
