"""Segments kept beside a baseline by its flow's step, and baselines that were made before segments were kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from flow_stage import DAY, START
from night_stage import Night, log_night
from sample_release import URL, release_of

from tasks.drift import steps
from tasks.drift.baseline import StoredBaseline
from tasks.drift.findings import Drift
from tasks.drift.segments import SEGMENTS, SEGMENTS_SCHEMA
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Outcome
from tasks.settings import Settings
from tasks.stores.lake import Lake

MONDAY, KNOWN = START + 3 * DAY, 8
KEYS = {"application": "faq", "name": "autumn"}
RELEASE = release_of(endpoint=URL, text="t", baseline="autumn")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return a lake of eight nights, and of one in which a route is slower by half."""
    where, source = Settings(state_dir=tmp_path_factory.mktemp("kept")), np.random.default_rng(3)
    for at in range(KNOWN + 1):
        slower = {"search": 1.5} if at == KNOWN else {}
        night = Night(day=MONDAY + at * DAY, calls=800, users=300, says=None, slower=slower, source=source)
        log_night(where, RELEASE, night, [("?", "!")])
    return where


@pytest.fixture(scope="module")
def baseline(config: Settings) -> StoredBaseline:
    return make(config)


def make(config: Settings) -> StoredBaseline:
    window = Window(start=MONDAY, end=MONDAY + KNOWN * DAY)
    found: StoredBaseline = steps.keep_baseline.fn(config, "faq", "autumn", None, window)
    return found


def judge(config: Settings, baseline: StoredBaseline) -> Drift:
    night = Window(start=MONDAY + KNOWN * DAY, end=MONDAY + (KNOWN + 1) * DAY)
    found: Drift = steps.check_drift.fn(config, RELEASE, night, baseline, Evidence(summary=Summary()))
    return found


def kept(config: Settings) -> pa.Table:
    rows = Lake(config.lake_dir).read(SEGMENTS, KEYS)
    assert rows is not None
    return rows


def warned(found: Drift) -> set[str]:
    return {name for name, check in found.warnings if check.outcome is Outcome.FAIL}


def test_a_baseline_stays_small_and_its_segments_are_beside_it(config: Settings, baseline: StoredBaseline) -> None:
    assert len(baseline.to_bytes()) < 5000
    rows = kept(config)
    assert rows["digest"].to_pylist() == [baseline.digest]
    assert len(rows["content"][0].as_py()) < 8000
    found = judge(config, baseline)
    assert warned(found) >= {"route=search"}
    assert not [one for one in found.remarks if "segment" in one]


def test_a_baseline_of_before_is_held_says_so_and_is_mended_by_making_it_again(
    config: Settings, baseline: StoredBaseline
) -> None:
    whole, rows = judge(config, baseline).checks, kept(config)
    keys = {**KEYS, "digest": baseline.digest}
    Lake(config.lake_dir).replace(SEGMENTS, keys, SEGMENTS_SCHEMA.empty_table())
    found = judge(config, baseline)
    assert found.checks == whole
    assert found.warnings == ()
    words = "Baseline autumn v1 was made before segments were kept; make it anew, or nothing is said about"
    assert [one for one in found.remarks if "segment" in one] == [f"{words} numbers and words of segments."]
    assert make(config) == baseline, "the same version"
    assert kept(config) == rows


def test_segments_that_were_changed_are_not_compared_and_the_whole_is(
    config: Settings, baseline: StoredBaseline
) -> None:
    rows = kept(config)
    changed = rows.set_column(4, rows.schema.field("sha256"), [["0" * 64]])
    keys = {**KEYS, "digest": baseline.digest}
    Lake(config.lake_dir).replace(SEGMENTS, keys, changed)
    found = judge(config, baseline)
    Lake(config.lake_dir).replace(SEGMENTS, keys, rows)
    assert found.warnings == ()
    assert found.checks
    words = "The segments of baseline autumn v1 are not compared: segments: they are not what was kept"
    assert [one for one in found.remarks if "segment" in one] == [f"{words}; make the baseline anew."]
