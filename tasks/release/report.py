"""What people read about a rollout and a rollback: Markdown for artifacts, without any prompt or answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.monitors.verdict import SEVERITY, Check, Outcome, RecordedVerdict, Verdict
from tasks.release.model import Release
from tasks.release.rollout import Rollout
from tasks.traffic.plan import Plan


def rollout_markdown(
    rollout: Rollout,
    release: Release,
    plan: Plan | None,
    message: str,
    *,
    names: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """Return how a rollout ended.

    Args:
        rollout: As it is on record.
        release: What was rolled out.
        plan: Who serves now; None: nobody.
        message: How it ended.
        names: What people call the releases of the plan, by digest.
        links: Where to go from here, by what it says.
    """
    return "\n".join(
        [
            f"# {release.application}: {release.label} is {rollout.state}",
            "",
            cell(message),
            "",
            *links_line(links or {}),
            "| | |",
            "|---|---|",
            f"| release | `{release.short}`, registry version {release.registry_version} |",
            f"| prompt | {release.prompt.name}@{release.prompt.version} `{release.prompt.sha256[:12]}` |",
            f"| endpoint | {release.spec.endpoint} |",
            f"| deployment | {rollout.deployment_id} |",
            f"| owner | {cell(release.spec.owner) or '-'} |",
            "",
            *traffic_lines(plan, names),
        ]
    )


def approval_markdown(release: Release, verdict: Verdict, question: str, links: Mapping[str, str] | None = None) -> str:
    """Return what a person should know who is asked to let a release go on.

    Args:
        release: What waits.
        verdict: What the last look came to.
        question: Why it waits.
        links: The form for each decision, filled in.
    """
    return "\n".join(
        [
            f"# {release.application}: {release.label} waits for approval",
            "",
            f"Why it waits: {cell(question)}",
            "",
            *links_line(links or {}),
            f"- go on: `delivery approve {release.application} --reason …`, or run the deployment *decision*",
            f"- leave it where it is: `delivery hold {release.application} --reason …`",
            f"- take its users back: `delivery abort {release.application} --reason …`",
            "",
            *checks_table(verdict.checks),
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackFacts:
    """Why a rollback was done.

    Attributes:
        who: Who asked for it; empty: nobody said.
        reason: Why.
        evidence: The last verdict that the release failed, None where it failed none.
        problems: Why releases that came first could not come back.
    """

    who: str
    reason: str
    evidence: RecordedVerdict | None = None
    problems: tuple[str, ...] = ()


def rollback_markdown(
    bad: Release,
    target: Release | None,
    plan: Plan | None,
    facts: RollbackFacts,
    *,
    names: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """Return what a rollback did, and why.

    Args:
        bad: The release that is out.
        target: Who took its users; None: nobody had to.
        plan: Who serves now; None: nobody.
        facts: Why it was done.
        names: What people call the releases of the plan, by digest.
        links: Where to go from here, by what it says.
    """
    title = f"# {bad.application}: {'back to ' + target.label if target else bad.label + ' is out'}"
    lines = [title, "", f"**{bad.label}** (`{bad.short}`) is out of traffic.", "", f"Reason: {cell(facts.reason)}", ""]
    lines += links_line(links or {})
    if facts.who:
        lines += [f"Asked for by: {cell(facts.who)}", ""]
    if facts.evidence is not None:
        found = facts.evidence
        lines += [f"Evidence: verdict `{found.verdict_id}` ({found.kind}), {found.recorded:%Y-%m-%d %H:%M} UTC:", ""]
        lines += [*checks_table(found.verdict.checks), ""]
    if facts.problems:
        lines += ["Not chosen:", "", *(f"- {cell(problem)}" for problem in facts.problems), ""]
    return "\n".join([*lines, *traffic_lines(plan, names)])


def stranded_markdown(bad: Release, plan: Plan | None, message: str) -> str:
    """Return that a release which failed goes on serving, and what a person can do."""
    return "\n".join(
        [
            f"# {bad.application}: {bad.label} failed and goes on serving",
            "",
            cell(message),
            "",
            "- roll out a release that is well: `delivery rollout FILE --no-ramp`",
            f"- try again: `delivery rollback {bad.application} --release {bad.short} --reason …`",
            "",
            *traffic_lines(plan),
        ]
    )


def traffic_lines(plan: Plan | None, names: Mapping[str, str] | None = None) -> list[str]:
    """Return the table of who gets what.

    Args:
        plan: In force; None: there is none.
        names: What people call the releases, by digest.
    """
    known = names or {}
    if plan is None:
        return ["The application serves nobody yet."]
    return [
        f"Traffic plan revision {plan.revision}, since {plan.time:%Y-%m-%d %H:%M:%S} UTC:",
        "",
        "| release | share |",
        "|---|---:|",
        *(
            f"| {cell(known.get(digest, ''))} `{digest[:12]}` | {share:.1%} |"
            for digest, share in plan.shares().items()
        ),
    ]


def checks_table(checks: Sequence[Check]) -> list[str]:
    """Return checks as a table, the gravest first."""
    ordered = sorted(checks, key=lambda check: SEVERITY.index(check.outcome), reverse=True)
    rows = (f"| {_word(check.outcome)} | {check.monitor} | {cell(check.statement)} |" for check in ordered)
    return ["| outcome | monitor | inequality |", "|---|---|---|", *rows]


def links_line(links: Mapping[str, str]) -> list[str]:
    """Return links in a line of their own; none where nothing is known."""
    known = " · ".join(f"[{says}]({address})" for says, address in links.items() if address)
    return [known, ""] if known else []


def _word(outcome: Outcome) -> str:
    return f"**{outcome.upper()}**" if outcome in (Outcome.FAIL, Outcome.ERROR) else outcome.value


def cell(text: str) -> str:
    """Return a text that stays inside its cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
