"""Print what a rollout would do, without touching anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table

from tasks.experiments.life import lack_of_test
from tasks.release.model import ReleaseSpec, release_digest, text_sha256
from tasks.release.preview import Preview, TrafficSeen, preview
from tasks.release.ramp import RampPolicy
from tasks.settings import Settings
from tasks.smoke.suite import SmokeSuite
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry

_LONGEST = 60
_SEEN = """
SELECT count(*), count(DISTINCT coalesce(unit, interaction_id)), avg((status >= 500)::INT) FROM interactions
"""


def plan_rollout(where: Settings, spec: ReleaseSpec, policy: RampPolicy, suite: SmokeSuite) -> Preview:
    """Read what is in force and return what the rollout would do.

    Raises:
        NotFoundError: The release names a prompt version that is not registered.
    """
    ledger, now = Ledger(where.ledger), datetime.now(UTC)
    plan, rollouts = ledger.plan(spec.application), ledger.rollouts(spec.application)
    kept = ledger.quarantined(spec.application, _digest(where, spec))
    return preview(
        spec,
        policy,
        suite,
        champion=ledger.recall(spec.application, next(iter(plan.counts()))).spec if plan else None,
        plan=plan,
        open_rollout=next((rollout for rollout in rollouts if not rollout.is_finished), None),
        quarantine_reason=kept.reason if kept else None,
        seen=_seen(Lake(where.lake_dir), spec.application, now),
        others=_experiments_in_the_way(ledger, spec, _digest(where, spec)) if plan else (),
    )


def _experiments_in_the_way(ledger: Ledger, spec: ReleaseSpec, digest: str) -> tuple[str, ...]:
    found, running, test = [], ledger.open_experiment(spec.application), spec.ab_test
    if running is not None:
        stop = f"delivery experiment stop {spec.application}"
        found.append(f"experiment {running.name} is {running.stage}: wait for its end, or {stop}")
    if test is not None:
        named = (record for record in ledger.experiments(spec.application) if record.name == test.name)
        lack = lack_of_test(next(named, None), digest)
        if lack:
            found.append(f"its A/B test {test.name!r} {lack}: delivery experiment start, with the release file")
    return tuple(found)


def _digest(where: Settings, spec: ReleaseSpec) -> str:
    prompt = spec.prompt
    if prompt.version is None:
        return release_digest(spec, text_sha256(prompt.text or ""))
    return release_digest(spec, Registry(where.mlflow_url).prompt(prompt.name, prompt.version).sha256)


def _seen(lake: Lake, application: str, now: datetime) -> TrafficSeen:
    with lake.query(now - timedelta(days=1), now, application) as database:
        row = database.execute(_SEEN).fetchone()
    requests, users, failed = row or (0, 0, None)
    return TrafficSeen(requests=requests, users=users, failed_share=failed)


def print_preview(spec: ReleaseSpec, found: Preview) -> None:
    """Print a preview for people."""
    console = Console(highlight=False)
    console.print(f"[bold]{spec.application}: {spec.model_id} {spec.version}[/bold]: nothing is touched by this")
    table = Table(title="What would change", title_justify="left")
    for name in ("field", "now", "then"):
        table.add_column(name, overflow="fold")
    for field, now, then in found.changes:
        table.add_row(field, _short(now), _short(then))
    console.print(table)
    for title, lines in (
        ("Traffic", found.steps),
        ("Checks", found.checks),
        ("How long", found.durations),
        ("In the way", found.obstacles),
    ):
        if lines:
            console.print(f"[bold]{title}[/bold]")
            for number, line in enumerate(lines, start=1):
                console.print(f"  {number}. {line}", markup=False)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
