"""Whether a release may begin its rollout, and on whose word where a rule says no."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tasks.errors import FrozenError, QuarantineError, UntestedError
from tasks.experiments.life import lack_of_test
from tasks.release.freeze import freeze_at
from tasks.release.history import Act, Deed
from tasks.release.model import Release
from tasks.release.ramp import RampPolicy
from tasks.release.rollout import Lease, Rollout
from tasks.stores.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Who asks for a rollout.

    Attributes:
        who: A person or a pipeline, for the record; empty: nobody said.
        override_reason: Why a rule that forbids it does not hold; blank: the rules hold.
        time: When, UTC.
        flow_run_id: The run that was started.
    """

    who: str
    override_reason: str
    time: datetime
    flow_run_id: str | None = None

    @property
    def overrides(self) -> bool:
        """Whether the rules are set aside."""
        return bool(self.override_reason.strip())


def find_freeze(release: Release, policy: RampPolicy, request: Request) -> str:
    """Return which freeze window is set aside, empty where it is none.

    Raises:
        FrozenError: The application is frozen, and no reason is given why not to mind.
    """
    frozen = freeze_at(policy.freezes, request.time)
    if frozen is None:
        return ""
    window = f"from {frozen.start:%H:%M} to {frozen.end:%H:%M} {frozen.timezone}: {frozen.reason}"
    if not request.overrides:
        raise FrozenError(
            f"{release.application} is frozen {window}; start it again after that, or give an override reason"
        )
    return f"freeze {window}"


def is_quarantine_set_aside(ledger: Ledger, release: Release, latest: Rollout | None, request: Request) -> bool:
    """Return whether a release is in quarantine, and may try again on somebody's word.

    Raises:
        QuarantineError: It is in quarantine, and nobody says why it may try again.
    """
    kept = ledger.quarantined(release.application, release.digest)
    if kept is None or (latest and latest.is_undoing):
        return False
    if not request.overrides:
        raise QuarantineError(
            f"{release.label} is in quarantine since {kept.time:%Y-%m-%d %H:%M} UTC: {kept.reason}; "
            f"roll it out again only with an override reason"
        )
    return True


def lift_quarantine(ledger: Ledger, lease: Lease, release: Release, request: Request) -> None:
    """Lift the quarantine of a release whose rollout has begun; who did and why is on record with it."""
    who = request.who or lease.holder
    ledger.lift_quarantine(lease, release.digest, who, request.override_reason, request.time)


def find_missing_test(ledger: Ledger, release: Release, request: Request) -> str:
    """Return which A/B test that the release file asks for is set aside, empty where none is.

    Raises:
        UntestedError: The release has not come through it, and no reason is given why not to mind.
    """
    test = release.spec.ab_test
    if test is None:
        return ""
    found = (record for record in ledger.experiments(release.application) if record.name == test.name)
    lack = lack_of_test(next(found, None), release.digest)
    if lack and not request.overrides:
        raise UntestedError(
            f"{release.label} asks for the A/B test {test.name!r}, which {lack}; run it with delivery experiment start "
            f"and the release file, or give an override reason"
        )
    return f"A/B test {test.name!r} {lack}" if lack else ""


def record_request(ledger: Ledger, release: Release, latest: Rollout | None, set_aside: str, request: Request) -> None:
    """Put on record who began a rollout, and which rules were set aside for it."""
    deeds: list[tuple[Deed, str]] = []
    if set_aside:
        deeds.append((Deed.OVERRIDE, f"{set_aside}; set aside: {request.override_reason}"))
    if request.who and (latest is None or latest.is_finished):
        deeds.append((Deed.ROLLOUT, request.override_reason or f"rollout of {release.label}"))
    for deed, reason in deeds:
        ledger.record_act(
            Act(
                deed=deed,
                application=release.application,
                release_digest=release.digest,
                who=request.who,
                reason=reason,
                time=request.time,
                flow_run_id=request.flow_run_id,
            )
        )
