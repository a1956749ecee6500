from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pytest

from tasks.drift.alarm_checks import check_first_night
from tasks.drift.alarms import replay
from tasks.drift.baseline import About, StoredBaseline, make_baseline, make_night, p95_of
from tasks.drift.nights import AlarmPolicy, Night, Watched, value_of
from tasks.drift.numeric import compare_scans
from tasks.drift.scan import ScanSpec, scan_relation
from tasks.drift.self_test import SelfTestSpec, self_test
from tasks.drift.sketch import TextSketch
from tasks.drift.text import Texts
from tasks.errors import InputError
from tasks.monitors.verdict import Outcome

MONDAY = date(2026, 3, 2)
NUMBERS = (Watched(name="latency_ms", side="high"), Watched(name="cost_pusd"), Watched(name="output_tokens"))
SPEC = ScanSpec(numbers=NUMBERS, categories=("finish_reason", "model"), units=("user_hash",), segments=("model",))
ABOUT = About(
    name="faq",
    version=1,
    application="faq",
    start=datetime(2026, 3, 2, tzinfo=UTC),
    end=datetime(2026, 3, 30, tzinfo=UTC),
    judge_version="lexical-1",
)


@pytest.fixture(scope="module")
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def calls(seed: int, *, days: int, n: int, latency: float = 1.0, cost: float = 1.0, first: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = days * n
    return pd.DataFrame(
        {
            "date_utc": np.repeat([MONDAY + timedelta(days=first + at) for at in range(days)], n),
            "user_hash": [f"u{at}" for at in rng.integers(0, 10**9, rows)],
            "latency_ms": rng.lognormal(6, 0.7, rows) * latency,
            "cost_pusd": rng.normal(1.3e8, 1.3e7, rows).astype(int) * cost,
            "output_tokens": rng.lognormal(5, 0.5, rows).astype(int),
            "finish_reason": rng.choice(["stop", "length"], rows, p=[0.9, 0.1]),
            "model": rng.choice(["a", "b"], rows),
        }
    )


@pytest.fixture(scope="module")
def stored(db: duckdb.DuckDBPyConnection) -> StoredBaseline:
    texts = [f"The price of item {at} is {at % 7} dollars." for at in range(500)]
    sides = Texts(texts=texts, units=[str(at) for at in range(500)], ids=[str(at) for at in range(500)])
    sketches = (TextSketch.of("input_text", sides), TextSketch.of("output_text", sides))
    return make_baseline(db.from_df(calls(1, days=28, n=2000)), SPEC, ABOUT, sketches=sketches)


def test_a_baseline_is_a_few_kilobytes_and_comes_back_the_same(stored: StoredBaseline) -> None:
    packed = stored.to_bytes()
    assert len(packed) < 8000
    again = StoredBaseline.from_bytes(packed, stored.digest)
    assert again == stored
    assert again.digest == stored.digest
    assert (stored.scan.n, len(stored.nights), stored.salt) == (56_000, 28, "faq v1")
    metrics = [name for watched in NUMBERS for name in (watched.name, p95_of(watched.name))]
    assert None not in [value_of(stored.nights[0], metric) for metric in metrics]


def test_what_was_tampered_with_is_refused(stored: StoredBaseline) -> None:
    document = json.loads(stored.to_json())

    def refuse(change: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            StoredBaseline.from_json(json.dumps(document | change, separators=(",", ":")))

    refuse({"format": 2}, r"baseline.format: 2 is not allowed; allowed: 1; make the baseline anew")
    refuse({"more": 1}, r"baseline\.more: .*; make the baseline anew")
    refuse({"salt": 1}, r"baseline\.salt: Input should be a valid string; make the baseline anew")
    numbers = document["scan"]["numbers"]
    numbers[0]["histogram"]["bins"][0][1] = -5
    refuse({"scan": document["scan"]}, r"baseline\.latency_ms: .*ascending bins, counts above 0")
    numbers[0]["histogram"]["more"] = 1
    refuse({"scan": document["scan"]}, r"baseline\.scan\.numbers\.0\.histogram\.more: Unexpected keyword argument")
    with pytest.raises(InputError, match="it is not what this format writes"):
        StoredBaseline.from_json(stored.to_json() + " ")
    with pytest.raises(InputError, match="baseline: 3 bytes that do not unpack"):
        StoredBaseline.from_bytes(b"abc")
    with pytest.raises(InputError, match="baseline: cut short"):
        StoredBaseline.from_bytes(stored.to_bytes()[:-9])
    with pytest.raises(InputError, match="more than 4194304 bytes"):
        StoredBaseline.from_bytes(zlib.compress(b" " * 2**23))
    with pytest.raises(
        InputError, match=r"baseline.digest: '[0-9a-f]{64}' is not allowed; allowed: 00, as the release says"
    ):
        StoredBaseline.from_bytes(stored.to_bytes(), "00")


def test_a_baseline_of_another_schema_or_judge_is_an_error(
    db: duckdb.DuckDBPyConnection, stored: StoredBaseline
) -> None:
    window = scan_relation(db.from_df(calls(2, days=1, n=500)), SPEC)
    same = stored.check_schema(window, "lexical-1")
    assert (same.outcome, same.statement) == (Outcome.PASS, "drift: baseline faq v1 has the window's columns (n=500)")
    other = replace(SPEC, numbers=(*NUMBERS[:2], Watched(name="ttft_ms")), categories=("finish_reason", "model"))
    frame = calls(2, days=1, n=500).assign(ttft_ms=100.0)
    check = stored.check_schema(scan_relation(db.from_df(frame), other), "llm-2")
    assert check.outcome is Outcome.ERROR
    assert check.statement == (
        "drift: baseline faq v1: it has no ttft_ms; the window has no output_tokens; its judge is lexical-1, "
        "the window's llm-2; make it anew (n=500)"
    )


def test_shards_and_windows_merge(db: duckdb.DuckDBPyConnection) -> None:
    frame = calls(3, days=6, n=500)
    parts = [make_baseline(db.from_df(frame.iloc[rows]), SPEC, ABOUT) for rows in (slice(0, 1500), slice(1500, None))]
    merged = parts[0].merge(parts[1])
    whole = make_baseline(db.from_df(frame), SPEC, ABOUT)
    assert merged.nights == whole.nights
    assert merged.scan.number("latency_ms").histogram == whole.scan.number("latency_ms").histogram
    with pytest.raises(InputError, match=r"baseline.nights: '2026-03-02' is not allowed"):
        parts[0].merge(parts[0])
    other = replace(parts[1], about=replace(ABOUT, application="search"))
    with pytest.raises(InputError, match=r"baseline.about: \('search', 'lexical-1'\) is not allowed"):
        parts[0].merge(other)
    with pytest.raises(InputError, match=r"baseline window: '2026-03-02T00:00:00.00:00 to .*, empty' is not allowed"):
        make_baseline(db.from_df(frame).filter("false"), SPEC, ABOUT)


@pytest.mark.parametrize(("change", "column"), [({"latency": 1.1}, "latency_ms"), ({"cost": 1.5}, "cost_pusd")])
def test_what_must_be_found_the_first_night_is_found_twice(
    db: duckdb.DuckDBPyConnection, change: dict[str, float], column: str
) -> None:
    big = make_baseline(db.from_df(calls(4, days=12, n=10_000)), SPEC, ABOUT)
    window = scan_relation(db.from_df(calls(5, days=1, n=10_000, first=28, **change)), SPEC)
    policy = AlarmPolicy(identity="faq", watched=NUMBERS)
    rule = big.rule(NUMBERS, SPEC.categories, weekend=False, alpha=policy.night_alpha(1))
    assert rule.knows_nights
    failed = {effect.column for effect in compare_scans(window, big.scan, rule) if effect.outcome is Outcome.FAIL}
    assert failed == {column}
    night = make_night(MONDAY + timedelta(days=28), window, NUMBERS)
    check = check_first_night(big.nights, night, policy, 1)
    assert check.outcome is Outcome.FAIL
    assert check.statement.startswith(f"drift: {column} x 1.")


def test_a_quiet_night_passes_everything(db: duckdb.DuckDBPyConnection, stored: StoredBaseline) -> None:
    window = scan_relation(db.from_df(calls(6, days=1, n=2000, first=28)), SPEC)
    policy = AlarmPolicy(identity="faq", watched=NUMBERS)
    rule = stored.rule(NUMBERS, SPEC.categories, weekend=False, alpha=policy.night_alpha(1))
    assert {effect.outcome for effect in compare_scans(window, stored.scan, rule)} == {Outcome.PASS}
    night = make_night(MONDAY + timedelta(days=28), window, NUMBERS, more=(("errors", 0.01),))
    assert value_of(night, "errors") == 0.01
    assert check_first_night(stored.nights, night, policy, 1).outcome is Outcome.PASS
    assert replay(stored.nights, [night], policy).evidence < 5


def test_a_baseline_of_one_night_lets_only_gross_change_fail(db: duckdb.DuckDBPyConnection) -> None:
    one = make_baseline(db.from_df(calls(7, days=1, n=10_000)), SPEC, ABOUT)
    rule = one.rule(NUMBERS, SPEC.categories, weekend=False)
    assert rule.knows_nights is False
    slower = scan_relation(db.from_df(calls(8, days=1, n=10_000, latency=1.1)), SPEC)
    dearer = scan_relation(db.from_df(calls(8, days=1, n=10_000, cost=1.5)), SPEC)
    failed = [
        {effect.column for effect in compare_scans(window, one.scan, rule) if effect.outcome is Outcome.FAIL}
        for window in (slower, dearer)
    ]
    assert failed == [set(), {"cost_pusd"}]


def history(nights: int) -> list[Night]:
    rng = np.random.default_rng(9)
    return [
        Night(
            day=MONDAY + timedelta(days=at),
            n=1000,
            values=(("cost_pusd", float(rng.normal(18, 0.02))), ("latency_ms", float(rng.normal(6, 0.02)))),
        )
        for at in range(nights)
    ]


def test_the_self_test_shows_false_alarms_and_power(stored: StoredBaseline) -> None:
    watched = NUMBERS[:2]
    spec = SelfTestSpec(
        policy=AlarmPolicy(identity="faq", watched=watched), rule=stored.rule(watched, (), weekend=False), rounds=40
    )
    report = self_test(history(56), stored.scan, spec, seed=1)
    assert (report.baseline_nights, report.judged_nights) == (28, 28)
    assert report.false_alarms <= 0.1
    assert report.false_splits == (("latency_ms", 0.0), ("cost_pusd", 0.0))
    assert [item.found for item in report.power if item.metric == "latency_ms"][-1] == 1.0
    assert all(item.median_nights == 1 for item in report.power if item.change > 0.15)
    assert report == self_test(history(56), stored.scan, spec, seed=1)
    assert report.lines[0].endswith("of runs of 28 nights, alpha 5.0%, baseline of 28 nights")
    assert "random halves of cost_pusd: 0.0% fail" in report.lines
    assert report.lines[-1] == "cost_pusd changed by 0.1952: found in 100%, median 1 nights"
    with pytest.raises(InputError, match=r"history: '13 nights' is not allowed; allowed: 14 or more nights"):
        self_test(history(13), stored.scan, spec, seed=1)
