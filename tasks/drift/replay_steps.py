"""The step that asks a release its replay set, and says whose change there was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.drift.findings import Drift
from tasks.drift.replay_set import (
    REPLAYS,
    ReplayNight,
    ReplaySpec,
    ask_items,
    attribute,
    describe_replay,
    first_night,
    read_replay_set,
    replay_row,
    score_night,
    set_digest,
    stored_night,
)
from tasks.errors import DeliveryError
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.records import record_keys
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Check, Outcome
from tasks.release.model import Release
from tasks.scoring.extra import read_evaluation_file
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.traffic.choose import choose_driver

RECENT: Final = timedelta(days=2)
"""A window that ended longer ago is not replayed: today's answers say nothing about it."""


@task(cache_policy=NO_CACHE, task_run_name="replay {release.label}")
def replay_questions(config: Settings, release: Release, window: Window, evidence: Evidence) -> Drift:
    """Ask a release its replay set, once a window, and say whose change there was; nothing where none is configured."""
    spec = read_evaluation_file(config.state_dir).replay
    if spec is None:
        return Drift()
    try:
        return Drift(remarks=_replay(config, release, window, evidence, spec))
    except DeliveryError as error:
        statement = f"drift: the replay set could not be asked: {error} (n=0)"
        check = Check(monitor="drift:replay", outcome=Outcome.ERROR, statement=statement, value=None, limit=None, n=0)
        return Drift(checks=(check,))


def _replay(
    config: Settings, release: Release, window: Window, evidence: Evidence, spec: ReplaySpec
) -> tuple[str, ...]:
    lake, keys, items = Lake(config.lake_dir), record_keys(release, window), read_replay_set(config.state_dir, spec)
    digest = set_digest(items)
    rows = lake.read(REPLAYS, {"application": release.application, "release_digest": release.digest})
    night: ReplayNight | None = stored_night(rows, digest, window.label)
    if night is None and datetime.now(UTC) - window.end > RECENT:
        return ("Replay set: not asked, as today's answers say nothing about a window that long ago.",)
    if night is None:
        path = choose_driver(config)
        answers = ask_items(items, spec, lambda question, left_s: path.probe(release, question, left_s), monotonic)
        night = score_night(items, answers, evidence.quality)
        lake.replace(REPLAYS, keys, replay_row(keys, window.end, digest, night))
    before = first_night(rows, digest, pa.scalar(window.end, pa.timestamp("us", tz="UTC")))
    return describe_replay(night, attribute(before, night) if before else None)
