"""Whose change is it: the users', the provider's or the judge's? A fixed replay set tells.

Three sets of scores are measured before and now. *Anchors* are stored questions with stored answers: only the judge
can change their scores. *Replays* are stored questions, answered anew: the provider can change them too. *Live*
answers change with the questions as well. So the judge's part is the change of the anchors, the provider's that of
the replays less the judge's, the users' that of live traffic less the replays'. Each part has an interval and is
judged by the rule of all drift; a part that cannot be measured is inconclusive and takes those behind it with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final, Literal

from tasks.drift.effects import Change, Effect, make_effect, make_unknown_effect
from tasks.errors import InputError
from tasks.monitors.verdict import Outcome

Cause = Literal["judge", "provider", "inputs"]
CAUSES: Final[tuple[Cause, ...]] = ("judge", "provider", "inputs")
FEWEST_PAIRS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedChange:
    """How much the scores of the same items changed.

    Attributes:
        mean: Now less before.
        error: Its standard error.
        n: Items scored both times.
        lost: Items scored before and not now.
    """

    mean: float
    error: float
    n: int
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """A change of quality shared out among its causes.

    Attributes:
        effects: The parts of the judge, the provider and the inputs, in this order.
        causes: Those whose part fails.
    """

    effects: tuple[Effect, ...]
    causes: tuple[Cause, ...]

    @property
    def words(self) -> str:
        """Say whose change it is."""
        doubtful = [item.column for item in self.effects if item.outcome is Outcome.INCONCLUSIVE]
        doubt = f"; not known: {', '.join(doubtful)}" if doubtful else ""
        return f"changed: {', '.join(self.causes) or 'nothing that matters'}{doubt}"


def pair_scores(before: Mapping[str, float], now: Mapping[str, float]) -> PairedChange:
    """Pair the scores of a replay set by item.

    Args:
        before: Item to score, when the baseline was made; an item without a score is left out.
        now: The same tonight.

    Raises:
        InputError: A score is not finite, or an item of tonight was not in the set.
    """
    if unknown := sorted(now.keys() - before.keys()):
        raise InputError.of("replay item", unknown[0], f"one of the {len(before)} items of the set")
    for item, score in (*before.items(), *now.items()):
        if not math.isfinite(score):
            raise InputError.of(f"score of replay item {item}", score, "a finite number; leave out what is not scored")
    changes = [now[item] - before[item] for item in sorted(now)]
    n = len(changes)
    if n < 2:  # noqa: PLR2004 - one change has no spread
        return PairedChange(mean=math.nan, error=math.inf, n=n, lost=len(before) - n)
    return PairedChange(mean=fmean(changes), error=stdev(changes) / math.sqrt(n), n=n, lost=len(before) - n)


def tell_apart(
    anchors: PairedChange | None,
    replays: PairedChange | None,
    live: PairedChange | None,
    *,
    least: float = 0.02,
    alpha: float = 0.01,
    is_kept: bool = False,
) -> Attribution:
    """Share out a change of quality among judge, provider and inputs.

    Args:
        anchors: Stored questions and answers, judged again.
        replays: Stored questions, answered anew and judged.
        live: Live answers; the mean of tonight less the baseline's, and the error of that difference.
        least: The smallest change of a score that matters.
        alpha: The chance that any cause is named while nothing changed, 0 to 1.
        is_kept: Whether scores of live answers may have been kept from earlier nights: unless the judge is the same,
            they are of two judges then, and the inputs' part cannot be told.
    """
    from scipy import stats

    known = [part if part is not None and part.n >= FEWEST_PAIRS else None for part in (anchors, replays, live)]
    effects: list[Effect] = []
    for at, cause in enumerate(CAUSES):
        whole, less = known[at], known[at - 1] if at else None
        n = whole.n if whole else 0
        if cause == "inputs" and is_kept and effects[0].outcome is not Outcome.PASS:
            effects.append(make_unknown_effect(cause, "live answers may have scores of the judge before", n))
            continue
        if whole is None or (at and less is None):
            effects.append(make_unknown_effect(cause, f"fewer than {FEWEST_PAIRS} pairs to tell it by", n))
            continue
        mean = whole.mean - (less.mean if less else 0.0)
        freedom = min(whole.n, less.n if less else whole.n) - 1
        margin = float(stats.t.isf(alpha / 2 / len(CAUSES), freedom)) * math.hypot(
            whole.error, less.error if less else 0.0
        )
        change = Change(value=mean, low=mean - margin, high=mean + margin)
        n_before = less.n if less else whole.n
        effects.append(
            make_effect(cause, "score", change, least=least, side="both", scale="difference", n=n, n_baseline=n_before)
        )
    failed = tuple(cause for cause, effect in zip(CAUSES, effects, strict=True) if effect.outcome is Outcome.FAIL)
    return Attribution(effects=tuple(effects), causes=failed)
