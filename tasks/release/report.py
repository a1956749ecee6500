"""What people read about a rollout and a rollback: Markdown for artifacts, without any prompt or answer."""

from __future__ import annotations

from tasks.monitors.verdict import Verdict
from tasks.release.model import Release
from tasks.release.rollout import Rollout
from tasks.traffic.plan import Plan


def rollout_markdown(rollout: Rollout, release: Release, plan: Plan | None, message: str) -> str:
    """Return how a rollout ended."""
    return "\n".join(
        [
            f"# {release.application}: {release.label} is {rollout.state}",
            "",
            cell(message),
            "",
            "| | |",
            "|---|---|",
            f"| release | `{release.short}`, registry version {release.registry_version} |",
            f"| prompt | {release.prompt.name}@{release.prompt.version} `{release.prompt.sha256[:12]}` |",
            f"| endpoint | {release.spec.endpoint} |",
            f"| deployment | {rollout.deployment_id} |",
            f"| owner | {cell(release.spec.owner) or '-'} |",
            "",
            *traffic_lines(plan),
        ]
    )


def approval_markdown(release: Release, verdict: Verdict, question: str) -> str:
    """Return what a person should know who is asked to let a release go on."""
    return "\n".join(
        [
            f"# {release.application}: {release.label} waits for approval",
            "",
            f"Why it waits: {cell(question)}",
            "",
            f"- go on: `delivery approve {release.application} --reason …`, or run the deployment *decision*",
            f"- leave it where it is: `delivery hold {release.application} --reason …`",
            f"- take its users back: `delivery abort {release.application} --reason …`",
            "",
            *(f"- {cell(check.statement)} ({check.outcome.value})" for check in verdict.checks),
        ]
    )


def rollback_markdown(bad: Release, target: Release | None, plan: Plan | None, reason: str) -> str:
    """Return what a rollback did, and why."""
    return "\n".join(
        [
            f"# {bad.application}: {'back to ' + target.label if target else bad.label + ' is out'}",
            "",
            f"**{bad.label}** (`{bad.short}`) is out of traffic.",
            "",
            f"Reason: {cell(reason)}",
            "",
            *traffic_lines(plan),
        ]
    )


def traffic_lines(plan: Plan | None) -> list[str]:
    """Return the table of who gets what."""
    if plan is None:
        return ["The application serves nobody yet."]
    return [
        f"Traffic plan revision {plan.revision}, since {plan.time:%Y-%m-%d %H:%M:%S} UTC:",
        "",
        "| release | share |",
        "|---|---:|",
        *(f"| `{digest[:12]}` | {share:.1%} |" for digest, share in plan.shares().items()),
    ]


def cell(text: str) -> str:
    """Return a text that stays inside its cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
