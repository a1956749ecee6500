"""What people do to data, on record before it is done."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

from tasks.release.history import Act, Deed
from tasks.settings import Settings
from tasks.stores.ledger import Ledger


def put_on_record(  # noqa: PLR0917 - what, where, who, why
    where: Settings, deed: Deed, application: str | None, who: str, reason: str, flow_run_id: str | None = None
) -> None:
    """Record a deed in the ledger.

    Args:
        where: The settings.
        deed: What is done.
        application: To which application; None: to all of them.
        who: Who does it; empty: nobody said.
        reason: Why; it must not name the user whose data are deleted.
        flow_run_id: The run that does it, where one does.
    """
    with closing(Ledger(where.ledger)) as ledger:
        act = Act(
            deed=deed,
            application=application or "",
            who=who,
            reason=reason,
            time=datetime.now(UTC),
            flow_run_id=flow_run_id,
        )
        ledger.record_act(act)
