"""What people read about an A/B test: Markdown, without any prompt or answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.experiments.experiment import ArmEffect, Experiment, Outcome, wanted_buckets
from tasks.release.report import cell
from tasks.traffic.plan import BUCKETS

if TYPE_CHECKING:
    from tasks.shadows.shadow import PairedEffect

_UNIT = 6
"""Columns of the picture that stand for what matters in a metric."""
_HALF = 4 * _UNIT


def experiment_markdown(
    experiment: Experiment, effects: Sequence[ArmEffect], labels: Mapping[str, str] | None = None
) -> str:
    """Return a table of every arm against the control arm.

    Args:
        experiment: Who was compared.
        effects: As ``report`` returns them.
        labels: Digest and name for people; without one, the first twelve digits of the digest.
    """
    named = {arm: cell((labels or {}).get(arm, "")) or f"`{arm[:12]}`" for arm in experiment.arms}
    buckets = wanted_buckets(experiment.arms)
    shares = ", ".join(f"{named[arm]} {buckets[arm] / BUCKETS:.1%}" for arm in experiment.arms)
    tested = sum(not effect.because for effect in effects)
    return "\n".join(
        [
            f"# A/B test {experiment.name}",
            "",
            f"Users: {shares}. Control: {named[experiment.control]}.",
            f"One look, one mean a user; intervals are 95 % each, p is corrected over {tested} comparisons (Holm).",
            *(line for arm in experiment.arms if arm != experiment.control for line in _arm(named, arm, effects)),
        ]
    )


def effect_line(found: ArmEffect) -> str:
    """Return one comparison in one line: effect, interval, finding."""
    name = found.outcome.name
    if found.because:
        return f"{name}: {found.finding}: {found.because}"
    outcome = found.outcome
    low, high = (change_words(outcome, value) for value in (found.low, found.high))
    return (
        f"{name} {value_words(outcome, found.control)} -> {value_words(outcome, found.value)}: "
        f"{change_words(outcome, found.effect)}, 95 % {low} to {high}, {found.finding} "
        f"(n={found.n_control} and {found.n_arm} users)"
    )


def interval_picture(effects: Sequence[ArmEffect] | Sequence[PairedEffect]) -> list[str]:
    """Return the intervals as a picture of letters: better is to the right, and the dots are what matters from.

    Args:
        effects: Of one arm or shadow; each line is scaled by what matters in its metric.
    """
    width = max((len(effect.outcome.name) for effect in effects), default=0)
    lines = [
        f"{e.outcome.name:<{width}}  "
        f"{drawn_interval(e.outcome, None if e.because else (e.low, e.effect, e.high))}  {e.finding}"
        for e in effects
    ]
    return ["```", picture_head(width), *lines, "```"]


def picture_head(width: int) -> str:
    """Return the line above the intervals of a picture; ``width`` is that of the names, letters."""
    return f"{'':{width}}  {'worse':<{_HALF}}|{'better':>{_HALF}}"


def drawn_interval(outcome: Outcome, interval: tuple[float, float, float] | None) -> str:
    """Return one interval (low, effect, high) as a line of letters, empty without any."""
    line = [" "] * (2 * _HALF + 1)
    for at in (-_UNIT, _UNIT):
        line[_HALF + at] = "."
    line[_HALF] = "|"
    if interval is not None:
        sign = 1 if outcome.is_good else -1
        low, at, high = (_column(sign * value / outcome.matters_from) for value in interval)
        first, last = min(low, high), max(low, high)
        line[first : last + 1] = "-" * (last - first + 1)
        line[first] = "<" if first == 0 else "-"
        line[last] = ">" if last == 2 * _HALF else "-"
        line[at] = "o"
    return "".join(line)


def _column(margins: float) -> int:
    return _HALF + max(-_HALF, min(_HALF, round(margins * _UNIT)))


def _arm(named: Mapping[str, str], arm: str, effects: Sequence[ArmEffect]) -> list[str]:
    mine = [effect for effect in effects if effect.arm == arm]
    return [
        "",
        f"## {named[arm]}",
        "",
        "| | control | this arm | effect | 95 % interval | matters from | p | users | |",
        "|---|---:|---:|---:|---|---:|---:|---:|---|",
        *(_row(effect) for effect in mine),
        "",
        *interval_picture(mine),
    ]


def _row(found: ArmEffect) -> str:
    outcome, said = found.outcome, f"**{found.finding}**" + (f": {found.because}" if found.because else "")
    interval, p = "-", "-"
    if not found.because:
        interval = f"{change_words(found.outcome, found.low)} to {change_words(found.outcome, found.high)}"
        p = "<0.0001" if found.p_holm < 0.0001 else f"{found.p_holm:.4f}"  # noqa: PLR2004 - what four decimals show
    parts = [
        f"{outcome.name}: {outcome.words}" if outcome.words != outcome.name else outcome.name,
        value_words(found.outcome, found.control),
        value_words(found.outcome, found.value),
        "-" if found.because else change_words(found.outcome, found.effect),
        interval,
        f"{outcome.matters_from:.1%}" if outcome.is_relative else f"{100 * outcome.matters_from:.1f} points",
        p,
        f"{found.n_control} / {found.n_arm}",
        said,
    ]
    return f"| {' | '.join(map(cell, parts))} |"


def value_words(outcome: Outcome, value: float) -> str:
    """Return a mean as people read it."""
    return "-" if value != value else f"{value:.4g}" if outcome.is_relative else f"{value:.1%}"  # noqa: PLR0124


def change_words(outcome: Outcome, value: float) -> str:
    """Return a difference as people read it."""
    return f"{value:+.1%}" if outcome.is_relative else f"{100 * value:+.1f} points"
