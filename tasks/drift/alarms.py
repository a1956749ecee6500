"""Alarms over many nights: slow change is found without the false alarms that asking every night brings.

The unit is the night. A baseline of k nights of one day type (weekday or weekend) cuts the values a metric can take
into k + 1 gaps. While nothing changes, the gap that the next night falls into follows Pólya's urn, whatever the
distribution: gap j has the chance (1 + nights already in j) / (k + 1 + nights since). Each night bets against that
on the outer gaps; what the bets have won is a martingale, so the chance that it ever reaches 1/alpha is at most
alpha. It is spread over several bets and starting nights, and averaged over metrics, which is valid under any
dependence between them. The baseline is never mixed with the nights it judges, so a change cannot hide in it.

Gross breakage has to be seen on the first night; ``alarm_checks`` does that and makes the checks of both. They share
one alpha: ``slow_share`` of it is for the bets here, the rest for the single nights.

A night with no data or with a metric missing is left out. Nothing is hidden in a state: ``replay`` makes the same
one from the stored nights. After an alarm that a person acknowledged, the nights after it are a new stretch with
its own alpha; nights of a stretch that is suspect may not become a baseline (``fit_for_baseline``).

References: Vovk, Gammerman & Shafer (2022), Algorithmic Learning in a Random World, ch. 8; Ramdas et al. (2023),
Game-theoretic statistics and safe anytime-valid inference.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from statistics import fmean, median
from typing import ClassVar, Final

import xxhash
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.drift.nights import FEWEST_NIGHTS, STRICT, AlarmPolicy, Night, Side, Watched, is_weekend, value_of
from tasks.errors import InputError

SUSPICION: Final = 3.0
"""From this evidence on, the nights are not fit to become a baseline."""
BETS: Final = (0.05, 0.15, 0.4)
"""Exponents of the bets: the smaller, the more is put on the outermost gap."""
AT_ONCE: Final = 0.3
"""Share of the money that bets from the first night."""
LATER: Final = 1 / 60
"""Share of the rest that starts betting each night, so that a late change is found as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stakes:
    """What the bets on one metric have come to.

    Attributes:
        name: The metric.
        weekday, weekend: How many nights fell into each gap.
        bets: What each bet is worth.
        cash: What is not betting yet.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    weekday: tuple[int, ...]
    weekend: tuple[int, ...]
    bets: tuple[float, ...]
    cash: float

    @property
    def evidence(self) -> float:
        """How much the bets have won: 1 at the start."""
        return sum(self.bets) + self.cash


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmState:
    """All that is known after some nights; small, and the same from a replay.

    Attributes:
        nights: How many nights were ranked.
        last: The last of them.
        alarmed: The night on which the evidence first sufficed.
        stakes: A metric each.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    nights: int = 0
    last: date | None = None
    alarmed: date | None = None
    stakes: tuple[Stakes, ...] = ()

    @property
    def evidence(self) -> float:
        """The evidence against "nothing has changed", over all metrics: 1 at the start, an e-value at any night."""
        return fmean(item.evidence for item in self.stakes) if self.stakes else 1.0

    @property
    def fit_for_baseline(self) -> bool:
        """Whether nothing is suspect, so that these nights may become a baseline."""
        return self.alarmed is None and self.evidence < SUSPICION

    def to_json(self) -> str:
        """Return the state as JSON; the same state gives the same text."""
        return TypeAdapter(AlarmState).dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> AlarmState:
        """Read what ``to_json`` wrote.

        Raises:
            InputError: It is no such state.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise InputError(f"alarm state: {error.errors(include_url=False)[0]['msg']}; replay the nights") from error


@dataclass(frozen=True, slots=True)
class Calibration:
    """The nights of a baseline, ready to rank others.

    Attributes:
        policy: How nights are judged.
        usual_n: The median of the interactions a night.
        sorted_values: By metric and whether it is a weekend: values with their tie-breaks, ascending.
    """

    policy: AlarmPolicy
    usual_n: float
    sorted_values: dict[tuple[str, bool], tuple[tuple[float, float], ...]]

    @classmethod
    def of(cls, baseline: Iterable[Night], policy: AlarmPolicy) -> Calibration:
        """Sort the nights of a baseline.

        Raises:
            InputError: A value is not finite.
        """
        nights, found = tuple(baseline), {}
        for metric in policy.watched:
            for weekend in (False, True):
                days = (night for night in nights if is_weekend(night.day) is weekend)
                placed = (_placed(policy, night, metric.name) for night in days)
                found[metric.name, weekend] = tuple(sorted(item for item in placed if item is not None))
        return cls(policy, median(night.n for night in nights) if nights else 0.0, found)

    def begin(self) -> AlarmState:
        """Return the state before the first night."""
        sizes = [(len(self.sorted_values[item.name, False]), item) for item in self.policy.watched]
        ends = [len(self.sorted_values[item.name, True]) for item in self.policy.watched]
        stakes = tuple(
            Stakes(
                name=item.name,
                weekday=(0,) * (size + 1),
                weekend=(0,) * (end + 1),
                bets=(AT_ONCE / _bet_count(item.side),) * _bet_count(item.side),
                cash=1 - AT_ONCE,
            )
            for (size, item), end in zip(sizes, ends, strict=True)
        )
        return AlarmState(stakes=stakes)

    def advance(self, state: AlarmState, night: Night) -> AlarmState:
        """Return the state after one more night; a night that is too small changes nothing.

        Raises:
            InputError: The night is not after the last one, or a value is not finite.
        """
        if state.last is not None and night.day <= state.last:
            raise InputError.of("night", night.day.isoformat(), f"a day after {state.last.isoformat()}")
        if self.is_too_small(night):
            return state
        stakes = tuple(
            self._bet(item, watched, night) for item, watched in zip(state.stakes, self.policy.watched, strict=True)
        )
        after = replace(state, nights=state.nights + 1, last=night.day, stakes=stakes)
        certain = after.evidence >= 1 / (self.policy.alpha * self.policy.slow_share)
        return replace(after, alarmed=night.day) if certain and state.alarmed is None else after

    def is_too_small(self, night: Night) -> bool:
        """Return whether a night has too few interactions to stand beside the baseline's."""
        return night.n < self.policy.least_share * self.usual_n or night.n == 0

    def _bet(self, stakes: Stakes, watched: Watched, night: Night) -> Stakes:
        weekend = is_weekend(night.day)
        base, placed = self.sorted_values[watched.name, weekend], _placed(self.policy, night, watched.name)
        if placed is None or len(base) < FEWEST_NIGHTS:
            return stakes
        gap = bisect_left(base, placed)
        seen = stakes.weekend if weekend else stakes.weekday
        chance = (seen[gap] + 1) / (len(base) + 1 + sum(seen))
        fresh = LATER * stakes.cash / len(stakes.bets)
        worth = (
            (bet + fresh) * put / chance
            for bet, put in zip(stakes.bets, _put_on(gap, len(base), watched.side), strict=True)
        )
        counted = (*seen[:gap], seen[gap] + 1, *seen[gap + 1 :])
        after = replace(stakes, bets=tuple(worth), cash=(1 - LATER) * stakes.cash)
        return replace(after, weekend=counted) if weekend else replace(after, weekday=counted)


def replay(baseline: Iterable[Night], nights: Iterable[Night], policy: AlarmPolicy) -> AlarmState:
    """Return the state after the nights of one stretch, in their order; always the same for the same nights.

    Args:
        baseline: The nights that others are ranked among.
        nights: The nights since, without those up to the last acknowledged alarm.
        policy: How nights are judged.

    Raises:
        InputError: Two nights are of one day, or a value is not finite.
    """
    calibration = Calibration.of(baseline, policy)
    state = calibration.begin()
    for night in sorted(nights, key=lambda item: item.day):
        state = calibration.advance(state, night)
    return state


def _placed(policy: AlarmPolicy, night: Night, metric: str) -> tuple[float, float] | None:
    value = value_of(night, metric)
    if value is None:
        return None
    key = f"{policy.identity}\0{metric}\0{night.day.isoformat()}"
    return value, xxhash.xxh64_intdigest(key.encode()) / 2**64


def _bet_count(side: Side) -> int:
    return len(BETS) * (2 if side == "both" else 1)


def _put_on(gap: int, nights: int, side: Side) -> tuple[float, ...]:
    """Return what each bet puts on a gap; over all gaps each bet puts 1."""
    cells = nights + 1
    above, below = cells - gap, gap + 1
    high = tuple((above / cells) ** bet - ((above - 1) / cells) ** bet for bet in BETS)
    low = tuple((below / cells) ** bet - ((below - 1) / cells) ** bet for bet in BETS)
    return high if side == "high" else low if side == "low" else (*high, *low)
