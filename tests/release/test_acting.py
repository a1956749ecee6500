"""What a flow writes while it changes an application: plans whose users stay, and reasons without anybody's words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.runtime import flow_run
from sqlalchemy.exc import SQLAlchemyError

from tasks.errors import ServingError
from tasks.release import acting, telling
from tasks.release.acting import change, write_plan
from tasks.release.lifecycle import Event, State
from tasks.release.rollout import Lease
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 1, tzinfo=UTC)
A, B, C = "a" * 64, "b" * 64, "c" * 64
LONG = "f" * 64


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    def emit(**_: Any) -> None:
        pass

    monkeypatch.setattr(telling, "emit_event", emit)  # there is no server here
    settings = Settings(state_dir=tmp_path)
    yield settings
    Ledger(settings.ledger).close()


def shares_of(ledger: Ledger, lease: Lease, *wanted: dict[str, int]) -> list[Plan]:
    return [write_plan(ledger, lease, shares, "as a test wants it") for shares in wanted]


def buckets_of(plan: Plan, digest: str) -> set[int]:
    return {bucket for bucket, owner in enumerate(plan.buckets) if owner == digest}


def canary(stable: str, candidate: str, buckets: int) -> dict[str, int]:
    return {candidate: buckets, stable: BUCKETS - buckets}


def test_each_ramp_begins_with_other_users(where: Settings) -> None:
    ledger = Ledger(where.ledger)
    lease = ledger.acquire(LONG, "tester", NOW)
    plans = shares_of(
        *(ledger, lease, {A: BUCKETS}, canary(A, B, 100), {A: BUCKETS}, canary(A, B, 100)),
        *({B: BUCKETS}, canary(B, C, 100)),
    )
    first, again, other = (buckets_of(plan, digest) for plan, digest in ((plans[1], B), (plans[3], B), (plans[5], C)))
    assert len(first) == len(again) == len(other) == 100
    # Of 100 of 1,000 drawn anew, 10 are met by chance; more than 30 would be one chance in a thousand million.
    assert max(len(first & again), len(first & other), len(again & other)) <= 30
    assert [plan.revision for plan in plans] == [1, 2, 3, 4, 5, 6]
    assert max(len(plan.salt) for plan in plans) <= 64


def test_a_ramp_keeps_the_users_it_has_given_also_where_it_was_killed_and_started_again(where: Settings) -> None:
    ledger = Ledger(where.ledger)
    lease = ledger.acquire("faq", "tester", NOW)
    plans = shares_of(ledger, lease, {A: BUCKETS}, *(canary(A, B, buckets) for buckets in (10, 50, 250)))
    killed = ledger.acquire("faq", "tester, started again", NOW, seize=True)
    plans += shares_of(ledger, killed, *(canary(A, B, buckets) for buckets in (250, 500, 50, 500)))
    given = [buckets_of(plan, B) for plan in plans[1:]]
    assert [len(each) for each in given] == [10, 50, 250, 250, 500, 50, 500]
    assert given[0] < given[1] < given[2] == given[3] < given[4] == given[6]
    assert given[5] < given[4]
    assert len({plan.salt for plan in plans[1:]}) == 1
    assert plans[3] == plans[4]  # on record already: written once


def ramp_and_fail(where: Settings, error: Exception) -> None:
    ledger = Ledger(where.ledger)
    with change(where, "faq") as lease:
        rollout = ledger.begin_rollout(lease, B, "d", NOW)
        for event in (Event.DEPLOY, Event.SMOKE_PASSED, Event.SHIFT):
            ledger.advance(lease, rollout.rollout_id, event, "", NOW)
        raise error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ServingError("node a does not answer"), "ServingError: node a does not answer"),
        (SQLAlchemyError("a prompt with a secret"), "SQLAlchemyError"),
        (ValueError("a prompt with a secret"), "ValueError"),
    ],
)
def test_a_ramp_is_held_for_the_text_of_our_own_errors_and_the_kind_of_others(
    where: Settings, error: Exception, reason: str
) -> None:
    with pytest.raises(type(error)):
        ramp_and_fail(where, error)
    (rollout,) = Ledger(where.ledger).rollouts("faq")
    assert (rollout.state, rollout.reason) == (State.HELD, f"nobody watches the ramp: {reason}")


def test_the_name_of_a_run_is_cut_to_what_the_ledger_keeps_and_two_runs_stay_apart(
    where: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_run, "get_flow_name", lambda: "rollout")
    monkeypatch.setattr(flow_run, "get_name", lambda: "a long name " * 20)
    monkeypatch.setattr(acting, "tag_run", lambda _application: None)
    holders, ids = list[str](), iter(("11111111-1111", "22222222-2222"))
    monkeypatch.setattr(flow_run, "get_id", lambda: next(ids))
    for _ in range(2):
        with change(where, "faq") as lease:
            holders.append(lease.holder)
    assert [len(holder) for holder in holders] == [200, 200]
    assert [holder[-10:] for holder in holders] == ["(11111111)", "(22222222)"]
