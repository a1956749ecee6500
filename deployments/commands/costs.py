"""Print what the days cost, or would cost by the prices of now, without the flows' server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

from rich.console import Console
from rich.table import Table

from tasks.costs.chart import describe_total, usage_row
from tasks.costs.days import DayBill, list_days, roll_up_day
from tasks.costs.opening import open_billing
from tasks.costs.repricing import Difference, compare_day, reprice_day
from tasks.costs.rollup import format_usd
from tasks.costs.zones import days_between
from tasks.settings import Settings

_COLUMNS = ("day", "application", "release", "model", "tier", "requests", "USD", "coverage", "price from")


def show_costs(
    where: Settings, start: date | None, days: int, application: str | None, *, zone: str, settle_hours: int
) -> None:
    """Roll up some days and print what they cost.

    Raises:
        InputError: There is no such time zone, or the price book cannot be read.
    """
    billing, now = open_billing(where, zone, settle_hours), datetime.now(UTC)
    bills = [roll_up_day(billing, day, application, now=now) for day in list_days(start, days, now, zone)]
    _print_bills(bills)


def reprice(
    where: Settings, start: date, end: date, application: str | None, *, zone: str, dry_run: bool
) -> tuple[Difference, ...]:
    """Print what past days cost by the prices of now; without a dry run they are restated.

    Raises:
        InputError: The last day is before the first, there is no such time zone, or the price book cannot be read.
    """
    billing, now = open_billing(where, zone), datetime.now(UTC)
    found: list[Difference] = []
    for day in days_between(start, end):
        found.extend(compare_day(billing, day, application))
        if not dry_run:
            reprice_day(billing, day, application, now=now)
    _print_differences(found, dry_run=dry_run)
    return tuple(found)


def _print_bills(bills: Sequence[DayBill]) -> None:
    console = Console(highlight=False)
    lines = [line for bill in bills for line in bill.lines]
    table = Table(*_COLUMNS, title="What was used and what it cost", title_justify="left")
    for line in lines:
        row = usage_row(line)
        table.add_row(*(str(row[name] if row[name] is not None else "") for name in _COLUMNS))
    console.print(table)
    for bill in bills:
        for record in bill.records:
            why = f" ({record.reason})" if record.reason else ""
            console.print(f"{record.day} {record.application}: {record.state}{why}", markup=False)
    console.print(describe_total(lines))


def _print_differences(found: Sequence[Difference], *, dry_run: bool) -> None:
    console = Console(highlight=False)
    names = ("day", "application", "model", "USD before", "USD now", "difference", "because of")
    table = Table(*names, title="Nothing is written" if dry_run else "Restated", title_justify="left")
    for one in found:
        amounts = (one.old_pusd, one.new_pusd, one.delta_pusd)
        shown = ("unknown" if amount is None else format_usd(amount) for amount in amounts)
        table.add_row(one.day.isoformat(), one.application, f"{one.provider} {one.model}", *shown, one.reason)
    console.print(table)
    console.print(f"{len(found)} lines differ")
