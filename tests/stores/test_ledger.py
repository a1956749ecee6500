"""The ledger: one plan in force, one rollout at a time, nothing written by who lost the lease."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy
from sample_release import release_of
from sqlalchemy.exc import StatementError

from tasks.errors import ConflictError, DeliveryError, LeaseError, NotFoundError
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.lifecycle import Event, State
from tasks.release.rollout import Action, Decision, Lease
from tasks.stores.ledger import LEASE_S, Ledger, database, schema
from tasks.traffic.plan import BUCKETS, Plan

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.stack)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'deep' / 'ledger.db'}"
    return str(request.getfixturevalue("new_database")())


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    ledger = Ledger(url)
    yield ledger
    ledger.close()


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    return ledger.acquire("faq", "rollout one", NOW)


def plan(revision: int, digest: str = A, time: datetime = NOW) -> Plan:
    return Plan(
        application="faq",
        revision=revision,
        salt="s",
        buckets=(digest,) * BUCKETS,
        author="rollout one",
        reason="why | not",
        time=time,
        flow_run_id="run",
    )


def verdict(outcome: Outcome = Outcome.PASS, digest: str = A, end: datetime = NOW) -> Verdict:
    check = Check(monitor="latency", outcome=outcome, statement="p95 > 1", value=1.5, limit=None, n=3)
    return Verdict(
        application="faq", release_digest=digest, window_start=NOW - timedelta(days=1), window_end=end, checks=(check,)
    )


def test_the_newest_plan_is_in_force_and_comes_back_as_written(ledger: Ledger, lease: Lease) -> None:
    assert ledger.plan("faq") is None
    mixed = plan(2)
    mixed = Plan(**{f: getattr(mixed, f) for f in mixed.__slots__} | {"buckets": (A,) * 900 + (B,) * 100})
    ledger.write_plan(plan(1), lease)
    ledger.write_plan(mixed, lease)
    assert ledger.plan("faq") == mixed
    assert ledger.plans("faq") == [mixed, plan(1)]
    assert ledger.applications() == ["faq"]


@pytest.mark.parametrize("revision", [1, 3])
def test_a_plan_that_does_not_follow_the_newest_is_refused(ledger: Ledger, lease: Lease, revision: int) -> None:
    ledger.write_plan(plan(1), lease)
    with pytest.raises(ConflictError, match=f"is at revision 1, revision {revision} cannot follow"):
        ledger.write_plan(plan(revision, B), lease)
    assert ledger.plan("faq") == plan(1)


def test_a_plan_is_numbered_above_what_a_data_path_has_seen_and_changes_nothing_else(
    ledger: Ledger, lease: Lease
) -> None:
    assert ledger.renumber(lease, 57) is None
    for revision, digest in enumerate((A, B), 1):
        ledger.write_plan(plan(revision, digest), lease)
    for _ in range(2):
        assert ledger.renumber(lease, 57) == plan(58, B)
        assert ledger.plans("faq") == [plan(58, B), plan(1, A)]
    ledger.write_plan(plan(59, C), lease)
    ledger.acquire("faq", "another", NOW, seize=True)
    with pytest.raises(LeaseError, match="no longer holds faq"):
        ledger.renumber(lease, 99)
    assert ledger.plan("faq") == plan(59, C)


def test_only_one_holder_and_a_later_one_fences_the_earlier(ledger: Ledger, lease: Lease) -> None:
    with pytest.raises(LeaseError, match="is being changed by rollout one"):
        ledger.acquire("faq", "rollout two", NOW + timedelta(seconds=LEASE_S - 1))
    ledger.renew(lease, NOW + timedelta(seconds=20))
    with pytest.raises(LeaseError, match="is being changed by rollout one"):
        ledger.acquire("faq", "rollout two", NOW + timedelta(seconds=LEASE_S + 1))
    later = ledger.acquire("faq", "rollback", NOW + timedelta(seconds=21), seize=True)
    for write in (
        lambda: ledger.write_plan(plan(1), lease),
        lambda: ledger.renew(lease, NOW),
        lambda: ledger.begin_rollout(lease, A, "d", NOW),
    ):
        with pytest.raises(LeaseError, match="rollout one no longer holds faq: rollback does; nothing was written"):
            write()
    ledger.release_lease(lease)  # not its own any more
    with pytest.raises(LeaseError, match="rollback"):
        ledger.acquire("faq", "rollout two", NOW + timedelta(seconds=22))
    ledger.release_lease(later)
    assert ledger.acquire("faq", "rollout two", NOW + timedelta(seconds=23)).token == later.token + 1
    assert ledger.plan("faq") is None


def test_a_lease_runs_out(ledger: Ledger, lease: Lease) -> None:
    expiry = ledger.lease_expiry("faq")
    assert expiry == NOW + timedelta(seconds=LEASE_S)
    assert ledger.acquire("faq", "rollout two", expiry).token == lease.token + 1


def test_a_rollout_is_taken_up_again(ledger: Ledger, lease: Lease) -> None:
    first = ledger.begin_rollout(lease, A, "bot-1-2026", NOW)
    ledger.advance(lease, first.rollout_id, Event.DEPLOY, "it answers", NOW + timedelta(seconds=1))
    again = ledger.begin_rollout(lease, A, "bot-1-later", NOW + timedelta(seconds=9))
    assert (again.rollout_id, again.state, again.deployment_id) == (first.rollout_id, State.DEPLOYED, "bot-1-2026")
    with pytest.raises(DeliveryError, match="a rollout that is deployed cannot promote"):
        ledger.advance(lease, first.rollout_id, Event.PROMOTE, "", NOW)


def test_a_rollout_with_users_stands_in_the_way_and_one_without_is_superseded(ledger: Ledger, lease: Lease) -> None:
    stuck = ledger.begin_rollout(lease, A, "d", NOW)
    second = ledger.begin_rollout(lease, B, "d", NOW + timedelta(seconds=20))
    assert [(r.rollout_id, r.state) for r in ledger.rollouts("faq")] == [
        (second.rollout_id, State.REGISTERED),
        (stuck.rollout_id, State.REJECTED),
    ]
    assert ledger.rollouts("faq")[1].reason == "superseded by release bbbbbbbbbbbb"
    ledger.write_plan(plan(1, B), lease)
    with pytest.raises(LeaseError, match=r"release bbbbbbbbbbbb of faq is registered and has users; .* delivery abort"):
        ledger.begin_rollout(lease, C, "d", NOW)


def test_a_rollout_knows_who_takes_its_users_back(ledger: Ledger, lease: Lease) -> None:
    assert ledger.begin_rollout(lease, A, "d", NOW).stable_digest == ""
    ledger.write_plan(plan(1, A), lease)
    promoted = ledger.rollouts("faq")[0].rollout_id
    for event in (Event.DEPLOY, Event.SMOKE_PASSED, Event.SHIFT, Event.PROMOTE):
        ledger.advance(lease, promoted, event, "", NOW)
    assert ledger.begin_rollout(lease, B, "d", NOW + timedelta(seconds=1)).stable_digest == A
    assert ledger.predecessor("faq", B) == A
    assert ledger.predecessor("faq", A) is None
    assert ledger.predecessor("faq", C) is None


def test_a_failure_and_the_quarantine_are_one_write(ledger: Ledger, lease: Lease) -> None:
    begun = ledger.begin_rollout(lease, A, "d", NOW)
    failed = ledger.fail(lease, begun.rollout_id, "answers are wrong", NOW, quarantined=True)
    assert (failed.state, failed.reason) == (State.REJECTING, "answers are wrong")
    again = ledger.fail(lease, begun.rollout_id, "another reason", NOW, quarantined=True)
    assert (again.state, again.reason) == (State.REJECTING, "answers are wrong")
    kept = ledger.quarantined("faq", A)
    assert kept is not None
    assert kept.reason == "answers are wrong"
    ledger.acquire("faq", "rollback", NOW, seize=True)
    other = ledger.rollouts("faq")[0]
    with pytest.raises(LeaseError, match="nothing was written"):
        ledger.fail(lease, other.rollout_id, "late", NOW, quarantined=True)


def test_a_rollback_does_not_take_the_lease_of_another_rollback(ledger: Ledger, lease: Lease) -> None:
    first = ledger.acquire("faq", "rollback one", NOW, seize=True)
    assert first.token > lease.token
    with pytest.raises(LeaseError, match="is being changed by rollback one"):
        ledger.acquire("faq", "rollback two", NOW, seize=True)
    ledger.release_lease(first)
    assert ledger.acquire("faq", "rollback two", NOW, seize=True).token == first.token + 1


def test_a_release_is_remembered_and_found_by_what_people_call_it(ledger: Ledger) -> None:
    releases = [release_of(version) for version in ("1", "2", "2b")]
    for release in (*releases, releases[0]):
        ledger.remember(release)
    first = releases[0]
    assert ledger.recall("faq", first.digest) == first
    assert ledger.resolve("faq", first.digest) == ledger.resolve("faq", first.short) == first.digest
    assert ledger.resolve("faq", "2b") == releases[2].digest
    with pytest.raises(NotFoundError, match=r"no release of faq called 'nope'; rolled out here were: .*version 2b"):
        ledger.resolve("faq", "nope")
    with pytest.raises(NotFoundError, match="no release aaaaaaaaaaaa of faq was ever rolled out here"):
        ledger.recall("faq", A)


def test_a_release_that_somebody_else_keeps_at_the_same_moment_is_kept(ledger: Ledger) -> None:
    release, others = release_of("1"), [Ledger(ledger.url)]

    def come_first(_db: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO releases") and others:
            others.pop().remember(release)

    if not ledger.url.startswith("sqlite"):  # there nobody else writes meanwhile
        sqlalchemy.event.listen(ledger._engine, "before_cursor_execute", come_first)
    for _ in range(2):
        ledger.remember(release)
    assert ledger.recall("faq", release.digest) == release
    assert len(others) == (1 if ledger.url.startswith("sqlite") else 0)


def test_an_error_of_the_database_repeats_no_prompt(ledger: Ledger) -> None:
    release = release_of("1")
    values = {"application": "faq", "release_digest": release.digest, "record": release.model_dump_json()}
    ledger.remember(release)
    with pytest.raises(sqlalchemy.exc.IntegrityError) as caught, ledger._write() as db:
        db.execute(sqlalchemy.insert(schema.releases).values(**values))
    assert release.prompt.text in values["record"]
    assert release.prompt.text not in str(caught.value)


def test_what_people_said_of_a_rollout_stays_on_record_in_order(ledger: Ledger, lease: Lease) -> None:
    begun = ledger.begin_rollout(lease, A, "d", NOW)
    assert ledger.decisions(begun.rollout_id) == []
    said = [
        Decision(Action.HOLD, 100, "Bob", "wait", NOW + timedelta(hours=1)),
        Decision(Action.APPROVE, 500, "Ada", "looks good", NOW),
    ]
    for decision in said:
        ledger.record_decision(begun.rollout_id, decision)
    assert ledger.decisions(begun.rollout_id) == said
    assert [str(decision) for decision in said] == ["held by Bob: wait", "approved by Ada: looks good"]
    with pytest.raises(NotFoundError, match="there is no rollout nope"):
        ledger.record_decision("nope", said[0])


def test_a_verdict_of_the_same_window_replaces_the_earlier_one(ledger: Ledger) -> None:
    first = ledger.record_verdict(verdict(), kind="evaluation", flow_run_id="1")
    again = ledger.record_verdict(verdict(Outcome.FAIL), kind="evaluation", recorded=NOW + timedelta(seconds=1))
    other = ledger.record_verdict(verdict(Outcome.INCONCLUSIVE), kind="ramp", recorded=NOW + timedelta(seconds=2))
    assert again == first != other
    assert ledger.verdict(first).verdict == verdict(Outcome.FAIL)
    assert ledger.verdict(first).recorded == NOW + timedelta(seconds=1)
    assert [row.kind for row in ledger.verdicts("faq")] == ["ramp", "evaluation"]
    with pytest.raises(NotFoundError, match="there is no verdict nope"):
        ledger.verdict("nope")


def test_quarantine_lasts_until_a_named_override(ledger: Ledger, lease: Lease) -> None:
    begun = ledger.begin_rollout(lease, A, "d", NOW)
    ledger.fail(lease, begun.rollout_id, "answers are wrong", NOW, quarantined=True)
    assert ledger.quarantined("faq", A) is not None
    ledger.lift_quarantine(lease, A, "Ada", "the index is rebuilt", NOW)
    assert ledger.quarantined("faq", A) is None
    ledger.fail(lease, begun.rollout_id, "wrong again", NOW, quarantined=True)
    assert (kept := ledger.quarantined("faq", A)) is not None
    assert kept.reason == "wrong again"


def test_times_are_utc_and_never_naive(ledger: Ledger, lease: Lease) -> None:
    east = datetime.fromisoformat("2026-03-01T14:00:00+02:00")
    ledger.write_plan(plan(1, time=east), lease)
    stored = ledger.plan("faq")
    assert stored is not None
    assert stored.time == NOW
    assert stored.time.tzinfo is UTC
    with pytest.raises(StatementError, match="has no time zone"):
        ledger.write_plan(plan(2, time=datetime(2026, 3, 1)), lease)  # noqa: DTZ001 - the point of the test


def test_only_one_of_many_gets_the_lease_of_a_new_application(ledger: Ledger) -> None:
    start = threading.Barrier(6)

    def acquire(who: int) -> bool:
        start.wait()
        try:
            ledger.acquire("new", f"rollout {who}", NOW)
        except LeaseError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(acquire, range(6))) == 1


def test_writers_that_race_write_every_revision_once(ledger: Ledger) -> None:
    lease = ledger.acquire("faq", "rollout one", NOW)
    start = threading.Barrier(4)

    def write(who: str) -> list[int]:
        won = list[int]()
        start.wait()
        for revision in range(1, 21):
            try:
                ledger.write_plan(plan(revision, who * 64), lease)
                won.append(revision)
            except ConflictError:
                pass
        return won

    with ThreadPoolExecutor(4) as pool:
        won = [revision for part in pool.map(write, "abcd") for revision in part]
    revisions = [p.revision for p in ledger.plans("faq")]
    assert sorted(won) == sorted(revisions) == list(range(1, 21))


def test_a_holder_that_freezes_inside_a_transaction_keeps_nobody_waiting_for_ever(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "FROZEN_MS", 300)
    ledger = Ledger(new_database())
    lease = ledger.acquire("faq", "rollout", NOW)
    with ledger._engine.connect() as frozen:  # it holds the row of the lease, and does nothing more
        frozen.execute(sqlalchemy.text("SELECT * FROM leases WHERE application = 'faq' FOR UPDATE")).all()
        taken = ledger.acquire("faq", "abort", NOW + timedelta(seconds=1), seize=True)
        frozen.invalidate()
    assert taken.token == lease.token + 1
    ledger.close()
