"""Judges as a team names them in ``evaluation.yaml``: who judges what, how much of it, and for how much."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from tasks.judging.budget import BudgetSpec
from tasks.judging.judge import JudgeSpec
from tasks.release.model import Name, Record
from tasks.scoring.pool import Limits

FILE_PATTERN: Final = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$"
"""A path below the state folder."""


class JudgePlan(Record):
    """A judge, and how evaluations use it.

    Attributes:
        judge: Who judges, by which rubric; its endpoint has the URL, the model, ``key_env`` and the time limit.
        budget: What it may use in one window of one application, over all releases and reruns; a night of three
            applications may use three times as much. Anchors are asked once a window, from the first one's.
        applications: Whose answers it judges; empty: those of every application.
        sample: Answers of a release that it sees beside the failures and complaints.
        threshold: Lowest mean, 0 to 1; None is only shown.
        anchors: File of remembered anchors, below the state folder; None: nobody would notice that it changed.
        workers: Calls at the same time.
        retries: Further attempts after a call that failed.
    """

    judge: JudgeSpec
    budget: BudgetSpec
    applications: tuple[Name, ...] = ()
    sample: int = Field(default=200, ge=1, le=1_000_000)
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    anchors: Annotated[str, Field(pattern=FILE_PATTERN, max_length=200)] | None = None
    workers: int = Field(default=4, ge=1, le=64)
    retries: int = Field(default=2, ge=0, le=10)

    @property
    def limits(self) -> Limits:
        """How its calls are made."""
        return Limits(workers=self.workers, retries=self.retries, timeout_s=self.judge.endpoint.timeout_s * 1.5)

    def is_for(self, application: str) -> bool:
        """Return whether it judges an application's answers."""
        return not self.applications or application in self.applications
