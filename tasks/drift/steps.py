"""The steps of drift: make a named baseline from a window, find what a release is held against, and hold it."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from time import monotonic
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.drift.baseline import About, StoredBaseline, make_baseline
from tasks.drift.embeddings import hold_meanings
from tasks.drift.findings import Drift
from tasks.drift.monitored import Values, earlier_values, tonight_values
from tasks.drift.named import (
    BASELINES,
    NIGHTS,
    SPEC,
    answered_calls,
    baseline_row,
    find_suspicion,
    hold_against,
    latest_baseline,
    make_tonight,
    next_version,
    night_row,
    nights_since,
    policy_of,
    stretch_start,
)
from tasks.drift.sample import Sample, draw_sample, sampled_window
from tasks.drift.scan import scan_relation
from tasks.drift.segment_texts import hold_segment_texts
from tasks.drift.segments import (
    SEGMENTS,
    KeptSegments,
    keep_segments,
    read_segments,
    scan_segments,
    segments_row,
)
from tasks.drift.wording import Old, hold_texts, sketch_texts
from tasks.errors import InputError
from tasks.evaluation.evidence import Baseline, Evidence
from tasks.evaluation.records import SUMMARIES, Kept, find_kept, record_keys
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import DAY, Window
from tasks.monitors.verdict import Outcome
from tasks.release.model import Release
from tasks.scoring.extra import read_evaluation_file
from tasks.scoring.quality import JUDGE_VERSION
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.metrics import METRICS

Found = Baseline | StoredBaseline | str | None
"""What a release is held against; a text says why it cannot be."""
UNNAMED_LEVEL: Final = 0.001
"""The chance that texts fail beside an unnamed baseline while nothing is wrong: nobody counts how many nights ask."""
PEOPLE: Final = ("acknowledge", "resolve")
"""Turns of an alert that end a stretch of nights."""


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1)
def keep_baseline(  # noqa: PLR0917 - what it is called and made of
    config: Settings,
    application: str,
    name: str,
    release: str | None,
    window: Window,
    although_suspect: bool = False,
) -> StoredBaseline:
    """Make a baseline of a window and keep it; the same content again is the same version.

    Nights under suspicion are refused: a change must not become what later nights are held against unseen.
    """
    lake = Lake(config.lake_dir)
    if release is not None:
        with closing(Ledger(config.ledger)) as ledger:
            release = ledger.resolve(application, release)
    if not although_suspect and (why := _suspicion(config, lake, application, release, window)):
        raise InputError(
            f"baseline {name}: {why}; acknowledge or resolve its alert of drift (`delivery alerts`), take other "
            "nights, or set although_suspect"
        )
    about = About(
        name=name, version=1, application=application, release_digest=release, start=window.start, end=window.end
    )
    more = _earlier(lake, application, release, window)
    sample = _sample(lake, application, release, window, f"{name} v1")
    with lake.query(window.start, window.end, application) as connection:
        relation = answered_calls(connection, release)
        made = make_baseline(relation, SPEC, about, sketches=sketch_texts(sample), more=tuple(more.items()))
        segments = keep_segments(relation, SPEC)
    named = {"application": application, "name": name}
    found = next_version(made, latest_baseline(lake.read(BASELINES, named)))
    keys = {**named, "digest": found.digest}
    lake.replace(SEGMENTS, keys, segments_row(keys, segments))  # before the baseline: a kill leaves none without them
    lake.replace(BASELINES, keys, baseline_row(found, datetime.now(UTC)))
    return found


@task(cache_policy=NO_CACHE)
def publish_baseline(baseline: StoredBaseline) -> None:
    """Show what was kept."""
    about = baseline.about
    row = {
        "name": f"{about.name} v{about.version}",
        "digest": baseline.digest,
        "interactions": baseline.scan.n,
        "nights": len(baseline.nights),
        "bytes": len(baseline.to_bytes()),
    }
    key = f"baseline-{about.application}".lower().replace(".", "-").replace("_", "-")
    create_table_artifact(key=key, table=[row])


@task(cache_policy=NO_CACHE, task_run_name="baseline of {release.label}")
def find_baseline(config: Settings, release: Release, window: Window) -> Found:
    """Find what drift is measured against: what the release names, its own first window, or its predecessor.

    What it names is a named baseline, else a version of the application. Without a name only windows that passed are
    a baseline; the predecessor's may be the same window: concurrent traffic is the best comparison there is. One that
    can no longer be read is a text that says why.
    """
    try:
        return _find(config, release, window)
    except InputError as error:
        return f"the baseline cannot be used: {error}"


@task(cache_policy=NO_CACHE, task_run_name="drift of {release.label}")
def check_drift(config: Settings, release: Release, window: Window, baseline: Found, evidence: Evidence) -> Drift:
    """Hold a release against its baseline, and keep what the night came to; texts do not leave this step."""
    if isinstance(baseline, StoredBaseline):
        return _hold_named(config, release, window, baseline, evidence)
    if isinstance(baseline, Baseline) and baseline.window is not None:
        lake, salt = Lake(config.lake_dir), f"{baseline.release_digest} {baseline.window.label}"
        current = _sample(lake, release.application, release.digest, window, salt)
        place = (release.application, baseline.release_digest, baseline.window)
        old = Old(sample=_old_sample(lake, current, *place, salt), decides=baseline.release_digest == release.digest)
        return _hold_texts(config, current, old, UNNAMED_LEVEL)
    return Drift()


def with_baseline(evidence: Evidence, baseline: Found, drift: Drift) -> Evidence:
    """Return the evidence with what it is compared with, and what came of that."""
    if isinstance(baseline, str):
        return replace(evidence, baseline_problem=baseline)
    if isinstance(baseline, StoredBaseline):
        name = f"{baseline.about.name} v{baseline.about.version} ({baseline.digest[:12]})"
        return replace(evidence, baseline_name=name, drift=drift)
    return replace(evidence, baseline=baseline, baseline_name=baseline.name if baseline else "", drift=drift)


def _hold_named(
    config: Settings, release: Release, window: Window, baseline: StoredBaseline, evidence: Evidence
) -> Drift:
    lake, keys, about = Lake(config.lake_dir), record_keys(release, window), baseline.about
    kept, problem = _kept_segments(lake, baseline)
    with lake.query(window.start, window.end, release.application) as connection:
        relation = answered_calls(connection, release.digest)
        scan, segments = scan_relation(relation, SPEC), scan_segments(relation, kept, SPEC)
    night, before = None, []
    if window.end - window.start == DAY:
        night = make_tonight(window.start.date(), scan, tonight_values(evidence))
        rows = lake.read(NIGHTS, {"application": release.application, "release_digest": release.digest})
        lake.replace(NIGHTS, keys, night_row(keys, baseline, night))
        since = stretch_start(_acknowledged(config, release.application, release.digest), window.end)
        before = nights_since(rows, baseline, night.day, since)
    current = _sample(lake, release.application, release.digest, window, baseline.salt)
    place = (about.application, about.release_digest, Window(start=about.start, end=about.end))
    old = Old(sample=_old_sample(lake, current, *place, baseline.salt), sketches=baseline.sketches, is_named=True)
    level = policy_of(baseline, release.digest).night_alpha(len(before) + 1)
    texts = _hold_texts(config, current, old, level)
    failed = [one.monitor.removeprefix("drift:") for one in texts.checks if one.outcome is Outcome.FAIL]
    warned = Drift(remarks=problem).join(hold_segment_texts(current, old.sample, failed))
    return hold_against(baseline, scan, night, before, release.digest, segments).join(texts).join(warned)


def _kept_segments(lake: Lake, baseline: StoredBaseline) -> tuple[KeptSegments, tuple[str, ...]]:
    """Return the segments of a baseline, and why there are none where they were not kept or cannot be read."""
    about = baseline.about
    rows = lake.read(SEGMENTS, {"application": about.application, "name": about.name})
    try:
        kept = read_segments(rows, baseline.digest)
    except InputError as error:
        return KeptSegments(), (f"The segments of baseline {about.name} v{about.version} are not compared: {error}.",)
    if kept is None:
        words = f"Baseline {about.name} v{about.version} was made before segments were kept; make it anew"
        return KeptSegments(), (f"{words}, or nothing is said about numbers and words of segments.",)
    return kept, ()


def _hold_texts(config: Settings, current: Sample, old: Old, level: float) -> Drift:
    found, spec = hold_texts(current, old, level), read_evaluation_file(config.state_dir).embeddings
    if spec is None:
        return found
    return found.join(hold_meanings(current, old, spec, os.environ, monotonic, level))


def _sample(lake: Lake, application: str, digest: str | None, window: Window, salt: str) -> Sample:
    with lake.query(*sampled_window(window.start, window.end), application) as connection:
        return draw_sample(connection, digest, salt)


def _old_sample(  # noqa: PLR0917 - tonight's, and where the baseline's is
    lake: Lake, current: Sample, application: str, digest: str | None, window: Window, salt: str
) -> Sample:
    """Return the baseline's texts that are left; they are not looked for where tonight has none."""
    if not current.rows.num_rows:
        return current
    return _sample(lake, application, digest, window, salt)


def _acknowledged(config: Settings, application: str, digest: str) -> list[datetime]:
    """Return when people acknowledged or resolved an alarm of drift."""
    with closing(Ledger(config.ledger)) as ledger:
        alarms = [one for one in ledger.alerts(application, every=True) if one.monitor == "drift" and not one.segment]
        ids = [alarm.alert_id for alarm in alarms if alarm.release_digest == digest]
        return [time for one in ids for time, turn, who, _ in ledger.alert_history(one) if turn in PEOPLE and who]


def _suspicion(config: Settings, lake: Lake, application: str, release: str | None, window: Window) -> str | None:
    """Say which release has nights of a window that are under suspicion; None where none has."""
    rows, kept = lake.read(NIGHTS, {"application": application}), lake.read(BASELINES, {"application": application})
    if rows is None or kept is None:
        return None
    contents = dict(zip(kept["digest"].to_pylist(), kept["content"].to_pylist(), strict=True))
    digests = set(rows["release_digest"].to_pylist())
    for digest in sorted(digests & {release} if release else digests):
        mine = rows.filter(pc.field("release_digest") == digest)
        held = [found for one in pc.unique(mine["baseline"]).to_pylist() if (found := _readable(contents.get(one)))]
        after = stretch_start(_acknowledged(config, application, digest), datetime.now(UTC))
        if why := find_suspicion(held, mine, window.start.date(), window.end.date(), after):
            return f"release {digest:.12}: {why}"
    return None


def _readable(content: str | None) -> StoredBaseline | None:
    """Return a baseline; None where it is gone or cannot be read: that keeps nobody from making a new one."""
    try:
        return StoredBaseline.from_json(content) if content is not None else None
    except InputError:
        return None


def _earlier(lake: Lake, application: str, release: str | None, window: Window) -> dict[date, Values]:
    """Return what the monitors came to on the days of a window that were evaluated."""
    keys = {"application": application, "segment": ""} | ({"release_digest": release} if release else {})
    rows = lake.read(METRICS, keys)
    judged = lake.read(SUMMARIES, {"application": application, "judge_version": JUDGE_VERSION})
    if rows is None or judged is None:
        return {}
    within = [
        row for row in rows.to_pylist() if window.start <= row["window_start"] and row["window_end"] <= window.end
    ]
    known = zip(judged["release_digest"].to_pylist(), judged["window"].to_pylist(), strict=True)
    return earlier_values(within, frozenset(known))


def _find(config: Settings, release: Release, window: Window) -> Found:
    lake, named = Lake(config.lake_dir), release.spec.baseline
    if named is not None:
        stored = latest_baseline(lake.read(BASELINES, {"application": release.application, "name": named}))
        if stored is not None:
            return stored
    if named not in {None, release.spec.version}:
        rows = lake.read(SUMMARIES, {"application": release.application, "version": str(named)})
        return _unnamed(f"version {named}", find_kept(rows, window.end, -1)) or Baseline(
            name=f"version {named}", summary=Summary()
        )
    own = find_kept(_summaries(lake, release, release.digest), window.start, 0)
    if own is not None:
        return _unnamed("its first passed window", own)
    with closing(Ledger(config.ledger)) as ledger:
        before = ledger.predecessor(release.application, release.digest)
    return _unnamed(
        f"predecessor {before:.12}" if before else "", find_kept(_summaries(lake, release, before), window.end, -1)
    )


def _unnamed(name: str, kept: Kept | None) -> Baseline | None:
    if kept is None:
        return None
    return Baseline(name=name, summary=kept.summary, release_digest=kept.release_digest, window=kept.window)


def _summaries(lake: Lake, release: Release, digest: str | None) -> pa.Table | None:
    if digest is None:
        return None
    return lake.read(SUMMARIES, {"application": release.application, "release_digest": digest})
