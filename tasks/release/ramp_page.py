"""What people see of a ramp while it goes on: Markdown for an artifact, without any prompt or answer."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.model import Release
from tasks.release.ramp import RampPolicy
from tasks.release.report import cell, checks_table, links_line
from tasks.release.share_chart import draw_shares
from tasks.traffic.plan import BUCKETS, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class RampLook:
    """One look at a ramp.

    Attributes:
        release, policy: What ramps, and how.
        buckets: How many of the 1,000 buckets it has now.
        began: When the step began, UTC.
        verdict: What the look came to; its window ends at the look.
        plans: Of the application from the one before the ramp on, the latest first.
        names: What people call the releases, by digest.
        links: Where to go from here, by what it says.
    """

    release: Release
    policy: RampPolicy
    buckets: int
    began: datetime
    verdict: Verdict
    plans: Sequence[Plan]
    names: Mapping[str, str]
    links: Mapping[str, str]


def ramp_markdown(look: RampLook) -> str:
    """Return where a ramp stands: its shares, its steps, what is missing, and every check."""
    now, waits = look.verdict.window_end, _missing(look.verdict.checks)
    last = look.began + timedelta(seconds=look.policy.max_step_s)
    return "\n".join(
        [
            f"# {look.release.application}: {look.release.label} has {_percent(look.buckets)} of the users",
            "",
            _steps(sorted({*look.policy.counts(), look.buckets}), look.buckets),
            "",
            f"This step began at {look.began:%H:%M:%S}, last look {now:%H:%M:%S}, ends by {last:%m-%d %H:%M:%S} UTC.",
            "",
            *(["Still missing:", "", *(f"- {cell(check.statement)}" for check in waits), ""] if waits else []),
            *links_line(look.links),
            image("shares of users", draw_ramp(look.plans, look.names, now)),
            "",
            *checks_table(look.verdict.checks),
        ]
    )


def describe_look(look: RampLook) -> str:
    """Return where a ramp stands in one line."""
    waits = _missing(look.verdict.checks)
    more = f": {waits[0].statement}" if waits else ""
    return f"{look.release.label} has {_percent(look.buckets)} of the users, {look.verdict.outcome}{more}"


def draw_ramp(plans: Sequence[Plan], names: Mapping[str, str], until: datetime) -> str:
    """Return the shares of users over a ramp, SVG; of the plan before it only as much as leaves the ramp room.

    Args:
        plans: From the one before the ramp on, the latest first.
        names: What people call the releases, by digest.
        until: Where the drawing ends, UTC.
    """
    shown = list(plans)
    if shown[1:]:
        first = shown[-2].time
        shown[-1] = replace(shown[-1], time=max(shown[-1].time, first - (until - first) / 4))
    return draw_shares(shown, lambda digest: names.get(digest, digest[:12]), until)


def image(title: str, svg: str) -> str:
    """Return a drawing that the page holds itself."""
    return f"![{title}](data:image/svg+xml;base64,{b64encode(svg.encode()).decode()})"


def _missing(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if check.outcome is not Outcome.PASS]


def _steps(counts: Sequence[int], buckets: int) -> str:
    return " → ".join(f"**{_percent(count)}**" if count == buckets else _percent(count) for count in counts)


def _percent(buckets: int) -> str:
    return f"{buckets * 100 / BUCKETS:g} %"
