"""Past days priced anew: what would be different, and why, before anything is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from tasks.costs.billing import Billing, compute_day
from tasks.costs.days import DayBill, read_bill, roll_up_day
from tasks.costs.line import Rollup, known_sum

Model = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a day of a model costs by the prices of now and cost by those it was rolled up with.

    Attributes:
        provider, model: ``unknown`` where the log does not say.
        old_pusd, new_pusd: None is unknown: unpriced, or never rolled up.
        reason: What changed: its prices, its calls, or both.
        old_prices, new_prices: First digits of the digests of the price entries.
    """

    day: date
    application: str
    provider: str
    model: str
    old_pusd: int | None
    new_pusd: int | None
    reason: str
    old_prices: tuple[str, ...]
    new_prices: tuple[str, ...]

    @property
    def delta_pusd(self) -> int | None:
        """How much more it costs now; None where one of the two is unknown."""
        return None if self.old_pusd is None or self.new_pusd is None else self.new_pusd - self.old_pusd


def compare_day(billing: Billing, day: date, application: str | None = None) -> tuple[Difference, ...]:
    """Return what would change if a day were priced now; nothing is written."""
    old = _by_model(read_bill(billing, day, application))
    new = _by_model(compute_day(billing, day, application).lines)
    found = [_compare(day, model, old.get(model, []), new.get(model, [])) for model in sorted({*old, *new})]
    return tuple(difference for difference in found if difference is not None)


def reprice_day(billing: Billing, day: date, application: str | None = None, *, now: datetime) -> DayBill:
    """Price a day anew; a closed day that changes is restated.

    Args:
        billing: Where calls, prices and bills are.
        day: Of the billing's zone.
        application: None is every application.
        now: The present.
    """
    return roll_up_day(billing, day, application, now=now, force=True)


def _by_model(lines: Sequence[Rollup]) -> dict[Model, list[Rollup]]:
    found: dict[Model, list[Rollup]] = defaultdict(list)
    for line in lines:
        found[line.key.application, line.key.provider or "unknown", line.key.model or "unknown"].append(line)
    return dict(found)


def _compare(day: date, model: Model, old: Sequence[Rollup], new: Sequence[Rollup]) -> Difference | None:
    if list(old) == list(new):
        return None
    before, after = (_prices(lines) for lines in (old, new))
    reasons = [
        *(["never rolled up"] if not old else []),
        *(["prices"] if old and before != after else []),
        *(["calls"] if old and _usage(old) != _usage(new) else []),
    ]
    return Difference(
        day=day,
        application=model[0],
        provider=model[1],
        model=model[2],
        old_pusd=known_sum(line.cost_pusd for line in old),
        new_pusd=known_sum(line.cost_pusd for line in new),
        reason=" and ".join(reasons) or "another way of adding up",
        old_prices=before,
        new_prices=after,
    )


def _prices(lines: Sequence[Rollup]) -> tuple[str, ...]:
    return tuple(sorted({(line.key.price_sha256 or "none")[:12] for line in lines}))


def _usage(lines: Sequence[Rollup]) -> tuple[int | None, ...]:
    one = [(line.requests, line.input_tokens, line.output_tokens, line.cached_input_tokens) for line in lines]
    return tuple(known_sum(column) for column in zip(*one, strict=True))
