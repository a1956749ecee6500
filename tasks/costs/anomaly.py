"""Why a day cost more or less than another: the change taken apart into effects that add up to it exactly.

The effects are taken one after the other, in the order of ``Effect``, each with all before it changed and all after it
as they were (sequential, not Shapley): first all call more or less alike, then the shares of the applications change,
then those of the models within an application, then the tokens of a call, then what is read from caches, and at last
the prices. Each segment is rounded to whole pico-USD after each step, so its steps add up to its change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from fractions import Fraction
from typing import Final

from tasks.budgets.forecast import is_weekend
from tasks.costs.line import Rollup
from tasks.costs.rates import INPUT_PARTS, OUTPUT_PARTS, PARTS, PUSD_PER_USD
from tasks.costs.rollup import format_usd
from tasks.monitors.verdict import Check, Outcome

MIN_DAYS: Final = 5
MAX_DAYS: Final = 28
MAD_LIMIT: Final = 3.5
"""Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993: 0.6745 times the distance in MADs."""
_MAD_SCALE: Final = Fraction(6745, 10_000)
MIN_SHARE: Final = Fraction(1, 5)
MIN_USD: Final = 1
MAX_UNKNOWN: Final = Fraction(1, 100)
TOP: Final = 5
"""How many contributors are named."""


class Effect(StrEnum):
    """What changed, in the order it is taken."""

    VOLUME = "volume"
    APPLICATION_MIX = "application mix"
    MODEL_MIX = "model mix"
    INPUT_LENGTH = "input tokens per call"
    OUTPUT_LENGTH = "output tokens per call"
    CACHE = "cache"
    REASONING = "reasoning"
    OTHER = "other units per call"
    PRICE = "price"


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """Calls that share an owner, a model and a tier."""

    application: str
    team: str
    provider: str
    model: str
    service_tier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Why the cost changed.

    Attributes:
        before_pusd, after_pusd: What is known of both days' cost.
        effects: One for each of ``Effect``; they add up to the change, to the last digit.
        segments: The change of each segment, the largest first; they add up to it, too.
        before_unknown, after_unknown: Calls without a cost, which no effect can hold.
    """

    before_pusd: int
    after_pusd: int
    effects: Mapping[Effect, int]
    segments: tuple[tuple[Segment, int], ...]
    before_unknown: int
    after_unknown: int

    @property
    def change_pusd(self) -> int:
        """After less before."""
        return self.after_pusd - self.before_pusd

    def by(self, name: str) -> tuple[tuple[str, int], ...]:
        """Return the change of each ``application``, ``model``, ``team`` or ``provider``, the largest first."""
        sums: dict[str, int] = defaultdict(int)
        for segment, change in self.segments:
            sums[getattr(segment, name)] += change
        return tuple(sorted(sums.items(), key=lambda item: (-abs(item[1]), item[0])))

    def describe(self) -> str:
        """Return the change in one line, the largest effects and contributors first."""
        effects = sorted(self.effects.items(), key=lambda item: -abs(item[1]))
        why = ", ".join(f"{effect} {_signed(amount)}" for effect, amount in effects if amount)
        who = ", ".join(f"{name} {_signed(amount)}" for name, amount in self.by("model")[:TOP] if amount)
        whole = f"{format_usd(self.before_pusd)} to {format_usd(self.after_pusd)} USD"
        unknown = (self.before_unknown, self.after_unknown)
        more = f"; calls without a cost: {unknown[0]} to {unknown[1]}" if any(unknown) else ""
        return f"{whole} ({_signed(self.change_pusd)}): {why or 'nothing changed'}; by model: {who or 'none'}{more}"


@dataclass(slots=True)
class _Usage:
    calls: int
    counts: list[int]
    costs: list[int]

    @property
    def cost(self) -> int:
        return sum(self.costs)

    def count(self, parts: Sequence[str]) -> int:
        return sum(self.counts[PARTS.index(part)] for part in parts)


def explain_change(before: Sequence[Rollup], after: Sequence[Rollup]) -> Change:
    """Take the change from one day's cost to another's apart.

    Args:
        before: Lines of the day it is compared with.
        after: Lines of the day.

    Returns:
        Effects and segments that both add up to the change exactly. Calls without a cost are counted apart.
    """
    old, new = _usage(before), _usage(after)
    calls = sum(usage.calls for usage in old.values()), sum(usage.calls for usage in new.values())
    of_application = _calls_by_application(old), _calls_by_application(new)
    effects = dict.fromkeys(Effect, 0)
    changes: list[tuple[Segment, int]] = []
    for segment in sorted(old.keys() | new.keys()):
        whole = _ratio(*calls)
        mine = _ratio(of_application[0].get(segment.application, 0), of_application[1].get(segment.application, 0))
        values = [round(value) for value in _chain(old.get(segment), new.get(segment), whole, mine)]
        for effect, first, second in zip(Effect, values, values[1:], strict=False):
            effects[effect] += second - first
        changes.append((segment, values[-1] - values[0]))
    return Change(
        before_pusd=sum(usage.cost for usage in old.values()),
        after_pusd=sum(usage.cost for usage in new.values()),
        effects=effects,
        segments=tuple(sorted(changes, key=lambda item: (-abs(item[1]), item[0]))),
        before_unknown=sum(line.unpriced_requests for line in before),
        after_unknown=sum(line.unpriced_requests for line in after),
    )


def choose_baseline(costs: Mapping[date, int], day: date) -> date | None:
    """Return the earlier day with the median cost among the last ones of the day's type; None without any.

    Args:
        costs: What each day cost, pico-USD.
        day: Working days are compared with working days, weekends with weekends where there are ``MIN_DAYS``.
    """
    days = _comparable(costs, day)
    return sorted(days, key=lambda one: (costs[one], one))[(len(days) - 1) // 2] if days else None


def check_day_cost(
    costs: Mapping[date, int], day: date, *, min_usd: int = MIN_USD, unknown: Mapping[date, Fraction] | None = None
) -> Check:
    """Hold a day's cost against the median of the earlier ones.

    It fails where it is both further than ``MAD_LIMIT`` by the median absolute deviation and of practical size: a fifth
    of the median and ``min_usd``. With fewer than ``MIN_DAYS`` earlier days it is inconclusive, and where the share of
    calls without a cost is not as usual by ``MAX_UNKNOWN``, unless what is missing would bring it further off.

    Args:
        costs: What each day cost, pico-USD, with the day's own.
        day: The day.
        min_usd: Smaller changes are nobody's concern, USD.
        unknown: The share of each day's calls whose cost is not wholly known, 0 to 1; a day it lacks has none.
    """
    days, cost = _comparable(costs, day), costs.get(day)
    if cost is None or len(days) < MIN_DAYS:
        few = f"{len(days)} earlier days < {MIN_DAYS} needed to call a day unusual"
        text = f"cost of {day}: {few if cost is not None else 'it has no bill, or not one of every application'}"
        return Check(monitor="cost", outcome=Outcome.INCONCLUSIVE, statement=text, value=None, limit=None, n=len(days))
    median = _median([costs[one] for one in days])
    mad = _median([abs(costs[one] - median) for one in days])
    limit = max(Fraction(MAD_LIMIT) * mad / _MAD_SCALE, MIN_SHARE * median, Fraction(min_usd * PUSD_PER_USD))
    distance = abs(cost - median)
    over, missing = distance > limit, [(unknown or {}).get(one, Fraction(0)) for one in (day, *days)]
    now, usual = missing[0], _median(missing[1:])
    doubted = abs(now - usual) > MAX_UNKNOWN and not (over and (cost > median) == (now > usual))
    doubt = f", but {float(now):.1%} of the calls have no cost, usually {float(usual):.1%}" if doubted else ""
    text = (
        f"cost of {day}: {format_usd(cost)} USD is {format_usd(round(distance))} USD {'>' if over else '<='} "
        f"{format_usd(round(limit))} USD off the median {format_usd(round(median))} USD (n={len(days)} days)"
        f"{doubt}"
    )
    outcome = Outcome.INCONCLUSIVE if doubted else Outcome.FAIL if over else Outcome.PASS
    off, allowed = float(distance / PUSD_PER_USD), float(limit / PUSD_PER_USD)
    return Check(monitor="cost", outcome=outcome, statement=text, value=off, limit=allowed, n=len(days))


def _comparable(costs: Mapping[date, int], day: date) -> list[date]:
    before = sorted((one for one in costs if one < day), reverse=True)[:MAX_DAYS]
    same = [one for one in before if is_weekend(one) == is_weekend(day)]
    return same if len(same) >= MIN_DAYS else before


def _median(values: Sequence[int | Fraction]) -> Fraction:
    ordered = sorted(values)
    return (Fraction(ordered[(len(ordered) - 1) // 2]) + Fraction(ordered[len(ordered) // 2])) / 2


def _usage(lines: Sequence[Rollup]) -> dict[Segment, _Usage]:
    """Return what was used at what cost; refused calls, which used nothing at no price, are no calls here."""
    found: dict[Segment, _Usage] = {}
    for line in lines:
        if line.cost_pusd is None or line.key.price_sha256 is None:
            continue
        of = line.key
        names = (of.application, of.team or "unknown", of.provider or "unknown", of.model or "unknown")
        usage = found.setdefault(Segment(*names, of.service_tier), _Usage(0, [0] * len(PARTS), [0] * len(PARTS)))
        usage.calls += line.requests - line.unpriced_requests
        for index in range(len(PARTS)):
            usage.counts[index] += line.counts[index] or 0
            usage.costs[index] += line.parts_pusd[index] or 0
    return found


def _calls_by_application(usages: Mapping[Segment, _Usage]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for segment, usage in usages.items():
        sums[segment.application] += usage.calls
    return sums


def _ratio(before: int, after: int) -> Fraction | None:
    return Fraction(after, before) if before else None


def _chain(old: _Usage | None, new: _Usage | None, whole: Fraction | None, mine: Fraction | None) -> list[Fraction]:
    """Return the cost of a segment before, after each effect in its order, and thereby at last after all."""
    before, after = Fraction(old.cost if old else 0), Fraction(new.cost if new else 0)
    if old is None or old.calls == 0:  # new here: it is a matter of the first share that could not have held it
        start = 1 if whole is None else 2 if mine is None else 3
        steps = len(Effect) + 1
        return [before if index < start else after for index in range(steps)]
    shared = [before, before * (whole or 0), before * (mine or 0)]
    if new is None or new.calls == 0:
        return [*shared, *[after] * (len(Effect) + 1 - len(shared))]
    return [*shared, *_within(old, new), after]


def _within(old: _Usage, new: _Usage) -> list[Fraction]:
    """Return the cost of a segment's calls of now with more and more of what they used, at the old prices."""
    more = Fraction(new.calls, old.calls)
    prices = [_price(old, new, index) for index in range(len(PARTS))]
    then = [count * more for count in old.counts]
    now = [Fraction(count) for count in new.counts]
    values = [sum((count * price for count, price in zip(then, prices, strict=True)), Fraction(0))]
    values[0] = old.cost * more  # the same, but for what was paid for nothing that was counted
    for parts in (INPUT_PARTS, OUTPUT_PARTS):
        values.append(values[-1] + _scaled(old, new, more, parts, prices))
    for parts in (INPUT_PARTS, OUTPUT_PARTS):
        values.append(values[-1] + _composed(old, new, parts, prices))
    rest = [index for index, part in enumerate(PARTS) if part not in {*INPUT_PARTS, *OUTPUT_PARTS}]
    values.append(values[-1] + sum(((now[index] - then[index]) * prices[index] for index in rest), Fraction(0)))
    return values


def _price(old: _Usage, new: _Usage, index: int) -> Fraction:
    """Return what one of a part cost; what nobody paid on the day before is taken from the day itself."""
    for usage in (old, new):
        if usage.counts[index]:
            return Fraction(usage.costs[index], usage.counts[index])
    return Fraction(0)


def _scaled(old: _Usage, new: _Usage, more: Fraction, parts: Sequence[str], prices: Sequence[Fraction]) -> Fraction:
    """Return what more or fewer tokens a call cost, composed as they were; or as they are, where there were none."""
    had = old.count(parts)
    like, whole = (old, had) if had else (new, new.count(parts))
    if not whole:
        return Fraction(0)
    mean = sum((like.counts[PARTS.index(part)] * prices[PARTS.index(part)] for part in parts), Fraction(0)) / whole
    return (new.count(parts) - had * more) * mean


def _composed(old: _Usage, new: _Usage, parts: Sequence[str], prices: Sequence[Fraction]) -> Fraction:
    """Return what another composition of the same number of tokens cost."""
    had, has = old.count(parts), new.count(parts)
    if not had:
        return Fraction(0)
    indexes = [PARTS.index(part) for part in parts]
    return sum(
        ((new.counts[index] - Fraction(has * old.counts[index], had)) * prices[index] for index in indexes),
        Fraction(0),
    )


def _signed(pusd: int) -> str:
    return f"{'+' if pusd >= 0 else ''}{format_usd(pusd)} USD"
