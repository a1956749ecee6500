"""The step that asks a release its replay set, and says whose change there was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.drift.findings import Drift
from tasks.drift.replay_raters import find_raters
from tasks.drift.replay_scores import (
    REPLAYS,
    describe_replay,
    first_nights,
    keep_raters,
    replay_rows,
    score_night,
    stored_nights,
)
from tasks.drift.replay_set import ReplayItem, ReplaySpec, ask_items, find_unit, read_replay_set, set_digest
from tasks.errors import DeliveryError
from tasks.evaluation.evidence import Estimate, Evidence
from tasks.evaluation.records import record_keys
from tasks.evaluation.window import Window
from tasks.monitors.verdict import Check, Outcome
from tasks.release.model import Release
from tasks.scoring.extra import EvaluationSpec
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.traffic.choose import choose_driver
from tasks.traffic.driver import Answer

RECENT: Final = timedelta(days=2)
"""A window that ended longer ago is not replayed: today's answers say nothing about it."""


@task(cache_policy=NO_CACHE, task_run_name="replay {release.label}")
def replay_questions(  # noqa: PLR0917 - who is asked, who scores, and what it is held against
    config: Settings, release: Release, window: Window, plan: EvaluationSpec, unaided: Evidence, judged: Evidence
) -> Drift:
    """Ask a release its replay set, once a window, and say whose change there was; nothing where none is configured.

    Args:
        config: Where things are.
        release: Who is asked.
        window: The night.
        plan: With the set, and with the judges and scorers of the team.
        unaided: What live answers came to, before any calibration.
        judged: The same, with what judges say.
    """
    if plan.replay is None:
        return Drift()
    live = {"quality": unaided.quality, **judged.shown_means}
    live |= {f"scorer:{name}": mean for name, mean in judged.scorer_means.items()}
    try:
        return Drift(remarks=_replay(config, release, window, plan, plan.replay, live))
    except DeliveryError as error:
        statement = f"drift: the replay set could not be asked: {error} (n=0)"
        check = Check(monitor="drift:replay", outcome=Outcome.ERROR, statement=statement, value=None, limit=None, n=0)
        return Drift(checks=(check,))


def _replay(  # noqa: PLR0917 - as the step
    config: Settings,
    release: Release,
    window: Window,
    plan: EvaluationSpec,
    spec: ReplaySpec,
    live: dict[str, Estimate | None],
) -> tuple[str, ...]:
    lake, keys, items = Lake(config.lake_dir), record_keys(release, window), read_replay_set(config.state_dir, spec)
    digest, now = set_digest(items), datetime.now(UTC)
    raters = find_raters(config, release.application, window, plan, now)
    rows = lake.read(REPLAYS, {"application": release.application, "release_digest": release.digest})
    nights = stored_nights(rows, digest, window.label)
    if not nights and now - window.end > RECENT:
        return ("Replay set: not asked, as today's answers say nothing about a window that long ago.",)
    if not nights:
        answers = ask_items(items, spec, _asking(config, release, spec), monotonic)
        nights = score_night(items, answers, raters, live)
        lake.replace(REPLAYS, keys, replay_rows(keys, window.end, digest, nights))
    before = first_nights(rows, digest, pa.scalar(window.end, pa.timestamp("us", tz="UTC")))
    kept, late = keep_raters(nights, raters)
    told = (f"Replay set by {name}: not scored, as the window was replayed without it." for name in late)
    return (*describe_replay(kept, before, spec.least), *told)


def _asking(config: Settings, release: Release, spec: ReplaySpec) -> Callable[[ReplayItem, float], Answer]:
    """Return what puts a question to a release, or to the data path as a user who has it."""
    path, plan = choose_driver(config), None
    if spec.via == "data_path":
        with closing(Ledger(config.ledger)) as ledger:
            plan = ledger.plan(release.application)

    def ask(item: ReplayItem, left_s: float) -> Answer:
        unit = find_unit(plan, release.digest, item.id) if plan else None
        if unit is None:
            return path.probe(release, item.question, left_s)
        answer = path.ask(release.application, unit, item.question, left_s)
        # A plan may change meanwhile, and not every data path follows the user: what another said is not its answer.
        is_its_own = answer.release_digest == release.digest
        return answer if is_its_own else replace(answer, status=0, text="", error="it was not this release's answer")

    return ask
