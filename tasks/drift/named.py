"""Named baselines: what is kept of a window for later nights, and a night held against it.

A release names one in its file (``baseline: NAME``). It changes only when somebody makes a new version of it, so no
night that is under suspicion ever becomes part of what it is held against. Which columns are compared is ``SPEC``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from tasks.drift.alarm_checks import check_first_night, check_slow_change
from tasks.drift.alarms import replay
from tasks.drift.baseline import StoredBaseline, make_night
from tasks.drift.columns import Scan
from tasks.drift.nights import FEWEST_NIGHTS, AlarmPolicy, Night, Watched, is_weekend
from tasks.drift.numeric import compare_scans
from tasks.drift.scan import ScanSpec
from tasks.drift.self_test import SelfTest, SelfTestSpec, self_test
from tasks.errors import InputError
from tasks.monitors.verdict import SEVERITY, Check, Outcome, worst

BASELINES: Final = "baselines"
NIGHTS: Final = "drift_nights"
MAX_CHECKS: Final = 5
SPEC: Final = ScanSpec(
    numbers=(
        Watched(name="latency_ms", side="high"),
        Watched(name="input_tokens"),
        Watched(name="output_tokens"),
        Watched(name="question_chars"),
        Watched(name="answer_chars"),
    ),
    categories=("finish_reason", "language"),
    segments=("route",),
)
"""The model and the prompt are what a release is; a change of them is no drift."""
ANSWERED: Final = """
CREATE OR REPLACE TEMP TABLE answered AS
SELECT date_utc, user_hash, session_id, unit, interaction_id, latency_ms, input_tokens, output_tokens, finish_reason,
       language, route, length(input_text) AS question_chars, length(output_text) AS answer_chars
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


def nights_since(rows: pa.Table | None, baseline: StoredBaseline, until: date) -> list[Night]:
    """Return the nights before a day that were held against a baseline, one a day."""
    found = rows.filter(pc.field("baseline") == baseline.digest)["night"].to_pylist() if rows else []
    nights = {night.day: night for night in (TypeAdapter(Night).validate_json(text) for text in found)}
    return [nights[day] for day in sorted(nights) if day < until]


def make_tonight(day: date, scan: Scan) -> Night:
    """Return what a night came to."""
    return make_night(day, scan, SPEC.numbers)


def hold_against(
    baseline: StoredBaseline, scan: Scan, night: Night | None, earlier: Sequence[Night], identity: str
) -> tuple[Check, ...]:
    """Hold a window of a release against its named baseline.

    Args:
        baseline: What it is held against.
        scan: The window.
        night: What it came to, where it is one UTC day; None: any other window, which no alarm over nights sees.
        earlier: The nights since the baseline.
        identity: Of what, so that ties are broken the same way each time.

    Returns:
        The gravest checks of single columns, and those over nights where the baseline has enough nights.
    """
    schema = baseline.check_schema(scan)
    if schema.outcome is not Outcome.PASS:
        return (schema,)
    weekend = is_weekend(night.day) if night else False
    rule = baseline.rule(SPEC.numbers, SPEC.categories, weekend=weekend)
    checks = [
        effect.as_check() for effect in compare_scans(scan, baseline.scan, rule) if _is_known(baseline, effect.column)
    ]
    gravest = worst(check.outcome for check in checks)
    shown = [check for check in checks if check.outcome is gravest][: 1 if gravest is Outcome.PASS else MAX_CHECKS]
    if night is not None and sum(is_weekend(one.day) is weekend for one in baseline.nights) >= FEWEST_NIGHTS:
        policy = AlarmPolicy(identity=identity, watched=SPEC.numbers)
        nights = [*earlier, night]
        shown.append(check_first_night(baseline.nights, night, policy, len(nights)))
        shown.append(check_slow_change(baseline.nights, nights, policy, replay(baseline.nights, nights, policy)))
    return tuple(sorted(shown, key=lambda check: SEVERITY.index(check.outcome), reverse=True))


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
    policy = AlarmPolicy(identity=baseline.digest, watched=SPEC.numbers)
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
