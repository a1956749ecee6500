"""Named baselines: what is kept of a window for later nights, and a night held against it.

A release names one in its file (``baseline: NAME``). It changes only when somebody makes a new version of it, so no
night that is under suspicion ever becomes part of what it is held against. Which columns are compared is ``SPEC``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from tasks.drift.alarm_checks import check_first_night, check_slow_change
from tasks.drift.alarms import SUSPICION, replay
from tasks.drift.baseline import StoredBaseline, make_night
from tasks.drift.columns import Scan
from tasks.drift.effects import Effect
from tasks.drift.findings import Drift
from tasks.drift.monitored import MONITORED, Values
from tasks.drift.moved import explain_columns
from tasks.drift.nights import FEWEST_NIGHTS, AlarmPolicy, Night, Watched, is_weekend
from tasks.drift.numeric import compare_scans
from tasks.drift.scan import ScanSpec
from tasks.drift.segment_nights import hold_segments
from tasks.drift.segments import SegmentNight
from tasks.drift.self_test import SelfTest, SelfTestSpec, self_test
from tasks.errors import InputError
from tasks.monitors.verdict import SEVERITY, Outcome, worst

BASELINES: Final = "baselines"
NO_SEGMENTS: Final = SegmentNight()
NIGHTS: Final = "drift_nights"
MAX_CHECKS: Final = 5
NIGHT: Final = 0.01
"""The level at which one night is large enough to be judged; its failures stand at what the alarms may spend."""
SPEC: Final = ScanSpec(
    numbers=(
        Watched(name="latency_ms", side="high"),
        Watched(name="input_tokens"),
        Watched(name="output_tokens"),
        Watched(name="question_chars"),
        Watched(name="answer_chars"),
    ),
    categories=("finish_reason", "language"),
    segments=("route", "model", "language"),
)
"""The model and the prompt are what a release is; a change of them is no drift."""
ANSWERED: Final = """
CREATE OR REPLACE TEMP TABLE answered AS
SELECT date_utc, user_hash, session_id, unit, interaction_id, latency_ms, input_tokens, output_tokens, finish_reason,
       language, route, model, prompt_version, tags,
       length(input_text) AS question_chars, length(output_text) AS answer_chars
FROM interactions WHERE status < 400 AND error_type IS NULL AND (release_digest = $digest OR $digest IS NULL)
"""
_UTC: Final = pa.timestamp("us", tz="UTC")
BASELINES_SCHEMA: Final = pa.schema(
    [
        pa.field("application", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("made", _UTC, nullable=False),
        pa.field("content", pa.string(), nullable=False),
    ]
)
"""One row a version; ``content`` is the JSON of a ``StoredBaseline``, which its digest is of."""
NIGHTS_SCHEMA: Final = pa.schema(
    [
        pa.field("application", pa.string(), nullable=False),
        pa.field("release_digest", pa.string(), nullable=False),
        pa.field("baseline", pa.string(), nullable=False),
        pa.field("window", pa.string(), nullable=False),
        pa.field("night", pa.string(), nullable=False),
    ]
)
"""One row a night and release: what it came to, and the digest of the baseline it was held against."""


def answered_calls(connection: duckdb.DuckDBPyConnection, digest: str | None) -> duckdb.DuckDBPyRelation:
    """Return the answered calls of a release, or of all of them, with what ``SPEC`` counts."""
    connection.execute(ANSWERED, {"digest": digest})  # once, because every day of it is counted by itself
    return connection.table("answered")


def latest_baseline(rows: pa.Table | None) -> StoredBaseline | None:
    """Return the newest version among rows of ``BASELINES_SCHEMA``; None without any.

    Raises:
        InputError: It can no longer be read, or is not what its digest says.
    """
    if rows is None or rows.num_rows == 0:
        return None
    row = max(rows.to_pylist(), key=lambda one: one["version"])
    found = StoredBaseline.from_json(row["content"])
    if found.digest != row["digest"]:
        raise InputError.of(f"baseline {row['name']}", found.digest[:12], f"{row['digest'][:12]}; make it anew")
    return found


def next_version(made: StoredBaseline, latest: StoredBaseline | None) -> StoredBaseline:
    """Return a baseline under the version it gets: that of the latest where it is the same, else the next one."""
    if latest is None:
        return made
    same = _numbered(made, latest.about.version)
    return same if same.digest == latest.digest else _numbered(made, latest.about.version + 1)


def baseline_row(baseline: StoredBaseline, made: datetime) -> pa.Table:
    """Return a baseline as a row of ``BASELINES_SCHEMA``."""
    about = baseline.about
    row = {"application": about.application, "name": about.name, "version": about.version, "made": made}
    content = {"digest": baseline.digest, "content": baseline.to_json()}
    return pa.Table.from_pylist([row | content], schema=BASELINES_SCHEMA)


def night_row(keys: dict[str, str], baseline: StoredBaseline, night: Night) -> pa.Table:
    """Return a night as a row of ``NIGHTS_SCHEMA``; ``keys`` are application, release and window."""
    row = {**keys, "baseline": baseline.digest, "night": TypeAdapter(Night).dump_json(night).decode()}
    return pa.Table.from_pylist([row], schema=NIGHTS_SCHEMA)


def nights_since(
    rows: pa.Table | None, baseline: StoredBaseline, until: date, after: datetime | None = None
) -> list[Night]:
    """Return the nights before a day that were held against a baseline, one a day.

    Args:
        rows: Rows of ``NIGHTS_SCHEMA`` of one release.
        baseline: The baseline.
        until: The day.
        after: Only nights that ended after this moment, UTC: somebody knows of those before.
    """
    found = rows.filter(pc.field("baseline") == baseline.digest)["night"].to_pylist() if rows else []
    nights = {night.day: night for night in (TypeAdapter(Night).validate_json(text) for text in found)}
    return [nights[day] for day in sorted(nights) if day < until and (after is None or end_of(day) > after)]


def end_of(day: date) -> datetime:
    """Return the first moment after a UTC day."""
    return datetime.combine(day, time.min, UTC) + timedelta(days=1)


def stretch_start(acknowledged: Iterable[datetime], until: datetime) -> datetime | None:
    """Return when the stretch of nights began that a night belongs to: at the last word of a person on an alarm.

    Args:
        acknowledged: When people acknowledged or resolved alarms of this release, UTC.
        until: The night's end: what was said later changes nothing about it.
    """
    return max((moment for moment in acknowledged if moment <= until), default=None)


def make_tonight(day: date, scan: Scan, more: Values = ()) -> Night:
    """Return what a night came to.

    Args:
        day: The UTC day.
        scan: Its columns.
        more: What the monitors came to.
    """
    return make_night(day, scan, SPEC.numbers, more)


def policy_of(baseline: StoredBaseline, identity: str) -> AlarmPolicy:
    """Return how nights are judged beside a baseline: by the columns, and the monitors that its nights know.

    Args:
        baseline: The baseline.
        identity: Of what, so that ties are broken the same way each time.
    """
    known = {name for night in baseline.nights for name, _ in night.values}
    watched = (*SPEC.numbers, *(item for item in MONITORED if item.name in known))
    return AlarmPolicy(identity=identity, watched=watched)


def hold_against(  # noqa: PLR0917 - the window, what it is held against, and what is known beside it
    baseline: StoredBaseline,
    scan: Scan,
    night: Night | None,
    earlier: Sequence[Night],
    identity: str,
    segments: SegmentNight = NO_SEGMENTS,
) -> Drift:
    """Hold a window of a release against its named baseline.

    Args:
        baseline: What it is held against.
        scan: The window.
        night: What it came to, where it is one UTC day; None: any other window, which no alarm over nights sees.
        earlier: The nights since the baseline.
        identity: Of what, so that ties are broken the same way each time.
        segments: Of both; they warn.

    Returns:
        The gravest checks of single columns, those over nights where the baseline has enough nights, which segments
        account for a change, and what segments are told of.
    """
    schema = baseline.check_schema(scan)
    if schema.outcome is not Outcome.PASS:
        return Drift(checks=(schema,))
    weekend = is_weekend(night.day) if night else False
    policy, nights = policy_of(baseline, identity), [*earlier, *([night] if night else [])]
    effects = _compare(baseline, scan, policy.night_alpha(len(earlier) + 1), weekend=weekend)
    gravest = worst(effect.outcome for effect in effects)
    kept = [effect for effect in effects if effect.outcome is gravest][: 1 if gravest is Outcome.PASS else MAX_CHECKS]
    shown = [effect.as_check() for effect in kept]
    if night is not None and sum(is_weekend(one.day) is weekend for one in baseline.nights) >= FEWEST_NIGHTS:
        shown.append(check_first_night(baseline.nights, night, policy, len(nights)))
        shown.append(check_slow_change(baseline.nights, nights, policy, replay(baseline.nights, nights, policy)))
    ordered = sorted(shown, key=lambda check: SEVERITY.index(check.outcome), reverse=True)
    failed = dict.fromkeys(effect.column for effect in effects if effect.outcome is Outcome.FAIL)
    return Drift(
        checks=tuple(ordered),
        explained=tuple(explain_columns(scan, baseline.scan, list(failed)[:MAX_CHECKS], SPEC.segments)),
        warnings=hold_segments(segments, SPEC, failed, weekend=weekend),
    )


def _compare(baseline: StoredBaseline, scan: Scan, alpha: float, *, weekend: bool) -> list[Effect]:
    """Return the effects of the known columns; a failure has to stand at what this night may spend of the one alpha.

    Whether there is enough to see anything is a question of the one night, so that is asked at a level of its own.
    """
    found = []
    rules = (baseline.rule(SPEC.numbers, SPEC.categories, weekend=weekend, alpha=level) for level in (NIGHT, alpha))
    for plain, strict in zip(*(compare_scans(scan, baseline.scan, rule) for rule in rules), strict=True):
        if not _is_known(baseline, plain.column):
            continue
        in_doubt = plain.outcome is Outcome.FAIL and strict.outcome is not Outcome.FAIL
        chosen = strict if plain.outcome is Outcome.FAIL else plain
        found.append(replace(chosen, outcome=Outcome.INCONCLUSIVE) if in_doubt else chosen)
    return found


def find_suspicion(
    baselines: Sequence[StoredBaseline], rows: pa.Table | None, start: date, until: date, after: datetime | None
) -> str | None:
    """Say why the nights of a release may not become a baseline; None where they may.

    Args:
        baselines: All that its nights were held against.
        rows: Its rows of ``NIGHTS_SCHEMA``.
        start: First UTC day that is to become a baseline.
        until: First day after.
        after: When its present stretch began, UTC.
    """
    for baseline in baselines:
        nights = nights_since(rows, baseline, until, after)
        if not nights or nights[-1].day < start:
            continue
        state = replay(baseline.nights, nights, policy_of(baseline, rows["release_digest"][0].as_py() if rows else ""))
        if not state.fit_for_baseline:
            label = f"{baseline.about.name} v{baseline.about.version}"
            since = f"alarm on {state.alarmed}" if state.alarmed else f"evidence {state.evidence:.3g} >= {SUSPICION:g}"
            return f"the nights until {nights[-1].day} are suspect beside {label}: {since}"
    return None


def try_alarms(baseline: StoredBaseline, rounds: int, seed: int) -> SelfTest:
    """Show the false-alarm rate and the power of the alarms on the nights of a baseline.

    Args:
        baseline: Of two weeks or more.
        rounds: How often its nights are drawn anew.
        seed: The same seed gives the same figures.

    Raises:
        InputError: It has too few nights.
    """
    rule = baseline.rule(SPEC.numbers, SPEC.categories, weekend=False)
    policy = policy_of(baseline, baseline.digest)
    spec = SelfTestSpec(policy=policy, rule=rule, rounds=rounds)
    return self_test(baseline.nights, baseline.scan, spec, seed)


def _is_known(baseline: StoredBaseline, column: str) -> bool:
    """Return whether the baseline has any value of a column: what was never logged is not compared."""
    if column in SPEC.categories:
        return baseline.scan.category(column).categories.n > 0
    return baseline.scan.number(column).histogram.n > 0


def _numbered(baseline: StoredBaseline, version: int) -> StoredBaseline:
    about = replace(baseline.about, version=version)
    return replace(baseline, about=about, salt=f"{about.name} v{version}")
