"""The steps of baselines: make a named one from a window, and find what a release is held against."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.drift.baseline import About, StoredBaseline, make_baseline
from tasks.drift.named import (
    BASELINES,
    NIGHTS,
    SPEC,
    answered_calls,
    baseline_row,
    hold_against,
    latest_baseline,
    make_tonight,
    next_version,
    night_row,
    nights_since,
)
from tasks.drift.scan import scan_relation
from tasks.errors import InputError
from tasks.evaluation.evidence import Baseline, Evidence
from tasks.evaluation.records import SUMMARIES, latest_summary, oldest_summary, record_keys
from tasks.evaluation.summary import Summary
from tasks.evaluation.window import DAY, Window
from tasks.monitors.verdict import Check
from tasks.release.model import Release
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger

Found = Baseline | StoredBaseline | str | None
"""What a release is held against; a text says why it cannot be."""


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1)
def keep_baseline(config: Settings, application: str, name: str, release: str | None, window: Window) -> StoredBaseline:
    """Make a baseline of a window and keep it; the same content again is the same version."""
    lake = Lake(config.lake_dir)
    if release is not None:
        with closing(Ledger(config.ledger)) as ledger:
            release = ledger.resolve(application, release)
    about = About(
        name=name, version=1, application=application, release_digest=release, start=window.start, end=window.end
    )
    with lake.query(window.start, window.end, application) as connection:
        made = make_baseline(answered_calls(connection, release), SPEC, about)
    keys = {"application": application, "name": name}
    found = next_version(made, latest_baseline(lake.read(BASELINES, keys)))
    row = baseline_row(found, datetime.now(UTC))
    lake.replace(BASELINES, {**keys, "digest": found.digest}, row)
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
def check_drift(config: Settings, release: Release, window: Window, baseline: Found) -> tuple[Check, ...]:
    """Hold a release against its named baseline, and keep what the night came to; nothing for any other baseline."""
    if not isinstance(baseline, StoredBaseline):
        return ()
    lake, keys = Lake(config.lake_dir), record_keys(release, window)
    with lake.query(window.start, window.end, release.application) as connection:
        scan = scan_relation(answered_calls(connection, release.digest), SPEC)
    if window.end - window.start != DAY:
        return hold_against(baseline, scan, None, (), release.digest)
    night = make_tonight(window.start.date(), scan)
    before = lake.read(NIGHTS, {"application": release.application, "release_digest": release.digest})
    lake.replace(NIGHTS, keys, night_row(keys, baseline, night))
    return hold_against(baseline, scan, night, nights_since(before, baseline, night.day), release.digest)


def with_baseline(evidence: Evidence, baseline: Found, drift: tuple[Check, ...]) -> Evidence:
    """Return the evidence with what it is compared with, and what came of that."""
    if isinstance(baseline, str):
        return replace(evidence, baseline_problem=baseline)
    if isinstance(baseline, StoredBaseline):
        name = f"{baseline.about.name} v{baseline.about.version} ({baseline.digest[:12]})"
        return replace(evidence, baseline_name=name, drift_checks=drift)
    return replace(evidence, baseline=baseline, baseline_name=baseline.name if baseline else "")


def _find(config: Settings, release: Release, window: Window) -> Found:
    lake, named = Lake(config.lake_dir), release.spec.baseline
    if named is not None:
        stored = latest_baseline(lake.read(BASELINES, {"application": release.application, "name": named}))
        if stored is not None:
            return stored
    if named not in {None, release.spec.version}:
        rows = lake.read(SUMMARIES, {"application": release.application, "version": str(named)})
        return Baseline(name=f"version {named}", summary=latest_summary(rows, window.end) or Summary())
    own = oldest_summary(_summaries(lake, release, release.digest), window.start)
    if own is not None:
        return Baseline(name="its first passed window", summary=own)
    with closing(Ledger(config.ledger)) as ledger:
        before = ledger.predecessor(release.application, release.digest)
    last = latest_summary(_summaries(lake, release, before), window.end)
    return Baseline(name=f"predecessor {before:.12}", summary=last) if last else None


def _summaries(lake: Lake, release: Release, digest: str | None) -> pa.Table | None:
    if digest is None:
        return None
    return lake.read(SUMMARIES, {"application": release.application, "release_digest": digest})
