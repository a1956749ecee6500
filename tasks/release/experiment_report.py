"""What people read about an A/B test: Markdown, without any prompt or answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.release.experiment import ArmEffect, Experiment, wanted_buckets
from tasks.release.report import cell
from tasks.traffic.plan import BUCKETS


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


def _arm(named: Mapping[str, str], arm: str, effects: Sequence[ArmEffect]) -> list[str]:
    return [
        "",
        f"## {named[arm]}",
        "",
        "| | control | this arm | effect | 95 % interval | matters from | p | users | |",
        "|---|---:|---:|---:|---|---:|---:|---:|---|",
        *(_row(effect) for effect in effects if effect.arm == arm),
    ]


def _row(found: ArmEffect) -> str:
    outcome, said = found.outcome, f"**{found.finding}**" + (f": {found.because}" if found.because else "")
    interval, p = "-", "-"
    if not found.because:
        interval = f"{_change(found, found.low)} to {_change(found, found.high)}"
        p = "<0.0001" if found.p_holm < 0.0001 else f"{found.p_holm:.4f}"  # noqa: PLR2004 - what four decimals show
    parts = [
        f"{outcome.name}: {outcome.words}" if outcome.words != outcome.name else outcome.name,
        _value(found, found.control),
        _value(found, found.value),
        "-" if found.because else _change(found, found.effect),
        interval,
        f"{outcome.matters_from:.1%}" if outcome.is_relative else f"{100 * outcome.matters_from:.1f} points",
        p,
        f"{found.n_control} / {found.n_arm}",
        said,
    ]
    return f"| {' | '.join(map(cell, parts))} |"


def _value(found: ArmEffect, value: float) -> str:
    return "-" if value != value else f"{value:.4g}" if found.outcome.is_relative else f"{value:.1%}"  # noqa: PLR0124


def _change(found: ArmEffect, value: float) -> str:
    return f"{value:+.1%}" if found.outcome.is_relative else f"{100 * value:+.1f} points"
