"""The history of an application for people: Markdown with a chart, without any prompt or answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tasks.costs.chart import as_image
from tasks.release.history import Entry, History, Prevented
from tasks.release.report import cell
from tasks.release.share_chart import draw_shares

MAX_ROWS: Final = 60
"""How many rows a table of the artifact has at most; the command shows all."""
GATES: Final = {"smoke": "smoke test", "ramp": "ramp", "evaluation": "nightly evaluation"}


def history_markdown(history: History, now: datetime) -> str:
    """Return what served when, what was stopped in time, what people did, and all that happened."""
    chart = as_image(draw_shares(history.plans, history.name, now))
    return "\n".join(
        [
            f"# {history.application}: what served when",
            "",
            f"![who had which share of the users]({chart})",
            "",
            "## Incidents prevented",
            "",
            summarise(history.prevented),
            "",
            *_prevented_table(history),
            "## What people did",
            "",
            *_entry_table(history, history.audit),
            "",
            "## All that happened",
            "",
            *_entry_table(history, history.entries),
        ]
    )


def summarise(prevented: Sequence[Prevented]) -> str:
    """Return in one line how many releases were stopped, and how many users met them."""
    if not prevented:
        return "No release was stopped before it had every user."
    gates = [f"{sum(1 for one in prevented if one.gate == gate)} by the {name}" for gate, name in GATES.items()]
    kept = ", ".join(gate for gate in gates if not gate.startswith("0 "))
    met = [one.users for one in prevented]
    known = sum(users for users in met if users is not None)
    unknown = f", and of {met.count(None)} that is not known" if None in met else ""
    what = "release was stopped before it" if len(prevented) == 1 else "releases were stopped before they"
    return f"{len(prevented)} {what} had every user: {kept}. Users who met them: {known}{unknown}."


def share_text(entry: Entry, history: History) -> str:
    """Return the shares of a plan in one line; empty for what is no plan."""
    return ", ".join(f"{share:.1%} {history.name(digest)}" for digest, share in entry.shares.items())


def _prevented_table(history: History) -> list[str]:
    if not history.prevented:
        return []
    rows = [
        f"| {one.ended:%Y-%m-%d %H:%M} | {cell(history.name(one.release_digest))} | {GATES[one.gate]} "
        f"| {one.share:.1%} | {'not known' if one.users is None else one.users} "
        f"| {', '.join(one.monitors)} | {cell(one.reason)} |"
        for one in history.prevented[:MAX_ROWS]
    ]
    head = "| stopped (UTC) | release | by | largest share | users who met it | failed | because |"
    return [head, "|---|---|---|---:|---:|---|---|", *rows, *_more(len(history.prevented)), ""]


def _entry_table(history: History, entries: Sequence[Entry]) -> list[str]:
    if not entries:
        return ["Nothing."]
    rows = [
        f"| {entry.time:%Y-%m-%d %H:%M:%S} | {entry.kind} | {cell(entry.what)} "
        f"| {cell(share_text(entry, history) or history.name(entry.release_digest))} "
        f"| {cell(entry.who)} | {cell(entry.why)} |"
        for entry in entries[:MAX_ROWS]
    ]
    return [
        "| time (UTC) | kind | what | release | who | why |",
        "|---|---|---|---|---|---|",
        *rows,
        *_more(len(entries)),
    ]


def _more(count: int) -> list[str]:
    return [f"\n{count - MAX_ROWS} more; all of it: `delivery history`"] if count > MAX_ROWS else []
