"""Samples of a window that is cut into slices: each slice gives as much as it holds, so what they say is of all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.evaluation.summary import count_answered
from tasks.interactions.columns import SCHEMA
from tasks.scoring.check_rules import Rules
from tasks.scoring.checks import Found
from tasks.scoring.extra import EvaluationSpec, score_answers
from tasks.scoring.portions import Portion, draw_ids
from tasks.scoring.reading import values_of
from tasks.scoring.slices import LOOKED_AT, Around, look_at

SIZES, WRONG, SAMPLE, SEEDS = (2000, 100), (0.05, 0.6), 200, 20
TRUTH = sum(n * share for n, share in zip(SIZES, WRONG, strict=True)) / sum(SIZES)
NOISE = 3.5 * float(np.sqrt(TRUTH * (1 - TRUTH) / SAMPLE / SEEDS))
DIGEST = "r"


def slices_of(seed: int) -> Iterator[pa.Table]:
    """Yield two slices of answers, a long good one and a short bad one."""
    names = dict.fromkeys(("interaction_id", *LOOKED_AT))
    schema = pa.schema([pa.field(name, SCHEMA.field(name).type) for name in names])
    for part, (n, share) in enumerate(zip(SIZES, WRONG, strict=True)):
        rows = [
            {
                "interaction_id": f"{seed}-{part}-{at}",
                "release_digest": DIGEST,
                "status": 200,
                "input_text": "Where is it?",
                "output_text": f"{seed} {part} {at} " + ("bad bob@example.com" if at < share * n else "fine"),
            }
            for at in range(n)
        ]
        yield pa.Table.from_pylist(rows, schema=schema)


def moderate(_path: str, body: dict[str, Any]) -> dict[str, Any]:
    found = ["bad" in text for text in body["input"]]
    return {"results": [{"flagged": bad, "category_scores": {"hate": 0.9 if bad else 0.1}} for bad in found]}


def test_what_is_sampled_of_unequal_slices_is_what_the_window_is(
    model_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "portion_scorer.py").write_text("def wrong(outputs):\n    return float('bad' in outputs)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("tasks.scoring.slices.SLOW_SAMPLE", SAMPLE)
    model_server.reply = moderate
    endpoint = {"url": model_server.url, "model": "m"}
    plan = EvaluationSpec.model_validate(
        {
            "toxicity": {"source": "endpoint", "endpoint": endpoint, "sample": SAMPLE, "batch_size": 200},
            "scorers": [{"name": "wrong", "path": "portion_scorer:wrong", "sample": SAMPLE}],
        }
    )
    means: dict[str, list[float]] = {"toxicity": [], "scorer": [], "slow check": []}
    for seed in range(SEEDS):
        parts = list(slices_of(seed))
        answered = count_answered(pa.concat_tables(parts))
        known: dict[str, list[float]] = {name: [] for name in means}
        for number, part in enumerate(parts):
            portion = Around(answered=answered, seed=f"slice {number}").portion(DIGEST)
            looked = look_at(plan, Rules(), part, Around(), portion)
            known["toxicity"] += [value >= 0.5 for value in looked["toxicity"].drop_null().to_pylist()]
            states = looked["check_pii"].to_pylist()
            known["slow check"] += [state == Found.FAIL for state in states if state in {Found.PASS, Found.FAIL}]
            scores = values_of(score_answers(plan.scorers, part, None, portion)["wrong"])
            known["scorer"] += scores[~np.isnan(scores)].tolist()
        for name, values in known.items():
            assert abs(len(values) - SAMPLE) <= 1, name
            means[name].append(float(np.mean(values)))
    off = {name: abs(float(np.mean(found)) - TRUTH) for name, found in means.items()}
    assert {name: value for name, value in off.items() if value > NOISE} == {}


def test_small_slices_are_neither_favoured_nor_passed_over() -> None:
    portions = [Portion(24_000, f"slice {at}") for at in range(240)]
    drawn = [portion.share_out(60, 100) for portion in portions]
    assert set(drawn) == {0, 1}
    assert 40 < sum(size or 0 for size in drawn) < 80
    assert drawn == [portion.share_out(60, 100) for portion in portions], "the same slice draws the same again"


def test_a_sample_that_is_all_there_is_or_a_slice_that_is_the_window_takes_everything() -> None:
    assert Portion(100, "x").share_out(None, 40) is None
    assert Portion(100, "x").share_out(500, 40) >= 40  # type: ignore[operator]
    assert Portion(100, "x").share_out(30, 100) == Portion().share_out(30, 7) == 30
    assert Portion(100, "x").share_out(30, 0) == 0
    assert not draw_ids(["a", "b"], 0).any()


def test_calls_that_failed_or_were_the_callers_error_are_no_answers() -> None:
    rows = [
        ("a", 200, None),
        ("a", 500, None),
        ("b", 200, "timeout"),
        ("a", 400, None),
        (None, 200, None),
        ("b", 200, None),
    ]
    fields = [pa.field(name, SCHEMA.field(name).type) for name in ("release_digest", "status", "error_type")]
    table = pa.Table.from_arrays(
        [pa.array(column, one.type) for column, one in zip(zip(*rows, strict=True), fields, strict=True)],
        schema=pa.schema(fields),
    )
    assert count_answered(table) == {"a": 1, "b": 1}
