"""What happened to an application: who served when, why it changed, by whom, and what was stopped in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from tasks.monitors.verdict import Outcome, RecordedVerdict
from tasks.release.lifecycle import UNDOING, State
from tasks.release.rollout import Rollout
from tasks.traffic.plan import BUCKETS, Plan

AUTOMATIC: Final = frozenset({"automation", "reconcile", "rollback", "rollout"})
"""Who acts without a person: the automation of a failed verdict, the reconciliation, and flows that resolve alerts."""


class Deed(StrEnum):
    """What somebody did that no other table of the ledger has."""

    ROLLBACK = "rollback"
    ABORT = "abort"
    ROLLOUT = "rollout"
    OVERRIDE = "override"
    STOP = "stop"
    REPRICE = "reprice"
    FORGET = "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that was done, by whom and why.

    Attributes:
        deed: What.
        application: What users call; empty: every application.
        release_digest: The release it is about; empty: none in particular.
        who: A person, or one of ``AUTOMATIC``; empty: nobody said.
        reason: Why, for the record.
        time: When, UTC.
        flow_run_id: The Prefect flow run that did it, where one did.
    """

    deed: Deed
    application: str
    release_digest: str = ""
    who: str
    reason: str
    time: datetime
    flow_run_id: str | None = None


class Kind(StrEnum):
    """What an entry of the history comes from, in the order of things that happen at one moment."""

    EXPERIMENT = "experiment"
    VERDICT = "verdict"
    ALERT = "alert"
    DECISION = "decision"
    ACT = "act"
    QUARANTINE = "quarantine"
    ROLLOUT = "rollout"
    PLAN = "plan"


_ORDER: Final = {kind: number for number, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened.

    Attributes:
        time: When, UTC.
        kind: Which part of the ledger says so.
        what: What happened, in a few words.
        release_digest: The release it is about; empty: none in particular.
        who: Who did it, as far as that is known.
        why: The inequality that decided, or what a person said.
        shares: Of a plan: the share of users of each release, 0 to 1, the largest first.
        flow_run_id: The Prefect flow run, where one is known.
        is_manual: Whether a person did it.
    """

    time: datetime
    kind: Kind
    what: str
    release_digest: str = ""
    who: str = ""
    why: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    flow_run_id: str | None = None
    is_manual: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "time": self.time.isoformat(),
            "kind": self.kind.value,
            "what": self.what,
            "release": self.release_digest or None,
            "who": self.who or None,
            "why": self.why,
            "shares": dict(self.shares),
            "flow_run_id": self.flow_run_id,
            "is_manual": self.is_manual,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Prevented:
    """A release that a check stopped before it had every user.

    Attributes:
        release_digest: The release.
        began: When its rollout began, UTC.
        ended: When it was stopped, UTC.
        gate: What stopped it: ``smoke``, ``ramp`` or ``evaluation``.
        share: The largest share of users it ever had, 0 to 1.
        monitors: What failed.
        reason: The inequality that decided.
        users: How many users met it; None: not known.
    """

    release_digest: str
    began: datetime
    ended: datetime
    gate: str
    share: float
    monitors: tuple[str, ...]
    reason: str
    users: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "release": self.release_digest,
            "began": self.began.isoformat(),
            "ended": self.ended.isoformat(),
            "gate": self.gate,
            "share": self.share,
            "monitors": list(self.monitors),
            "reason": self.reason,
            "users": self.users,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that is told about an application.

    Attributes:
        application: What users call.
        entries: What happened, the latest first.
        plans: Its traffic plans, the latest first.
        prevented: What was stopped in time, the latest first.
        labels: What people call each release: ``model version``.
    """

    application: str
    entries: tuple[Entry, ...]
    plans: tuple[Plan, ...]
    prevented: tuple[Prevented, ...]
    labels: Mapping[str, str]

    def name(self, digest: str) -> str:
        """Return a release for people; empty for none."""
        label = self.labels.get(digest, "")
        return f"{label} ({digest[:12]})" if label else digest[:12]

    @property
    def audit(self) -> tuple[Entry, ...]:
        """What people did, the latest first."""
        return tuple(entry for entry in self.entries if entry.is_manual)

    def narrowed(self, since: datetime | None, digest: str | None) -> History:
        """Return what happened since a moment, and to one release; None is all of it.

        The plans stay those of every release, because shares mean nothing alone, and begin with the one in force then.
        """
        return replace(
            self,
            entries=tuple(e for e in self.entries if _is_meant(e.time, {e.release_digest, *e.shares}, since, digest)),
            plans=_in_force_since(self.plans, since),
            prevented=tuple(p for p in self.prevented if _is_meant(p.ended, {p.release_digest}, since, digest)),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "application": self.application,
            "releases": dict(self.labels),
            "entries": [entry.to_json() for entry in self.entries],
            "incidents_prevented": [one.to_json() for one in self.prevented],
        }


def _in_force_since(plans: Sequence[Plan], since: datetime | None) -> tuple[Plan, ...]:
    if since is None:
        return tuple(plans)
    later = [plan for plan in plans if plan.time >= since]
    before = next((plan for plan in plans if plan.time < since), None)
    return (*later, *([replace(before, time=since)] if before is not None else []))


def _is_meant(time: datetime, digests: set[str], since: datetime | None, digest: str | None) -> bool:
    return (since is None or time >= since) and (digest is None or digest in digests)


def in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return entries, the latest first; at one moment, what follows from something stands above it."""
    return tuple(sorted(entries, key=lambda entry: (entry.time, _ORDER[entry.kind]), reverse=True))


def find_prevented(
    plans: Sequence[Plan], rollouts: Sequence[Rollout], verdicts: Sequence[RecordedVerdict]
) -> tuple[Prevented, ...]:
    """Return the rollouts that a failed check ended before their release had every user.

    One that a person ended, that could not be deployed or that made room for another one is none: nothing shows that
    it would have done harm.

    Args:
        plans: The plans of the application.
        rollouts: Its rollouts.
        verdicts: Its verdicts.

    Returns:
        The latest first, without how many users met each.
    """
    stopped = [r for r in rollouts if r.state in {State.REJECTED, State.ROLLED_BACK} | UNDOING]
    found = (_prevented(rollout, plans, verdicts) for rollout in stopped)
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.ended, reverse=True))


def _prevented(rollout: Rollout, plans: Sequence[Plan], verdicts: Sequence[RecordedVerdict]) -> Prevented | None:
    most = max(
        (plan.counts().get(rollout.release_digest, 0) for plan in plans if _during(rollout, plan.time)), default=0
    )
    failed = [
        row
        for row in verdicts
        if row.kind in {"smoke", "ramp", "evaluation"}
        and row.verdict.release_digest == rollout.release_digest
        and row.verdict.outcome is Outcome.FAIL
        and _during(rollout, row.recorded)
    ]
    if most == BUCKETS or not failed:
        return None
    last = max(failed, key=lambda row: row.recorded)
    return Prevented(
        release_digest=rollout.release_digest,
        began=rollout.started,
        ended=rollout.changed,
        gate=last.kind,
        share=most / BUCKETS,
        monitors=tuple(dict.fromkeys(check.monitor for check in last.verdict.deciding)),
        reason=last.verdict.reason,
    )


def _during(rollout: Rollout, time: datetime) -> bool:
    return rollout.started <= time <= rollout.changed
