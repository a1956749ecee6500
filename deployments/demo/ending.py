"""What the demo prints at its end: who served when, what was judged, what it cost, how fast users were safe again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.table import Table

from deployments.demo.users import Asked
from tasks.costs.rollup import format_usd
from tasks.monitors.verdict import RecordedVerdict
from tasks.release.model import Release
from tasks.traffic.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class BillLine:
    """What the answers of one release cost in a day."""

    release_digest: str
    requests: int
    priced: int
    input_tokens: int
    output_tokens: int
    cost_pusd: int


def print_plans(plans: Sequence[Plan], releases: Mapping[str, Release]) -> None:
    """Print who served when; the plans come the newest first."""
    table = _table("Who served when", "since (UTC)", "until", "users", "why")
    ends: list[datetime | None] = [None, *(plan.time for plan in plans[:-1])]
    for plan, end in reversed(list(zip(plans, ends, strict=True))):
        users = ", ".join(f"{share:.0%} {_name(digest, releases)}" for digest, share in plan.shares().items())
        table.add_row(f"{plan.time:%H:%M:%S}", f"{end:%H:%M:%S}" if end else "now", users, plan.reason)
    _print(table)


def print_verdicts(verdicts: Sequence[RecordedVerdict], releases: Mapping[str, Release]) -> None:
    """Print what was judged, and the inequality that decided."""
    table = _table("Verdicts", "time", "release", "by", "verdict", "because")
    for row in sorted(verdicts, key=lambda row: row.recorded):
        name = _name(row.verdict.release_digest, releases)
        outcome = row.verdict.outcome.value
        table.add_row(f"{row.recorded:%H:%M:%S}", name, row.kind, outcome, row.verdict.reason)
    _print(table)


def print_answers(asked: Asked, releases: Mapping[str, Release]) -> None:
    """Print what users got: the judges above did not know which answers are right, this table does."""
    table = _table("What users were answered (the demo knows the truth)", "release", "answers", "right")
    for version, release in releases.items():
        part = asked.of(release.digest)
        right = "-" if part.accuracy is None else f"{part.accuracy:.1%}"
        table.add_row(version, str(len(part.replies)), right)
    _print(table)


def print_bill(lines: Sequence[BillLine], releases: Mapping[str, Release]) -> None:
    """Print the day's cost, to the last pico-dollar."""
    table = _table("The day's cost", "release", "requests", "tokens in", "tokens out", "USD", "priced")
    for line in lines:
        table.add_row(
            _name(line.release_digest, releases),
            str(line.requests),
            str(line.input_tokens),
            str(line.output_tokens),
            format_usd(line.cost_pusd),
            f"{line.priced / line.requests:.0%}",
        )
    _print(table)


def _name(digest: str, releases: Mapping[str, Release]) -> str:
    return next((version for version, release in releases.items() if release.digest == digest), digest[:12])


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _print(table: Table) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    console.print(table)
