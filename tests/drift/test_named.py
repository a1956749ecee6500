"""Named baselines: kept once, held against, and an own outcome where they are of other columns."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from flow_stage import DAY, START

from tasks.drift import steps as baseline_steps
from tasks.drift.baseline import About, StoredBaseline, make_baseline
from tasks.drift.columns import Scan
from tasks.drift.named import (
    BASELINES,
    SPEC,
    answered_calls,
    baseline_row,
    hold_against,
    latest_baseline,
    make_tonight,
    next_version,
    try_alarms,
)
from tasks.drift.nights import Night
from tasks.drift.scan import scan_relation
from tasks.errors import InputError
from tasks.evaluation.window import Window
from tasks.interactions.schema import Interaction, as_table, rejected_table
from tasks.monitors.verdict import Outcome
from tasks.settings import Settings
from tasks.stores.lake import Lake

NIGHTS, EACH = 14, 400


def calls_of(night: int, source: np.random.Generator, *, slower: float = 1.0) -> list[Interaction]:
    day = START + night * DAY
    return [
        Interaction(
            interaction_id=f"{night}-{at}",
            application="faq",
            release_digest="d" * 64,
            time=day + timedelta(minutes=at),
            unit=f"u{source.integers(300)}",
            unit_kind="user",
            input_text="q" * int(source.integers(20, 60)),
            output_text="a" * int(source.integers(50, 90)),
            input_tokens=int(source.integers(5, 20)),
            output_tokens=int(source.integers(20, 40)),
            latency_ms=float(source.lognormal(5, 0.4)) * slower,
            status=200,
            finish_reason="stop",
        )
        for at in range(EACH)
    ]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Return two ordinary weeks, an ordinary night, and a night that is slower by half."""
    lake, source = Lake(tmp_path_factory.mktemp("named") / "lake"), np.random.default_rng(5)
    calls = [call for night in range(NIGHTS + 1) for call in calls_of(night, source)]
    calls += calls_of(NIGHTS + 1, source, slower=1.5)
    rejected = rejected_table("none", [], START)
    lake.append("all", expected=0, offset=1, interactions=as_table(calls), rejected=rejected)
    return lake


@pytest.fixture(scope="module")
def baseline(lake: Lake) -> StoredBaseline:
    end = START + NIGHTS * DAY
    about = About(name="autumn", version=1, application="faq", start=START, end=end)
    with lake.query(START, end, "faq") as connection:
        return make_baseline(answered_calls(connection, "d" * 64), SPEC, about)


def night_of(lake: Lake, night: int) -> tuple[Scan, Night]:
    start = START + night * DAY
    with lake.query(start, start + DAY, "faq") as connection:
        scan = scan_relation(answered_calls(connection, "d" * 64), SPEC)
    return scan, make_tonight(start.date(), scan)


def test_an_ordinary_night_passes_and_a_slower_one_fails_the_first_night(lake: Lake, baseline: StoredBaseline) -> None:
    quiet = hold_against(baseline, *night_of(lake, NIGHTS), (), "d" * 64).checks
    assert {check.outcome for check in quiet} == {Outcome.PASS}
    slow = hold_against(baseline, *night_of(lake, NIGHTS + 1), (), "d" * 64).checks
    assert slow[0].outcome is Outcome.FAIL
    assert slow[0].statement.startswith("drift: latency_ms ")
    assert {check.monitor for check in slow} == {"drift"}


def test_a_baseline_of_other_columns_is_an_error_and_nothing_is_compared(lake: Lake, baseline: StoredBaseline) -> None:
    with lake.query(START, START + DAY, "faq") as connection:
        relation = answered_calls(connection, None)
        scan = scan_relation(relation, replace(SPEC, numbers=SPEC.numbers[:4]))
    (only,) = hold_against(baseline, scan, None, (), "d" * 64).checks
    assert only.outcome is Outcome.ERROR
    assert only.statement.startswith("drift: baseline autumn v1: the window has no answer_chars; make it anew")


def test_the_same_content_is_the_same_version_and_other_content_the_next(baseline: StoredBaseline) -> None:
    assert next_version(baseline, None) == baseline
    assert next_version(baseline, baseline) == baseline
    other = replace(baseline, scan=replace(baseline.scan, n=baseline.scan.n + 1))
    second = next_version(other, baseline)
    assert (second.about.version, second.salt) == (2, "autumn v2")
    assert next_version(other, second) == second


def test_what_was_changed_after_it_was_kept_is_refused(baseline: StoredBaseline) -> None:
    row = baseline_row(baseline, START)
    assert latest_baseline(row) == baseline
    assert latest_baseline(None) is None
    changed = row.set_column(2, row.schema.field("digest"), [["0" * 64]])
    with pytest.raises(InputError, match=r"baseline autumn: .* allowed: 000000000000; make it anew"):
        latest_baseline(changed)


def test_it_is_kept_once_and_found_by_its_name(lake: Lake) -> None:
    where = Settings(state_dir=lake.root.parent)
    window = Window(start=START, end=START + 2 * DAY)
    kept = [baseline_steps.keep_baseline.fn(where, "faq", "pair", None, window) for _ in range(2)]
    third = baseline_steps.keep_baseline.fn(where, "faq", "pair", None, Window(start=START, end=START + 3 * DAY))
    assert kept[0] == kept[1]
    assert [kept[0].about.version, third.about.version] == [1, 2]
    rows = lake.read(BASELINES, {"application": "faq", "name": "pair"})
    assert rows is not None
    assert rows.num_rows == 2
    assert latest_baseline(rows) == third


def test_the_alarms_can_be_tried_on_its_own_nights(baseline: StoredBaseline) -> None:
    lines = try_alarms(baseline, 10, 0).lines
    assert lines[0].startswith("false alarms: ")
    assert any(line.startswith("latency_ms changed by ") for line in lines)
    with pytest.raises(InputError, match="14 or more nights"):
        try_alarms(replace(baseline, nights=baseline.nights[:5]), 10, 0)
