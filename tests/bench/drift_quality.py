"""What drift and its alarms find, and how often they are wrong: on simulated nights and on public texts."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from tasks.drift.alarm_checks import check_first_night, measure_night
from tasks.drift.alarms import Calibration
from tasks.drift.baseline import About, StoredBaseline, make_baseline, make_night
from tasks.drift.nights import AlarmPolicy, Night, Watched, is_weekend
from tasks.drift.numeric import compare_scans
from tasks.drift.scan import ScanSpec, scan_relation
from tasks.drift.text import TextRule, Texts, TextShift, compare_texts
from tasks.monitors.verdict import Outcome

SEED = 20_260_302
START, END = datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 30, tzinfo=UTC)
MONDAY = date(2026, 3, 2)
METRICS = tuple(f"metric {at}" for at in range(8))
POLICY = AlarmPolicy(identity="bench", watched=tuple(Watched(name=name, least=0.01) for name in METRICS))
BASELINE, NIGHTS, ROWS = 28, 60, 1000
NUMBERS = (
    Watched(name="latency_ms", side="high"),
    Watched(name="cost_pusd", side="high"),
    Watched(name="output_tokens"),
)
SPEC = ScanSpec(numbers=NUMBERS, categories=("finish_reason",), units=("user_hash",))
Claim = tuple[str, str, str, bool]


def draw_nights(rng: np.random.Generator, nights: int, effect: float, shift: float, start: int) -> list[Night]:
    """Draw nights of 8 metrics in units of a row's deviation: night effects, sampling, weekends half a unit higher."""
    days = [MONDAY + timedelta(days=at) for at in range(nights)]
    drawn = rng.normal(0, math.hypot(effect, 1 / math.sqrt(ROWS)), (nights, len(METRICS)))
    drawn += np.array([0.5 if is_weekend(day) else 0.0 for day in days])[:, None]
    drawn[start:, 0] += shift
    return [
        Night(day=day, n=ROWS, values=tuple(zip(METRICS, row.tolist(), strict=True)))
        for day, row in zip(days, drawn, strict=True)
    ]


def first_alarm(nights: list[Night], *, single: bool) -> int | None:
    """Return which night after the baseline raises the first alarm, slow or gross."""
    calibration = Calibration.of(nights[:BASELINE], POLICY)
    state = calibration.begin()
    for at, night in enumerate(nights[BASELINE:], start=1):
        state = calibration.advance(state, night)
        gross = single and measure_night(nights[:BASELINE], night, POLICY, at)[0].is_gross
        if state.alarmed is not None or gross:
            return at
    return None


def alarm_claims(sequences: int = 1000) -> Iterator[Claim]:
    """Yield what 60 nights bring, quiet and with a change."""
    for effect in (0.0, 0.05, 0.1):
        rng = np.random.default_rng(SEED)
        quiet = [first_alarm(draw_nights(rng, BASELINE + NIGHTS, effect, 0, 0), single=True) for _ in range(sequences)]
        share = sum(at is not None for at in quiet) / sequences
        what = f"{sequences} x {NIGHTS} quiet nights, 8 metrics, night effects {effect} sd, weekends: any false alarm"
        yield what, f"{share:.1%}", "<= 5 %", share <= 0.05
        for start in (0, 30):
            found = [
                first_alarm(draw_nights(rng, BASELINE + NIGHTS + start, effect, 0.3, BASELINE + start), single=True)
                for _ in range(sequences // 2)
            ]
            open_runs = [at for at in found if at is None or at > start]
            late = [at - start for at in open_runs if at is not None]
            power, median = len(late) / len(open_runs), float(np.median(late))
            what = f"0.3 sd in 1 of 8 metrics from night {start + 1}, night effects {effect} sd: found, median nights"
            yield what, f"{power:.1%}, {median:.0f}", ">= 95 %, <= 8", power >= 0.95 and median <= 8


def draw_calls(rng: np.random.Generator, days: int, n: int, latency: float = 1.0, cost: float = 1.0) -> pd.DataFrame:
    """Draw calls whose cost has a tiny deviation in USD."""
    rows = days * n
    return pd.DataFrame(
        {
            "date_utc": np.repeat([MONDAY + timedelta(days=at) for at in range(days)], n),
            "user_hash": [f"u{at}" for at in rng.integers(0, 10**9, rows)],
            "latency_ms": rng.lognormal(6, 0.7, rows) * latency,
            "cost_pusd": np.abs(rng.normal(2.6e8, 1.3e8, rows)) * cost,
            "output_tokens": rng.lognormal(5, 0.5, rows).astype(int),
            "finish_reason": rng.choice(["stop", "length"], rows, p=[0.9, 0.1]),
        }
    )


def judge_first(db: duckdb.DuckDBPyConnection, baseline: StoredBaseline, frame: pd.DataFrame) -> tuple[bool, bool]:
    """Return whether the columns and the night as a whole fail on the first night."""
    policy = AlarmPolicy(identity="bench", watched=NUMBERS)
    window = scan_relation(db.from_df(frame), SPEC)
    rule = baseline.rule(NUMBERS, SPEC.categories, weekend=False, alpha=policy.night_alpha(1))
    effects = compare_scans(window, baseline.scan, rule)
    night = make_night(MONDAY + timedelta(days=28), window, NUMBERS)
    columns = any(effect.outcome is Outcome.FAIL for effect in effects)
    return columns, check_first_night(baseline.nights, night, policy, 1).outcome is Outcome.FAIL


def first_night_claims(rounds: int = 50) -> Iterator[Claim]:
    """Yield what is found on the first night, against a baseline of 14 nights of 10,000 calls."""
    rng = np.random.default_rng(SEED)
    with duckdb.connect() as db:
        about = About(name="bench", version=1, application="bench", start=START, end=END)
        baseline = make_baseline(db.from_df(draw_calls(rng, 14, 10_000)), SPEC, about)
        for words, n, change, least in (
            ("nothing wrong", 10_000, {}, 0.0), ("latency x 1.1", 10_000, {"latency": 1.1}, 0.95),
            ("cost x 1.5", 10_000, {"cost": 1.5}, 0.95),
        ):  # fmt: skip
            found = [judge_first(db, baseline, draw_calls(rng, 1, n, **change)) for _ in range(rounds)]
            columns, night = (sum(item[at] for item in found) / rounds for at in (0, 1))
            either = sum(any(item) for item in found) / rounds
            holds = either >= least if change else either <= 0.02
            what = f"first night, n = {n:,}: {words} (columns {columns:.0%}, night {night:.0%})"
            yield what, f"{either:.0%}", f">= {least:.0%}" if change else "<= 2 %", holds


def find_data() -> Path | None:
    """Return the folder of public data."""
    given = os.environ.get("DELIVERY_TEST_DATA")
    beside = [Path(given)] if given else [folder / "shared" / "data" for folder in Path(__file__).resolve().parents]
    return next((folder for folder in beside if (folder / "drift" / "prompts.parquet").is_file()), None)


def sides(old: list[str], new: list[str]) -> tuple[Texts, Texts]:
    """Return two sides, each text a user's own."""
    pairs = ((new, "new"), (old, "old"))
    made = [
        Texts(texts=texts, units=[f"{name}{at}" for at in range(len(texts))], ids=[str(at) for at in range(len(texts))])
        for texts, name in pairs
    ]
    return made[0], made[1]


def compare(old: list[str], new: list[str], rule: TextRule | None = None) -> TextShift:
    """Compare two lists of texts."""
    return compare_texts("texts", *sides(old, new), rule)


def text_claims(rounds: int = 100) -> Iterator[Claim]:
    """Yield the known pairs of texts, the traps, the false alarms and the speed."""
    folder = find_data()
    if folder is None:
        print("the public data are not here: texts are not measured")  # noqa: T201
        return
    frame = pd.read_parquet(folder / "drift" / "prompts.parquet")
    by = {str(source): rows["text"].tolist() for source, rows in frame.groupby("source")}
    math_rows = frame[frame["source"] == "gsm8k"]
    train, test = (math_rows[math_rows["split"] == name]["text"].tolist() for name in ("train", "test"))
    general, rng = by["halueval_general"], np.random.default_rng(SEED)
    yield from _pairs(by, train, test, general)
    yield from _mixtures(by, train, rng)
    yield from _traps(train, rng)
    yield from _false_alarms(train, rng, rounds)
    drawn = [(train + general)[at] for at in rng.permutation(len(train + general))[:10_000]]
    start = time.process_time()
    compare(drawn[:5000], drawn[5000:])
    cpu = time.process_time() - start
    yield f"10,000 texts with 199 permutations: {cpu:.1f} CPU-s", f"{10_000 / cpu:,.0f} /s", ">= 2,000 /s", cpu < 5


def _row(what: str, found: TextShift, wanted: str, *, holds: bool) -> Claim:
    share = found.effect
    result = f"{share.value:.1%}, AUC {found.auc.value:.3f}"
    return f"{what}: {share.outcome} [{share.low:.1%}, {share.high:.1%}], p {found.p_value:.3g}", result, wanted, holds


def _pairs(by: dict[str, list[str]], train: list[str], test: list[str], general: list[str]) -> Iterator[Claim]:
    half = len(general) // 2
    for what, old, new, wanted in (
        ("gsm8k even / odd", train[::2], train[1::2], "no drift"), ("gsm8k train / test", train, test, "no drift"),
        ("halueval halves of an ordered file", general[:half], general[half:], "measured"),
        ("gsm8k / humaneval", by["gsm8k"], by["humaneval"], "drift"),
        ("gsm8k / pandalm", by["gsm8k"], by["pandalm"], "drift"),
        ("halueval / arena-hard", general, by["arena_hard_v0.1"], "drift"),
    ):  # fmt: skip
        found = compare(old, new)
        is_drift = found.effect.outcome is Outcome.FAIL
        yield _row(what, found, wanted, holds=wanted == "measured" or is_drift is (wanted == "drift"))


def _mixtures(by: dict[str, list[str]], train: list[str], rng: np.random.Generator) -> Iterator[Claim]:
    for source, share, n in (
        ("humaneval", 0.1, 500), ("humaneval", 0.1, 1000), ("humaneval", 0.1, 2000), ("arena_hard_v0.1", 0.3, 1000)
    ):  # fmt: skip
        hits, rounds = 0, 20
        for _ in range(rounds):
            drawn = [train[at] for at in rng.permutation(len(train))[: 2 * n]]
            count = int(share * n)
            other = [by[source][at] for at in rng.integers(0, len(by[source]), count)]
            hits += compare(drawn[:n], [*other, *drawn[n + count :]]).effect.outcome is Outcome.FAIL
        asserted = n >= 2000 or share > 0.1
        wanted = ">= 95 %" if asserted else "measured"
        yield (
            f"gsm8k with {share:.0%} {source}, n = {n}: power",
            f"{hits / rounds:.0%}",
            wanted,
            (not asserted or hits / rounds >= 0.95),
        )


def _traps(train: list[str], rng: np.random.Generator) -> Iterator[Claim]:
    drawn = [train[at] for at in rng.permutation(len(train))[:2000]]
    old, new = drawn[:1000], drawn[1000:]
    for what, changed in (
        ("one sentence appended to every text", [f"{text} Let me know if there is anything else." for text in new]),
        ("upper case", [text.upper() for text in new]),
        ("negation", [text.replace(" is ", " is not ").replace(" has ", " has not ") for text in new]),
    ):
        found = compare(old, changed)
        yield _row(what, found, "drift", holds=found.effect.outcome is Outcome.FAIL)


def sessions(rng: np.random.Generator, texts: Sequence[str], n: int, name: str) -> Texts:
    """Draw sessions that each stay with a few sentences of one text: rows of one are alike."""
    words, units = [], []
    for at in range(n):
        pieces = texts[int(rng.integers(0, len(texts)))].split(". ")
        for _ in range(int(rng.integers(3, 9))):
            words.append(". ".join(pieces[int(rng.integers(0, len(pieces)))] for _ in range(2)))
            units.append(f"{name}{at}")
    return Texts(texts=words, units=units, ids=[str(at) for at in range(len(words))])


def _false_alarms(train: list[str], rng: np.random.Generator, rounds: int) -> Iterator[Claim]:
    failed = certain = halves = 0
    for at in range(rounds):
        rule = TextRule(level=0.05, permutations=99, seed=at)
        found = compare_texts("x", sessions(rng, train, 150, "n"), sessions(rng, train, 150, "o"), rule)
        failed += found.effect.outcome is Outcome.FAIL
        certain += found.p_value <= 0.05
        drawn = [train[row] for row in rng.permutation(len(train))[:800]]
        halves += compare(drawn[:400], drawn[400:], rule).effect.outcome is Outcome.FAIL
    what = f"{rounds} x 150 / 150 sessions of alike texts, no drift: alarms (permutation alone {certain / rounds:.0%})"
    yield what, f"{failed / rounds:.0%}", "<= 5 %", failed <= 0.05 * rounds
    yield f"{rounds} random halves of texts: alarms", f"{halves / rounds:.0%}", "<= 5 %", halves <= 0.05 * rounds
