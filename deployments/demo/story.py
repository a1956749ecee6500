"""The whole story, played on a stack of its own: every act really happens and is checked, or the demo fails.

v1 comes in; v2, which is better, ramps and is promoted; v4 is stopped at its smoke test; v3, which answers fluently
and wrong, is promoted in a hurry, the evaluation of what users were really answered catches it, and an automation
puts v2 back. All the while users ask, and not one of their requests may fail.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deployments.commands.kick import Ended, follow_run, kick, runs_of
from deployments.demo import ending
from deployments.demo.ending import BillLine
from deployments.demo.users import Asked, Crowd
from deployments.stack.services import Layout, choose_ports
from deployments.stack.stack import running_stack, stop
from tasks.costs.rollup import format_usd
from tasks.errors import DeliveryError, StackError
from tasks.monitors.verdict import Outcome, RecordedVerdict
from tasks.release.analysis.metrics import Margins
from tasks.release.model import Release, read_release_file
from tasks.release.ramp import RampPolicy
from tasks.smoke.suite import read_smoke_file

APPLICATION = "faq"
_MARKER = ".demo"
_FOLDER = Path(__file__).parent
_QUESTIONS_PER_S = 40.0
_ENOUGH_ANSWERS = 200
_USERS = 4000
_RAMP = RampPolicy(
    # A ramp of seconds instead of hours: few users, so only a coarse difference can be ruled out.
    percents=(20, 50, 100),
    min_requests=30,
    min_users=30,
    max_step_s=90,
    look_s=0.5,
    tick_s=1,
    settle_s=1,
    margins=Margins(success=0.1, latency=0.1, quality=0.15, toxicity=0.1, missing=0.15),
)
_IN_A_HURRY = RampPolicy(enabled=False)


class ActError(DeliveryError):
    """An act of the story did not happen as it must."""


@dataclass(slots=True)
class Story:
    """What has happened so far.

    Args:
        layout: The stack it is played on.
        say: Prints one line.
    """

    layout: Layout
    say: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    releases: dict[str, Release] = field(default_factory=dict)
    caught: RecordedVerdict | None = None
    verdicts: list[RecordedVerdict] = field(default_factory=list)
    restored: datetime | None = None
    bill: list[BillLine] = field(default_factory=list)
    asked: Asked = field(default_factory=lambda: Asked(()))

    def tell(self, text: str) -> None:
        """Print a line with the seconds since the story began."""
        self.say(f"{time.monotonic() - self.began:6.1f} s  {text}")


def play(state: Path, say: Callable[[str], None] = print) -> int:
    """Play the story and print what happened.

    Args:
        state: The state folder; what an earlier demo left in it is deleted first.
        say: Prints one line.

    Returns:
        0 if every act really happened, 1 if one did not; its name and the reason are printed.
    """
    began = time.monotonic()
    _forget(state)
    say(f"starting the stack in {state} (logs in {state / 'logs'})")
    try:
        with running_stack(state, choose_ports(fixed=False), lambda line: say(f"          {line}")) as layout:
            os.environ.update(layout.variables() | {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"})
            story = Story(layout=layout, say=say, began=began)
            _play_acts(story)
            _print_end(story)
    except ActError as error:
        say(f"\nThe story broke: {error}")
        return 1
    say(f"\nEverything is ended again. {time.monotonic() - began:.0f} s in all. The state is kept in {state}.")
    return 0


def _forget(state: Path) -> None:
    """Delete what an earlier demo left, and nothing else.

    Raises:
        StackError: The folder holds something that is not a demo's.
    """
    if state.exists() and any(state.iterdir()) and not (state / _MARKER).exists():
        raise StackError(f"{state} is not empty and no demo's; give an empty folder or a new one: --state FOLDER")
    if (state / "stack.json").exists():
        stop(state.absolute())
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True, mode=0o700)
    (state / _MARKER).write_text("made by the demo, deleted by the next one\n", encoding="utf-8")


def _play_acts(story: Story) -> None:
    with _act(story, "The models are trained and registered"):
        _register_models(story)
    with _act(story, "v1 comes in"):
        _roll_out(story, "v1", _RAMP, "Promoted")
    with _crowd(story) as crowd:
        with _act(story, "v2, better, ramps and is promoted"):
            _roll_out(story, "v2", _RAMP, "Promoted")
            _wait_for_answers(story, crowd, "v2")
        with _act(story, "v4, broken, is stopped at its smoke test"):
            _roll_out(story, "v4", _RAMP, "Rejected")
            _never_answered(story, crowd, "v4")
        with _act(story, "v3, fluent and wrong, is promoted in a hurry, without a ramp"):
            _roll_out(story, "v3", _IN_A_HURRY, "Promoted")
            _wait_for_answers(story, crowd, "v3")
        with _act(story, "The nightly evaluation catches v3"):
            _evaluate(story)
        with _act(story, "The automation puts v2 back"):
            _await_rollback(story, crowd)
    with _act(story, "No request of any user failed"):
        _count_failures(story, crowd)
    with _act(story, "The day is paid for"):
        _roll_up_costs(story)


@contextmanager
def _act(story: Story, name: str) -> Iterator[None]:
    story.tell(f"--- {name}")
    try:
        yield
    except ActError as error:
        raise ActError(f"{name}: {error}") from error
    except DeliveryError as error:
        raise ActError(f"{name}: {error}") from error


@contextmanager
def _crowd(story: Story) -> Iterator[Crowd]:
    from deployments.demo.corpus import corpus
    from deployments.demo.questions import typed_questions

    questions = typed_questions(corpus(), seed=1)
    with Crowd(story.layout.data_url, APPLICATION, questions, users=_USERS, rate_per_s=_QUESTIONS_PER_S) as crowd:
        yield crowd
        story.asked = crowd.stop()


def _register_models(story: Story) -> None:
    from deployments.demo.bot import register_models
    from tasks.stores.registry import Registry

    for variant, address in register_models(Registry(story.layout.mlflow_url)).items():
        story.tell(f"{variant} is {address}")


def _roll_out(story: Story, version: str, ramp: RampPolicy, expected: str) -> None:
    spec = read_release_file(_FOLDER / "releases" / f"{version}.yaml")
    parameters = {
        "release": spec.model_dump(mode="json"),
        "ramp": ramp.model_dump(mode="json"),
        "smoke": read_smoke_file(_FOLDER / "smoke.yaml").model_dump(mode="json"),
    }
    ended = kick("rollout/rollout", parameters, timeout_s=240)
    story.tell(f"{ended.state}: {ended.message}")
    if ended.state != expected:
        raise ActError(f"the rollout ended {ended.state}, not {expected}: {ended.message}")
    story.releases[version] = _newest_release(story)


def _newest_release(story: Story) -> Release:
    from tasks.settings import settings
    from tasks.stores.ledger import Ledger
    from tasks.stores.registry import Registry

    newest = Ledger(settings().ledger).rollouts(APPLICATION)[0]
    return Registry(story.layout.mlflow_url).find(APPLICATION, newest.release_digest)


def _wait_for_answers(story: Story, crowd: Crowd, version: str) -> None:
    digest, deadline = story.releases[version].digest, time.monotonic() + 60
    while len(answers := crowd.so_far().of(digest).replies) < _ENOUGH_ANSWERS:
        if time.monotonic() > deadline:
            raise ActError(f"{version} answered {len(answers)} questions in 60 s, not {_ENOUGH_ANSWERS}")
        time.sleep(0.2)
    right = crowd.so_far().of(digest).accuracy or 0.0
    story.tell(f"{version} has answered {len(answers)} questions of users, {right:.0%} of them right")


def _never_answered(story: Story, crowd: Crowd, version: str) -> None:
    answers = crowd.so_far().of(story.releases[version].digest).replies
    if answers:
        raise ActError(f"{version} answered {len(answers)} questions of users, it must answer none")
    story.tell(f"no user was answered by {version}")


def _evaluate(story: Story) -> None:
    from tasks.settings import settings
    from tasks.stores.ledger import Ledger

    window = {"application": APPLICATION, **_today()}
    ended = kick("evaluation/nightly", window, timeout_s=120)
    story.verdicts = [row for row in Ledger(settings().ledger).verdicts(APPLICATION) if row.kind == "evaluation"]
    by_release = {row.verdict.release_digest: row for row in story.verdicts}
    for version in ("v1", "v2", "v3"):
        row = by_release.get(story.releases[version].digest)
        if row is None:
            raise ActError(f"{version} was not judged; the evaluation ended {ended.state}: {ended.message}")
        story.tell(f"{version}: {row.verdict.outcome}: {row.verdict.reason}")
    story.caught = by_release[story.releases["v3"].digest]
    if story.caught.verdict.outcome is not Outcome.FAIL:
        raise ActError(f"v3 was judged {story.caught.verdict.outcome}, not fail")
    if by_release[story.releases["v2"].digest].verdict.outcome is Outcome.FAIL:
        raise ActError("v2 was judged fail, although nothing is wrong with it")


def _today() -> dict[str, Any]:
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return {"start": midnight.isoformat(), "end": (now + timedelta(seconds=1)).isoformat()}


def _await_rollback(story: Story, crowd: Crowd) -> None:
    bad, good = story.releases["v3"].digest, story.releases["v2"].digest
    deadline = time.monotonic() + 60
    while (run := _automatic_run(bad)) is None:
        if time.monotonic() > deadline:
            raise ActError("the automation started no rollback within 60 s")
        time.sleep(0.3)
    ended: Ended = follow_run(run, timeout_s=120)
    story.tell(f"{ended.state}: {ended.message}")
    if ended.state != "RolledBack":
        raise ActError(f"the rollback ended {ended.state}, not RolledBack: {ended.message}")
    time.sleep(1.5)
    replies = crowd.so_far()
    last_wrong = max(reply.asked for reply in replies.of(bad).replies)
    since = replies.since(last_wrong + timedelta(milliseconds=1))
    others = [reply for reply in since.replies if reply.release != good]
    if others or not since.replies:
        said = f"{others[0].status} {others[0].error} from {others[0].release}" if others else "nothing"
        raise ActError(f"{len(others)} of {len(since.replies)} questions since then were not answered by v2: {said}")
    story.restored = last_wrong
    story.tell(f"since then all {len(since.replies)} questions were answered by v2")


def _automatic_run(bad: str) -> str | None:
    runs = runs_of("rollback/rollback")
    return next((run.flow_run_id for run in runs if run.parameters.get("release") == bad and run.is_automatic), None)


def _count_failures(story: Story, crowd: Crowd) -> None:
    asked = crowd.stop()
    if asked.failed:
        raise ActError(f"{asked.failed} of {len(asked.replies)} requests of users failed")
    story.tell(f"{len(asked.replies)} requests, 0 failed")


def _roll_up_costs(story: Story) -> None:
    kick("ingestion/hourly", {})
    ended = kick("costs/daily", {"start": datetime.now(UTC).date().isoformat(), "days": 1, "application": APPLICATION})
    if not ended.is_completed:
        raise ActError(f"the costs flow ended {ended.state}: {ended.message}")
    story.bill = _read_bill()
    billed = sum(line.requests for line in story.bill)
    answered = sum(1 for reply in story.asked.replies if reply.release is not None)
    if billed != answered:
        raise ActError(f"{billed} requests are on the bill, {answered} were answered")
    unpriced = sum(line.requests - line.priced for line in story.bill)
    if unpriced:
        raise ActError(f"{unpriced} requests have no price")
    total = sum(line.cost_pusd for line in story.bill)
    story.tell(f"{billed} requests, every one priced: {format_usd(total)} USD")


def _read_bill() -> list[BillLine]:
    from tasks.costs.days import ROLLUPS
    from tasks.settings import settings
    from tasks.stores.lake import Lake

    rows = Lake(settings().lake_dir).read(ROLLUPS, {"application": APPLICATION})
    return [
        BillLine(
            release_digest=str(row["release_digest"]),
            requests=row["requests"],
            priced=row["priced_requests"],
            input_tokens=int(row["input_tokens"] or 0),
            output_tokens=int(row["output_tokens"] or 0),
            cost_pusd=int(row["cost_pusd"] or 0),
        )
        for row in (rows.to_pylist() if rows is not None else [])
    ]


def _print_end(story: Story) -> None:
    from tasks.settings import settings
    from tasks.stores.ledger import Ledger

    ledger, caught, restored = Ledger(settings().ledger), story.caught, story.restored
    story.say("")
    ending.print_plans(ledger.plans(APPLICATION), story.releases)
    ending.print_verdicts(ledger.verdicts(APPLICATION), story.releases)
    ending.print_answers(story.asked, story.releases)
    ending.print_bill(story.bill, story.releases)
    if caught is not None and restored is not None:
        seconds = max(0.0, (restored - caught.recorded).total_seconds())
        story.say(f"From the failed check to the last wrong answer: {seconds:.1f} s.")
