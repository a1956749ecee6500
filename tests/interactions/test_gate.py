from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.interactions.counts import SourceCount
from tasks.interactions.gate import WATCHED, Before, GatePolicy, check, measure
from tasks.interactions.ingest import Job, ingest_file
from tasks.interactions.schema import Interaction, as_table
from tasks.stores.lake import Lake

NOW = datetime(2024, 3, 5, tzinfo=UTC)
START = datetime(2024, 3, 1, tzinfo=UTC)
SECRET = "what nobody may read"  # noqa: S105 - no password
POLICY = GatePolicy(known_models=("gpt-4o",))


def calls(count: int = 100, **values: Any) -> list[Interaction]:
    usual: dict[str, Any] = {"model": "gpt-4o", "input_tokens": 10, "output_tokens": 5, "input_text": SECRET}
    return [
        Interaction(
            interaction_id=f"i{n}", application="a", status=200, time=START + timedelta(seconds=n), **usual | values
        )
        for n in range(count)
    ]


def judge(rows: list[Interaction], rejected: int = 0, before: Before | None = None) -> tuple[str, ...]:
    found = check(measure(as_table(rows), rejected, POLICY, before, NOW), POLICY)
    assert found.success == (not found.failures)
    assert SECRET not in found.page
    return found.failures


def test_a_usual_batch_passes() -> None:
    assert judge(calls()) == ()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "gpt-5-typo"}, "unknown_models_share 1 > limit 0.05"),
        ({"cached_input_tokens": 8, "cache_write_tokens": 3}, "wrong_tokens_share 1 > limit 0.01"),
        ({"reasoning_tokens": 6}, "wrong_tokens_share 1 > limit 0.01"),
        ({"audio_input_tokens": 4, "cached_audio_input_tokens": 4, "cached_input_tokens": 3}, "wrong_tokens_share 1"),
    ],
)
def test_what_cannot_be_is_named_with_its_number(values: dict[str, Any], said: str) -> None:
    (failure,) = judge(calls(**values))
    assert failure.startswith(said)


def test_order_clock_and_rejects_are_looked_at() -> None:
    assert judge(calls()[::-1]) == ("backwards_share 1 > limit 0.6",)
    late = [call.model_copy(update={"time": NOW + timedelta(days=2)}) for call in calls(10)]
    assert judge(calls(90) + late) == ("ahead_share 0.1 > limit 0.01",)
    assert judge(calls(), rejected=40) == ("rejected_share 0.2857 > limit 0.2",)


def test_a_column_that_fell_silent_is_told_against_the_days_before() -> None:
    before = Before(500, dict.fromkeys(WATCHED, 1.0) | {"model": 0.0, "input_tokens": 0.0, "output_tokens": 0.0})
    assert judge(calls(), before=before) == ()
    said = ("most_null_change 1 > limit 0.3", "output_tokens_null_change 1 > limit 0.3")
    assert judge(calls(output_tokens=None), before=before) == said
    few = Before(5, before.null_share)
    assert judge(calls(output_tokens=None), before=few) == ()


def write(path: Path, rows: list[Interaction], **changes: Any) -> None:
    with path.open("a") as handle:
        for row in rows:
            line = row.model_dump(mode="json", exclude_none=True) | changes
            handle.write(json.dumps(line) + "\n")


def test_the_days_before_come_from_the_lake_and_a_page_says_what_failed(tmp_path: Path) -> None:
    lake, log = Lake(tmp_path / "lake"), tmp_path / "a.jsonl"
    job = Job(gate=GatePolicy(), pages=tmp_path / "data-docs")
    write(log, calls(300))
    assert ingest_file(lake, log, NOW, job=job) == SourceCount(log, 300, 300)
    later = [
        call.model_copy(update={"time": call.time + timedelta(days=1), "interaction_id": f"j{n}", "input_tokens": None})
        for n, call in enumerate(calls(120))
    ]
    write(log, later)
    done = ingest_file(lake, log, NOW, job=job)
    assert (done.read, done.stored, done.rejected, done.set_aside) == (120, 0, 120, 120)
    ((name, reasons),) = done.batches
    assert reasons == ("most_null_change 1 > limit 0.3", "input_tokens_null_change 1 > limit 0.3")
    page = (tmp_path / "data-docs" / f"{name}.html").read_text()
    assert "input_tokens_null_change" in page
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "greater than or equal to 0.0 and less than or equal to 0.3 . 1 " in words  # the limits, and what was seen
    assert SECRET not in page
    (held,) = lake.set_aside()
    assert (held.aside_id, held.rows, held.report, held.start_byte > 0) == (name, 120, f"{name}.html", True)
    assert ingest_file(lake, log, NOW, job=job).read == 0
    assert lake.release_set_aside(name).stored == 120
    assert lake.window("a", START, NOW, ["interaction_id"]).num_rows == 420
