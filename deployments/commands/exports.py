"""Write costs into files, and hold them against a provider's reports."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasks.costs.billing import Billing, compute_day, open_calls
from tasks.costs.line import Rollup, as_table
from tasks.costs.opening import open_billing
from tasks.costs.pricing import price_calls
from tasks.costs.rollup import format_usd
from tasks.costs.usage import find_usage_keys
from tasks.costs.zones import days_between
from tasks.errors import ConflictError, InputError
from tasks.finance.exports import KINDS, in_usd, write_table
from tasks.finance.focus import VERSION, export_focus
from tasks.finance.focus_rules import check_focus_file
from tasks.finance.provider_reports import read_provider_report
from tasks.finance.reconciliation import Reconciliation, exact_usd, reconcile
from tasks.finance.reconciliation_sides import covered
from tasks.settings import Settings

FORMATS = ("focus", *KINDS)
_LONGEST = 60


def export_costs(where: Settings, kind: str, window: tuple[date, date], out: Path, account: str = "unknown") -> int:
    """Write what some UTC days cost into a file, from the calls and the prices of now.

    Args:
        where: The settings.
        kind: ``focus`` for FOCUS rows, by the ending of ``out`` as CSV or Parquet; ``csv`` or ``parquet`` for rollups.
        window: The first and the last UTC day.
        out: The file.
        account: The billing account at the provider, for FOCUS.

    Returns:
        0 where every call is in the file, 3 where calls without a cost had to be left out or are unpriced in it.

    Raises:
        InputError: A kind, a day or a file name is not allowed.
        ConflictError: A FOCUS file breaks the rules of FOCUS, which would be an error of this project.
    """
    if kind not in FORMATS:
        raise InputError.of("format", kind, FORMATS)
    days = days_between(*window)
    if kind != "focus" and out.suffix != f".{kind}":
        raise InputError.of("output file", out.name, [f"a name that ends in .{kind}"])
    billing = open_billing(where)
    return _export_focus(billing, days, out, account) if kind == "focus" else _export_rollups(billing, days, out)


def reconcile_costs(where: Settings, files: Sequence[Path], provider: str, aliases: Sequence[str] = ()) -> int:
    """Print what lies between our costs and a provider's reports.

    Args:
        where: The settings.
        files: Reports of costs, usage or both, JSON.
        provider: ``openai`` or ``anthropic``.
        aliases: ``THEIRS=OURS``, names of models that differ.

    Returns:
        0 where nothing but rounding differs, 3 where something does.
    """
    reports = [read_provider_report(file, provider) for file in files]
    billing = open_billing(where)
    lines = [line for day in sorted(covered(reports)) for line in compute_day(billing, day).lines]
    result = reconcile(lines, reports, dict(_alias(text) for text in aliases))
    print_reconciliation(result, Console(highlight=False))
    return 3 if any(not one.is_harmless for one in result.differences) else 0


def print_reconciliation(result: Reconciliation, console: Console) -> None:
    """Print a reconciliation for people."""
    table = Table(title=f"{result.provider}, {result.days[0]} to {result.days[-1]}", title_justify="left")
    for name in ("day", "model", "tier", "part", "tokens", "USD", "share", "why"):
        table.add_column(name, overflow="fold")
    for one in result.differences:
        share = result.share(one)
        table.add_row(
            *(one.day.isoformat(), (one.model or "all")[:_LONGEST], one.tier or "all", one.part),
            "unknown" if one.tokens is None else f"{one.tokens:+d}",
            "unknown" if one.usd is None else exact_usd(one.usd),
            "" if share is None else f"{share:.2%}",
            one.reason,
        )
    console.print(table)
    for reason, usd in result.by_reason().items():
        console.print(f"{reason}: {exact_usd(usd)} USD; {_advice(result, reason)}", markup=False)
    theirs = "unknown" if result.theirs_usd is None else exact_usd(result.theirs_usd)
    console.print(f"ours {exact_usd(result.ours_usd)} USD, the provider's {theirs} USD; {result.matched} lines match")
    if result.unknown_calls:
        console.print(f"{result.unknown_calls} of our calls have no known tokens and stand on no line")
    for day in result.skipped_days:
        console.print(f"{day}: not compared, the reports do not cover it wholly")


def _advice(result: Reconciliation, reason: str) -> str:
    return next(one.advice for one in result.differences if one.reason == reason)


def _alias(text: str) -> tuple[str, str]:
    theirs, equals, ours = text.partition("=")
    if not (theirs and equals and ours):
        raise InputError.of("alias", text, "THEIRS=OURS, two names of one model")
    return theirs, ours


def _export_focus(billing: Billing, days: Sequence[date], out: Path, account: str) -> int:
    start = datetime(days[0].year, days[0].month, days[0].day, tzinfo=UTC)
    with open_calls(billing, start, start + timedelta(days=len(days))) as (connection, find):
        price_calls(connection, find_usage_keys(connection), find)
        made = export_focus(connection, account)
    write_table(made.table, out)
    if out.suffix == ".csv" and (broken := [one for one in check_focus_file(out) if one.is_demanded]):
        raise ConflictError(f"{out}: {broken[0].describe()}; this is an error of this project")
    print(
        f"{out}: FOCUS {VERSION}, {made.table.num_rows} rows, {format_usd(made.cost_pusd)} USD for {made.calls} calls"
    )
    for provider, model, calls in made.left_out:
        print(
            f"left out, for their cost is not known: {calls} calls of {model[:_LONGEST]!r} by {provider[:_LONGEST]!r}"
        )
    return 3 if made.left_out else 0


def _export_rollups(billing: Billing, days: Sequence[date], out: Path) -> int:
    lines: list[Rollup] = [line for day in days for line in compute_day(billing, day).lines]
    write_table(in_usd(as_table(lines)), out)
    cost = sum(line.cost_pusd or 0 for line in lines)
    unpriced = sum(line.unpriced_requests for line in lines)
    print(f"{out}: {len(lines)} lines, {format_usd(cost)} USD, {unpriced} calls unpriced")
    return 3 if unpriced else 0
