"""Verdicts: what was judged, with the numbers that decided."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from sqlalchemy import delete, insert, select

from tasks.errors import NotFoundError
from tasks.monitors.verdict import RecordedVerdict, Verdict
from tasks.stores.ledger.database import Database
from tasks.stores.ledger.rows import as_verdict, verdict_values
from tasks.stores.ledger.schema import verdicts


class Verdicts(Database):
    """The verdicts of a database."""

    __slots__ = ()

    def record_verdict(
        self, verdict: Verdict, *, kind: str, flow_run_id: str | None = None, recorded: datetime | None = None
    ) -> str:
        """Put a verdict on record; the same release, window and kind again replaces it.

        Args:
            verdict: What was judged.
            kind: What judged: ``smoke``, ``ramp``, ``evaluation``, ``costs``, ``experiment`` or ``shadow``.
            flow_run_id: The Prefect flow run that judged, where one did.
            recorded: When, UTC; the default is the present.

        Returns:
            The id of the verdict.
        """
        same = (
            (verdicts.c.application == verdict.application)
            & (verdicts.c.release_digest == verdict.release_digest)
            & (verdicts.c.window_start == verdict.window_start)
            & (verdicts.c.window_end == verdict.window_end)
            & (verdicts.c.kind == kind)
        )
        values = verdict_values(verdict) | {"kind": kind, "flow_run_id": flow_run_id}
        values["recorded"] = recorded or datetime.now(UTC)
        with self._write() as db:
            found = db.execute(select(verdicts.c.verdict_id).where(same)).scalar()
            verdict_id = str(found or uuid.uuid4().hex)
            db.execute(delete(verdicts).where(same))
            db.execute(insert(verdicts).values(verdict_id=verdict_id, **values))
        return verdict_id

    def verdicts(self, application: str) -> list[RecordedVerdict]:
        """Return the verdicts of an application, the latest recorded first."""
        query = select(verdicts).where(verdicts.c.application == application)
        with self._read() as db:
            found = [as_verdict(row) for row in db.execute(query)]
        return sorted(found, key=lambda row: (row.recorded, row.verdict_id), reverse=True)

    def verdict(self, verdict_id: str) -> RecordedVerdict:
        """Return one verdict.

        Raises:
            NotFoundError: There is none of this id.
        """
        with self._read() as db:
            row = db.execute(select(verdicts).where(verdicts.c.verdict_id == verdict_id)).first()
        if row is None:
            raise NotFoundError(f"there is no verdict {verdict_id}")
        return as_verdict(row)
