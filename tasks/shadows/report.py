"""What a shadow comes to, and what people read about it: no prompt and no answer, examples by their ids only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.experiments.experiment import Finding
from tasks.experiments.report import change_words, interval_picture, value_words
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.model import Release
from tasks.release.report import cell
from tasks.shadows.shadow import STRATA, Drawn, PairedEffect

_OUTCOMES = {
    Finding.BETTER: Outcome.PASS,
    Finding.SAME: Outcome.PASS,
    Finding.WORSE: Outcome.FAIL,
    Finding.OPEN: Outcome.INCONCLUSIVE,
}
ENDINGS = {Outcome.PASS: "Passed", Outcome.FAIL: "Worse"}
"""What a flow run ends as; any other outcome is ``Inconclusive``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay came to.

    Attributes:
        candidate, champion: Who was asked, and who had answered.
        start, end: The window of the inputs, UTC, half-open.
        drawn: Which inputs were to be replayed.
        answered: How many of them were sent.
        without_input: Calls of the window that have no logged input.
        cost_usd: What the replay cost; None where tokens or the price are not known.
        stopped: Why not all were sent; empty where all were.
        latency_ms: Median latency on record and of the candidate, milliseconds; NaN without any.
        effects: The comparison.
        own_passages: Answers of the candidate that came with the passage they rest on.
        lost: Ids of interactions in which the candidate did worst, the worst first.
    """

    candidate: Release
    champion: Release
    start: datetime
    end: datetime
    drawn: Drawn
    answered: int
    without_input: int
    cost_usd: str | None
    stopped: str
    latency_ms: tuple[float, float]
    effects: tuple[PairedEffect, ...]
    own_passages: int
    lost: tuple[str, ...]


def shadow_verdict(replayed: Replayed) -> Verdict:
    """Return the verdict: one check for every metric that decides."""
    return Verdict(
        application=replayed.candidate.application,
        release_digest=replayed.candidate.digest,
        window_start=replayed.start,
        window_end=replayed.end,
        checks=tuple(_check(effect) for effect in replayed.effects if effect.decides),
    )


def pair_line(found: PairedEffect) -> str:
    """Return one comparison in one line."""
    name, outcome = found.outcome.name, found.outcome
    if found.because:
        return f"{name}: {found.finding}: {found.because}"
    low, high = (change_words(outcome, value) for value in (found.low, found.high))
    return (
        f"{name} {value_words(outcome, found.logged)} -> {value_words(outcome, found.candidate)}: "
        f"{change_words(outcome, found.effect)}, 95 % {low} to {high}, {found.finding} (n={found.n} pairs)"
        f"{f'; {found.note}' if found.note else ''}"
    )


def shadow_markdown(replayed: Replayed, verdict: Verdict) -> str:
    """Return the report for people."""
    candidate, champion, drawn = replayed.candidate, replayed.champion, replayed.drawn
    stopped = f"; stopped: {replayed.stopped}" if replayed.stopped else ""
    strata = ", ".join(f"{name} {drawn.taken[name]} of {drawn.found[name]}" for name in STRATA)
    costs = "unknown: no tokens or no price" if replayed.cost_usd is None else f"{replayed.cost_usd} USD"
    return "\n".join(
        [
            f"# Shadow of {cell(candidate.label)}: {ENDINGS.get(verdict.outcome, 'Inconclusive')}",
            "",
            f"`{candidate.short}` on what `{champion.short}` ({cell(champion.label)}) was asked. No user was touched.",
            f"Inputs from {replayed.start:%Y-%m-%d %H:%M} to {replayed.end:%Y-%m-%d %H:%M} UTC.",
            "",
            *_table(replayed.effects),
            "",
            *interval_picture(replayed.effects),
            "",
            "## What it rests on",
            "",
            f"- {replayed.answered} of {len(drawn.chosen)} inputs sent{stopped}",
            f"- cost of the replay: {costs}",
            f"- drawn by strata, and weighted back to the traffic: {strata}",
            f"- {replayed.without_input} calls have no logged input and cannot be replayed",
            "- only the last message of a user is logged: what was said before it is not replayed",
            f"- {replayed.own_passages} of {replayed.answered} answers were judged by the passage the candidate says",
            "  it found, the others by the one on record: these are judged too low where the candidate found another,",
            "  so that for them a loss of quality is not called worse up to `passage_share`",
            f"- median latency {_ms(replayed.latency_ms[0])} on record, {_ms(replayed.latency_ms[1])} in the replay",
            "- latency is an indication only, because the load is another",
            "",
            "## Where the candidate lost most",
            "",
            *([f"- `{name}`" for name in replayed.lost] or ["nowhere"]),
        ]
    )


def effect_rows(effects: Sequence[PairedEffect]) -> list[dict[str, Any]]:
    """Return the comparison for machines."""
    values = ("logged", "candidate", "effect", "low", "high", "p_value", "p_holm", "p_sign")
    return [
        {"metric": effect.outcome.name, "finding": effect.finding.value, "decides": effect.decides, "n": effect.n}
        | {name: _number(getattr(effect, name)) for name in values}
        | {"n_better": effect.n_better, "n_worse": effect.n_worse, "because": effect.because}
        for effect in effects
    ]


def _check(effect: PairedEffect) -> Check:
    return Check(
        monitor=effect.outcome.name,
        outcome=_OUTCOMES[effect.finding],
        statement=pair_line(effect),
        value=_number(effect.effect),
        limit=effect.outcome.matters_from,
        n=effect.n,
    )


def _table(effects: Sequence[PairedEffect]) -> list[str]:
    return [
        "| | on record | candidate | difference | 95 % interval | p | better / worse | sign test | |",
        "|---|---:|---:|---:|---|---:|---:|---:|---|",
        *(_row(effect) for effect in effects),
    ]


def _row(found: PairedEffect) -> str:
    outcome, blank = found.outcome, bool(found.because)
    why = found.because or found.note
    said = f"**{found.finding}**" + (f": {why}" if why else "")
    parts = [
        outcome.words if outcome.words.startswith(outcome.name) else f"{outcome.name}: {outcome.words}",
        value_words(outcome, found.logged),
        value_words(outcome, found.candidate),
        "-" if blank else change_words(outcome, found.effect),
        "-" if blank else f"{change_words(outcome, found.low)} to {change_words(outcome, found.high)}",
        "-" if blank else f"{found.p_holm:.4f}",
        f"{found.n_better} / {found.n_worse}",
        "-" if blank else f"{found.p_sign:.4f}",
        said if found.decides else f"{said} (indication)",
    ]
    return f"| {' | '.join(map(cell, parts))} |"


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if math.isfinite(value) else "unknown"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
