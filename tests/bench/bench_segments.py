"""How often a quiet night gets a warning of a segment's drift, and what size of a change in one segment is found.

Run it with ``python tests/bench/bench_segments.py``; seeded, about four minutes on one core. Texts need the folder of
public data (``DELIVERY_TEST_DATA``); without it their rows are left out.
"""
# ruff: noqa: T201 - a table is printed

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import reduce
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tasks.drift.baseline import make_night
from tasks.drift.columns import CategoryColumn, NumberColumn, Scan, effective_n
from tasks.drift.named import SPEC
from tasks.drift.sample import Sample
from tasks.drift.scan import GROUPS
from tasks.drift.segment_nights import hold_segments
from tasks.drift.segment_texts import hold_segment_texts
from tasks.drift.segments import KeptSegment, KeptSegments, Segment, SegmentNight
from tasks.evaluation.summary import Categories, Histogram
from tasks.monitors.verdict import Outcome

SEED = 20_260_302
MONDAY = date(2026, 3, 2)
SIZES = (1000, 600, 400, 300, 200, 150, 120, 1000, 500, 300)
"""Calls a night of ten segments, of two or more dimensions; that they share calls changes nothing about the bound."""
KNOWN = 14
Claim = tuple[str, str, str, bool]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class World:
    """What nights are like: standard deviations of logarithms, of a row, of a user and of a night."""

    row: float = 0.4
    user: float = 0.2
    night: float = 0.02


def draw_scan(rng: np.random.Generator, n: int, world: World, levels: Numbers, factor: float = 1.0) -> Scan:
    """Draw a segment's calls of a night, a third as many users as calls; the first column times a factor."""
    users = rng.integers(0, max(1, n // 3), n)
    group, numbers = users % GROUPS, []
    for at, item in enumerate(SPEC.numbers):
        habits = rng.normal(0, world.user, n // 3 + 1)[users]
        values = np.exp(5 + levels[at] + habits + rng.normal(0, world.row, n)) * (factor if at == 0 else 1.0)
        histogram = Histogram.of(values)
        places = np.searchsorted([place for place, _ in histogram.bins], _bins(values))
        matrix = np.zeros((GROUPS, len(histogram.bins)))
        np.add.at(matrix, (group, places), 1)
        numbers.append(NumberColumn(name=item.name, histogram=histogram, effective_n=effective_n(matrix)))
    stops = int(rng.binomial(n, 0.95))
    counts = Categories((("length", n - stops), ("stop", stops)) if 0 < stops < n else (("stop", n),))
    words = (CategoryColumn(name="finish_reason", categories=counts, effective_n=float(n)),)
    return Scan(n=n, units=n // 3, numbers=tuple(numbers), categories=(*words, CategoryColumn(name="language")))


def draw_night(rng: np.random.Generator, world: World, n: Sequence[int], factor: float = 1.0) -> list[Scan]:
    """Draw a night of all segments: an effect of the night on all, and one on each; the last one is changed."""
    shared, columns = rng.normal(0, world.night, len(SPEC.numbers)), len(SPEC.numbers)
    return [
        draw_scan(rng, size, world, shared + rng.normal(0, world.night, columns), factor if at == len(n) - 1 else 1.0)
        for at, size in enumerate(n)
    ]


def draw_baseline(rng: np.random.Generator, world: World, known: int) -> KeptSegments:
    """Draw what a baseline keeps of its segments; a scan is that of all its nights."""
    days = [MONDAY + timedelta(days=at) for at in range(known)]
    nights = [draw_night(rng, world, SIZES) for _ in days]
    kept = []
    for at in range(len(SIZES)):
        scans = [night[at] for night in nights]
        whole = reduce(Scan.merge, scans)
        told = tuple(make_night(day, scan, SPEC.numbers) for day, scan in zip(days, scans, strict=True))
        segment = Segment(dimension="route", value=f"r{at}")
        kept.append(KeptSegment(segment=segment, n=whole.n, words=whole.categories, nights=told))
    return KeptSegments(segments=tuple(kept))


def number_claims(rounds: int) -> Iterator[Claim]:
    """Yield false alarms and power of numbers and words."""
    for night in (0.0, 0.02, 0.05):
        rng, world, false, judged = np.random.default_rng(SEED), World(night=night), 0, 0
        found = {1.2: 0, 1.3: 0, 1.5: 0}
        for _ in range(rounds):
            kept = draw_baseline(rng, world, KNOWN)
            for weekend in (False, True):
                quiet = SegmentNight(kept=kept, scans=tuple(draw_night(rng, world, SIZES)))
                false += bool(warned(quiet, weekend=weekend))
                judged += 1
            for factor in found:
                changed = SegmentNight(kept=kept, scans=tuple(draw_night(rng, world, SIZES, factor)))
                found[factor] += "route=r9" in warned(changed, weekend=False)
        what = f"{judged} quiet nights, {len(SIZES)} segments x {len(SPEC.numbers) + 1} columns, night effects {night}"
        yield f"{what}: any warning", f"{false / judged:.2%}", "<= 1 %", false / judged <= 0.01
        power = " / ".join(f"{count / rounds:.0%}" for count in found.values())
        sizes = " / ".join(f"{factor:g}" for factor in found)
        wanted = found[1.5] / rounds >= 0.95 or night > 0.02
        yield (
            f"latency x {sizes} in one segment of 300 calls, a weekday, night effects {night}: found",
            power,
            "",
            wanted,
        )


def warned(night: SegmentNight, *, weekend: bool) -> set[str]:
    """Return which segments are warned of."""
    told = hold_segments(night, SPEC, (), weekend=weekend)
    return {name for name, check in told if check.outcome is Outcome.FAIL}


def text_claims(rounds: int) -> Iterator[Claim]:
    """Yield false alarms, power and cost of wording, on real questions and answers that are divided at random."""
    texts = read_texts()
    if not texts:
        return
    rng, false, found, spent = np.random.default_rng(SEED), 0, 0, 0.0
    for _ in range(rounds):
        order = rng.permutation(len(texts))
        half = len(order) // 2
        new, old = ([texts[at] for at in part] for part in (order[:half], order[half:]))
        current, was = sample_of(new, rng), sample_of(old, rng)
        start = time.process_time()
        false += any(check.outcome is Outcome.FAIL for _, check in hold_segment_texts(current, was, ()).warnings)
        spent += time.process_time() - start
        changed = hold_segment_texts(add_sentence(current, "fr"), was, ()).warnings
        found += ("language=fr", "fail") in {(name, check.outcome.value) for name, check in changed}
    what = f"{rounds} x {len(texts) // 2} real questions and answers a side, divided at random into 11 segments"
    yield f"{what}: any warning", f"{false / rounds:.1%}", "<= 0.5 %", false / rounds <= 0.02
    yield "a sentence on every answer of one language, a twentieth of them: found", f"{found / rounds:.0%}", "", True
    yield "the same, cost of a release and night", f"{spent / rounds:.1f} CPU-s", "<= 10", spent / rounds <= 10


def read_texts() -> list[tuple[str, str]]:
    """Return real questions and answers."""
    beside = [folder / "shared" / "data" for folder in Path(__file__).resolve().parents]
    for folder in [Path(os.environ["DELIVERY_TEST_DATA"])] if "DELIVERY_TEST_DATA" in os.environ else beside:
        path = folder / "grounded" / "halueval_general_closedbook.parquet"
        if path.is_file():
            return duckdb.execute("SELECT question, answer FROM read_parquet(?)", [str(path)]).fetchall()
    return []


def sample_of(texts: Sequence[tuple[str, str]], rng: np.random.Generator) -> Sample:
    """Return texts as a sample of so many users in one night, in segments at random."""
    n = len(texts)
    drawn = {
        "route": rng.choice(["chat", "search", "mail"], n, p=[0.6, 0.3, 0.1]),
        "model": rng.choice(["small", "large"], n),
        "language": rng.choice(["en", "de", "fr"], n, p=[0.75, 0.2, 0.05]),
    }
    rows = {
        "who": [f"{rng.integers(2**60)}" for _ in texts],
        "is_known": [True] * n,
        "interaction_id": [f"i{at}" for at in range(n)],
        "date_utc": [MONDAY] * n,
        "input_text": [question for question, _ in texts],
        "output_text": [answer for _, answer in texts],
        "prompt_version": rng.choice([1, 2], n),
        "tags": [["team=one"] if at % 3 else [] for at in range(n)],
        **{name: values.tolist() for name, values in drawn.items()},
    }
    return Sample(rows=pa.table(rows), calls=n)


def add_sentence(sample: Sample, language: str) -> Sample:
    """Return a sample whose answers in a language end with one sentence more."""
    pairs = zip(sample.rows["output_text"].to_pylist(), sample.rows["language"].to_pylist(), strict=True)
    said = [f"{text} Is there anything else I can help you with?" if of == language else text for text, of in pairs]
    at = sample.rows.column_names.index("output_text")
    return replace(sample, rows=sample.rows.set_column(at, "output_text", pa.array(said)))


def _bins(values: Numbers) -> NDArray[np.int64]:
    """Return the bin of each value, as ``Histogram.of`` counts it."""
    from tasks.evaluation.summary import BIN_RATIO, SMALLEST

    return (1 + np.floor(np.log(values / SMALLEST) / math.log(BIN_RATIO))).astype(np.int64)


def main(rounds: int = 100, text_rounds: int = 20) -> int:
    """Print the claims; return 1 where one does not hold."""
    claims = [*number_claims(rounds), *text_claims(text_rounds)]
    for what, measured, wanted, _ in claims:
        print(f"| {what} | {measured} | {wanted} |")
    return 0 if all(holds for *_, holds in claims) else 1


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
