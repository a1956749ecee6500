"""Finding and drawing what a judge sees of hundreds of thousands of answers, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa

from tasks.evaluation.evidence import Evidence, Measured
from tasks.evaluation.summary import Summary
from tasks.judging.night import ALWAYS_JUDGED, find_candidates
from tasks.judging.sample import draw_sample
from tasks.scoring.checks import Found
from tasks.scoring.shares import CHECK_PREFIX, NEGATIVE

N = 300_000
ROUTES, LANGUAGES = ("search", "chat", None), ("en", None)


def measured() -> Measured:
    at = np.arange(N)
    negative = np.where(at % 1000 == 0, 1.0, np.nan)
    columns = {
        "interaction_id": pa.array([f"{one:032x}" for one in at]),
        "failed": pa.array(at % 100 == 1),
        "route": pa.array(ROUTES).take(pa.array(at % 3)),
        "language": pa.array(LANGUAGES).take(pa.array(at % 2)),
        NEGATIVE: pa.array(negative, mask=np.isnan(negative)),
        **{f"{CHECK_PREFIX}{name}": pa.array(np.full(N, Found.PASS, np.int8)) for name in ALWAYS_JUDGED},
    }
    calls = pa.table(columns)
    halves = pa.concat_tables([calls.slice(0, N // 3), calls.slice(N // 3)])
    answers = int((at % 100 != 1).sum())
    return Measured(
        evidence=Evidence(summary=Summary(n=N)),
        interaction_ids=calls["interaction_id"].combine_chunks(),
        quality=np.full(answers, 0.5),
        toxicity=np.zeros(answers),
        calls=halves,
    )


def test_a_call_takes_less_than_a_hundred_bytes_and_its_kind_is_right() -> None:
    night = measured()
    find_candidates(night)  # what is imported or compiled once is not counted
    tracemalloc.start()
    found = find_candidates(night)
    sample = draw_sample(found.ids, found.kinds, found.always, 200, seed=1)
    weights = sample.weigh()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / N < 100
    assert sample.chosen.sum() == found.always.sum() + 200 == N // 1000 + 200
    assert round(weights.sum()) == len(found.ids)
    assert len(found.kinds.names) == 6
    for at in (0, 1, 7, len(found.ids) - 1):
        number = int(found.ids[at].as_py(), 16)
        assert found.kinds.names[found.kinds.numbers[at]] == (ROUTES[number % 3], LANGUAGES[number % 2])
    drawn = np.bincount(found.kinds.numbers[sample.chosen & ~found.always])
    assert drawn.min() >= 33, "kinds of one size get the same share"
