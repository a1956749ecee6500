"""Nights held against a named baseline, one after the other, as the evaluation does it."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from flow_stage import DAY, START
from sample_release import URL, release_of

from tasks.drift import steps
from tasks.drift.baseline import StoredBaseline
from tasks.drift.monitored import COST, FAILED, MONITORED, QUALITY, TOXIC, earlier_values, tonight_values
from tasks.drift.named import policy_of, stretch_start
from tasks.errors import InputError
from tasks.evaluation.evidence import Cost, Estimate, Evidence
from tasks.evaluation.expectations import Gate
from tasks.evaluation.report import Evaluation, Judged, metric_rows
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import Window
from tasks.interactions.schema import Interaction, as_table, rejected_table
from tasks.monitors.alerts import AlertState, Signal, Turn
from tasks.monitors.verdict import Outcome, Verdict
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.metrics import Metrics

KNOWN, QUIET, SLOW, EACH = 14, 6, 8, 250
RELEASE = release_of(endpoint=URL, text="t", baseline="autumn")


def window_of(night: int, nights: int = 1) -> Window:
    return Window(start=START + night * DAY, end=START + (night + nights) * DAY)


def calls_of(night: int, source: np.random.Generator, slower: float) -> list[Interaction]:
    level = slower * float(np.exp(source.normal(0, 0.01)))
    return [
        Interaction(
            interaction_id=f"{night}-{at}",
            application="faq",
            release_digest=RELEASE.digest,
            time=START + night * DAY + timedelta(minutes=at),
            unit=f"u{source.integers(200)}",
            unit_kind="user",
            input_tokens=int(source.integers(8, 20)),
            output_tokens=int(source.integers(20, 40)),
            latency_ms=float(source.lognormal(5, 0.3)) * level,
            status=200,
            finish_reason="stop",
        )
        for at in range(EACH)
    ]


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return two known weeks, some quiet nights, and nights that are 8 % slower: too little for any single one."""
    where = Settings(state_dir=tmp_path_factory.mktemp("nights"))
    source, lake = np.random.default_rng(3), Lake(where.lake_dir)
    last = KNOWN + QUIET + SLOW
    calls = [one for night in range(last) for one in calls_of(night, source, 1.08 if night >= KNOWN + QUIET else 1.0)]
    lake.append("all", expected=0, offset=1, interactions=as_table(calls), rejected=rejected_table("x", [], START))
    return where


def quality_of(value: float) -> Evidence:
    return Evidence(
        summary=Summary(n=EACH),
        errors=Estimate(value=0.01, low=0.0, high=0.1, n=EACH),
        quality=Estimate(value=value, low=0.0, high=1.0, n=EACH),
    )


def judge(config: Settings, night: int, baseline: StoredBaseline, quality: float = 0.8) -> list[tuple[str, str]]:
    found = steps.check_drift.fn(config, RELEASE, window_of(night), baseline, quality_of(quality))
    return [(check.outcome.value, check.statement) for check in found.checks if check.monitor == "drift"]


def store_measured(config: Settings, night: int, quality: float) -> None:
    """Put into the lake what an evaluation of the night would have."""
    window = window_of(night)
    row = {
        "application": "faq", "release_digest": RELEASE.digest, "version": "1", "deployment_id": None, "segment": "",
        "window": window.label, "window_start": window.start, "window_end": window.end, "low": None, "high": None,
        "n": EACH, "outcome": "pass",
    }  # fmt: skip
    rows = [row | {"metric": "quality_mean", "value": quality}, row | {"metric": "failed_share", "value": 0.01}]
    Metrics(Lake(config.lake_dir)).replace("faq", window.label, rows)
    from tasks.evaluation.records import record_keys, summary_rows

    summary = summary_rows(RELEASE, window, Summary(n=EACH), Outcome.PASS)
    Lake(config.lake_dir).replace("summaries", record_keys(RELEASE, window), summary)


def test_a_slow_change_is_found_quiet_nights_are_not_and_the_baseline_is_frozen_meanwhile(staged: Settings) -> None:
    source = np.random.default_rng(4)
    for night in range(KNOWN):
        store_measured(staged, night, 0.8 + float(source.normal(0, 0.005)))
    baseline = steps.keep_baseline.fn(staged, "faq", "autumn", None, window_of(0, KNOWN))
    assert {name for night in baseline.nights for name, _ in night.values} >= {QUALITY, FAILED}
    assert [item.name for item in policy_of(baseline, "x").watched[5:]] == ["latency_ms p95", FAILED, QUALITY]
    quality = [0.8 + float(source.normal(0, 0.005)) for _ in range(QUIET)]
    for at in range(QUIET):
        found = judge(staged, KNOWN + at, baseline, quality[at])
        assert {outcome for outcome, _ in found} == {"pass"}, f"nothing changed until night {at}"
    assert steps.keep_baseline.fn(staged, "faq", "later", None, window_of(KNOWN, QUIET)).about.version == 1
    alarmed = None
    for at in range(QUIET, QUIET + SLOW):
        found = judge(staged, KNOWN + at, baseline, 0.8)
        if alarmed is None and any("evidence >= 25 since" in statement for _, statement in found):
            alarmed = at, [outcome for outcome, statement in found if "evidence >= 25" in statement]
    assert alarmed is not None
    assert alarmed[1] == ["fail"]
    check_that_it_is_frozen(staged, baseline)


def check_that_it_is_frozen(staged: Settings, baseline: StoredBaseline) -> None:
    later = window_of(KNOWN + QUIET, SLOW)
    with pytest.raises(InputError, match=r"baseline winter: release [0-9a-f]{12}: the nights until .* are suspect"):
        steps.keep_baseline.fn(staged, "faq", "winter", None, later)
    assert steps.keep_baseline.fn(staged, "faq", "quiet", None, window_of(KNOWN, 2)).about.version == 1, (
        "nights before the suspicion may become one"
    )
    forced = steps.keep_baseline.fn(staged, "faq", "forced", None, later, although_suspect=True)
    assert forced.about.name == "forced"
    rows = Lake(staged.lake_dir).read("drift_nights", {"application": "faq"})
    assert rows is not None
    last = KNOWN + QUIET + SLOW - 1
    once = judge(staged, last, baseline)
    assert judge(staged, last, baseline) == once, "a night that is judged again replaces itself"
    again = Lake(staged.lake_dir).read("drift_nights", {"application": "faq"})
    assert again is not None
    assert again.num_rows == rows.num_rows == QUIET + SLOW
    acknowledge(staged)
    assert steps.keep_baseline.fn(staged, "faq", "winter", None, later).about.version == 1


def acknowledge(config: Settings) -> None:
    """Let a person say that the change is known."""
    now = datetime.now(UTC)
    with closing(Ledger(config.ledger)) as ledger:
        signal = Signal(
            application="faq",
            release_digest=RELEASE.digest,
            monitor="drift",
            outcome=Outcome.FAIL,
            reason="drift: it changed",
            window_end=START,
        )
        ledger.signal_alerts([signal], lambda *_: (), now)
        (alert,) = ledger.alerts("faq")
        done = ledger.turn_alert(alert.alert_id, Turn.ACKNOWLEDGE, lambda *_: (), now, who="ann", reason="known")
        assert done.state is AlertState.ACKNOWLEDGED


def test_a_stretch_begins_at_the_last_word_before_the_night_ended() -> None:
    early, late = START + timedelta(hours=9), START + 3 * DAY
    assert stretch_start([], START) is None
    assert stretch_start([early, late], START + DAY) == early
    assert stretch_start([early, late], START + 4 * DAY) == late


def test_what_was_not_measured_is_no_number() -> None:
    cost = Cost(usd_per_day=2.0, coverage=0.5, n=100)
    assert tonight_values(Evidence(summary=Summary(), cost=cost)) == ()
    share = Estimate(value=0.25, low=0.0, high=1.0, n=4)
    full = Evidence(summary=Summary(), toxicity=share, cost=Cost(usd_per_day=2.0, coverage=1.0, n=100))
    assert dict(tonight_values(full)) == pytest.approx({COST: np.log(0.02), TOXIC: 0.25}, abs=1e-6)
    assert {item.name for item in MONITORED} >= {COST, FAILED, QUALITY, TOXIC}


def test_several_releases_of_a_night_are_put_together_and_another_judge_is_left_out() -> None:
    def row(metric: str, value: float, n: int, digest: str = "a", hours: int = 24) -> dict[str, object]:
        end = START + timedelta(hours=hours)
        keys = {"release_digest": digest, "window": "w", "window_start": START, "window_end": end}
        return {**keys, "metric": metric, "value": value, "n": n}

    rows = [
        row("failed_share", 0.1, 100),
        row("failed_share", 0.4, 50, "b"),
        row("quality_mean", 0.5, 100),
        row("quality_mean", 0.9, 100, "b"),
        row("cost_usd_per_day", 3.0, 100),
        row("cost_coverage", 1.0, 100),
        row("toxic_share", 0.5, 10, hours=12),
    ]
    found = earlier_values(rows, frozenset({("a", "w")}))
    assert list(found) == [START.date()]
    wanted = {COST: np.log(0.03), FAILED: 0.2, QUALITY: 0.5}
    assert dict(found[START.date()]) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("coverage", [1.0, 0.5])
def test_a_night_whose_prices_were_not_all_known_is_no_baseline_of_a_cost(coverage: float) -> None:
    release, window = RELEASE, window_of(0)
    cost = Cost(usd_per_day=100.0 * coverage, coverage=coverage, n=10_000)
    evidence = Evidence(summary=Summary(n=10_000), cost=cost)
    verdict = Verdict(
        application="faq", release_digest=release.digest, window_start=window.start, window_end=window.end, checks=()
    )
    judged = Judged(release=release, evidence=evidence, verdict=verdict)
    gate = Gate(success=True, n=10_000, expectations=1)
    night = Evaluation(application="faq", window=window, gate=gate, judged=(judged,), interactions=10_000)
    found = earlier_values(metric_rows(night), frozenset())
    # What is measured tonight is what an earlier night of the same calls said.
    assert found.get(START.date(), ()) == tonight_values(evidence)
    assert [name for name, _ in tonight_values(evidence)] == ([COST] if coverage == 1 else [])
    without = [row for row in metric_rows(night) if row["metric"] != "cost_coverage"]
    assert earlier_values(without, frozenset()) == {}
