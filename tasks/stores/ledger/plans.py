"""Traffic plans: the truth about who gets what."""

from __future__ import annotations

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tasks.errors import ConflictError
from tasks.release.rollout import Lease
from tasks.stores.ledger.database import Database, fence
from tasks.stores.ledger.rows import as_plan, plan_values
from tasks.stores.ledger.schema import plans
from tasks.traffic.plan import Plan


class Plans(Database):
    """The traffic plans of a database."""

    __slots__ = ()

    def plan(self, application: str) -> Plan | None:
        """Return the plan in force, or None where the application has none yet."""
        history = self.plans(application, limit=1)
        return history[0] if history else None

    def plans(self, application: str, limit: int = 1000) -> list[Plan]:
        """Return the plans of an application, the newest first."""
        query = select(plans).where(plans.c.application == application).order_by(plans.c.revision.desc()).limit(limit)
        with self._read() as db:
            return [as_plan(row) for row in db.execute(query)]

    def applications(self) -> list[str]:
        """Return the applications that have a plan, in alphabetical order."""
        with self._read() as db:
            return list(db.execute(select(plans.c.application).distinct().order_by(plans.c.application)).scalars())

    def write_plan(self, plan: Plan, lease: Lease) -> None:
        """Put a plan on record as the one in force: compare-and-swap on the revision, fenced by the lease.

        Raises:
            ConflictError: Another plan of this revision exists; nothing was written.
            LeaseError: The lease was lost; nothing was written.
        """
        with self._write() as db:
            fence(db, lease)
            newest = db.execute(
                select(func.max(plans.c.revision)).where(plans.c.application == plan.application)
            ).scalar()
            if (newest or 0) + 1 != plan.revision:
                raise ConflictError(_conflict(plan, newest or 0))
            try:
                db.execute(insert(plans).values(**plan_values(plan)))
            except IntegrityError as error:
                raise ConflictError(_conflict(plan, plan.revision)) from error

    def renumber(self, lease: Lease, above: int) -> Plan | None:
        """Give the plan in force a revision above one that a data path has seen; one that is above it already stays.

        Where a ledger is brought back from a backup, data paths refuse what is on record: they have seen later plans.
        The plan is not written once more: to a ramp that would be a step in which nobody moves.

        Args:
            lease: The right to.
            above: The revision that a data path has.

        Returns:
            The plan in force, None where the application has none.

        Raises:
            LeaseError: The lease was lost; nothing was written.
        """
        mine = plans.c.application == lease.application
        with self._write() as db:
            fence(db, lease)
            newest = db.execute(select(func.max(plans.c.revision)).where(mine)).scalar()
            if newest is not None and newest <= above:
                db.execute(update(plans).where(mine & (plans.c.revision == newest)).values(revision=above + 1))
        return self.plan(lease.application)


def _conflict(plan: Plan, newest: int) -> str:
    return (
        f"the traffic plan of {plan.application} is at revision {newest}, revision {plan.revision} cannot follow: "
        f"somebody changed it meanwhile; read it and decide again"
    )
