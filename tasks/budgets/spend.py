"""What was spent by when: the priced calls of a window in quarter hours, and how a budget counts them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import duckdb

from tasks.budgets.budget import Budget, Scope, to_pusd

QUARTER: Final = timedelta(minutes=15)
_US: Final = timedelta(microseconds=1)
_TOKENS_PER_CEILING: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Calls of one quarter hour, one owner and one status of cost, added up.

    Attributes:
        quarter: Which quarter hour of the window, from 0.
        status: As the view ``priced`` says.
        calls: How many.
        cost_pusd: What is known of their cost; 0 where nothing is, and then the status says so.
        tokens: Of those whose input and output are both known.
        calls_without_tokens: How many are not such.
    """

    quarter: int
    application: str
    team: str | None
    model: str | None
    release: str | None
    tags: tuple[str, ...]
    status: str
    calls: int
    cost_pusd: int
    tokens: int
    calls_without_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a budget is charged with.

    Attributes:
        known_pusd: Priced, estimated and partly priced calls.
        estimated_pusd: The part of it that rests on estimated tokens.
        ceiling_pusd: Calls without a price, at the declared ceilings.
        calls: All.
        at_ceiling: Those charged at a ceiling.
        unknown: Those that no price and no ceiling covers.
    """

    known_pusd: int = 0
    estimated_pusd: int = 0
    ceiling_pusd: int = 0
    calls: int = 0
    at_ceiling: int = 0
    unknown: int = 0

    @property
    def total_pusd(self) -> int:
        """What counts against the budget."""
        return self.known_pusd + self.ceiling_pusd

    def __add__(self, other: Charge) -> Charge:
        """Return both together."""
        return Charge(
            known_pusd=self.known_pusd + other.known_pusd,
            estimated_pusd=self.estimated_pusd + other.estimated_pusd,
            ceiling_pusd=self.ceiling_pusd + other.ceiling_pusd,
            calls=self.calls + other.calls,
            at_ceiling=self.at_ceiling + other.at_ceiling,
            unknown=self.unknown + other.unknown,
        )


def read_spend(connection: duckdb.DuckDBPyConnection, start: datetime, until: datetime) -> tuple[Spend, ...]:
    """Return the calls of the view ``priced`` in a half-open window, added up by its quarter hours."""
    found = connection.execute(_SPEND, [start, until]).fetchall()
    return tuple(
        Spend(
            quarter=quarter,
            application=application,
            team=team,
            model=model,
            release=release,
            tags=tuple(tags or ()),
            status=status,
            calls=calls,
            cost_pusd=int(cost),
            tokens=int(tokens),
            calls_without_tokens=without,
        )
        for quarter, application, team, model, release, tags, status, calls, cost, tokens, without in found
    )


def is_in(scope: Scope, spend: Spend) -> bool:
    """Return whether calls are a budget's."""
    return (
        scope.application in {None, spend.application}
        and scope.team in {None, spend.team}
        and scope.model in {None, spend.model}
        and scope.release in {None, spend.release}
        and (scope.tag is None or scope.tag in spend.tags)
    )


def charge(budget: Budget, spends: Iterable[Spend]) -> Charge:
    """Return what a budget is charged with for those of the calls that are its own."""
    return sum((_charge(budget, spend) for spend in spends if is_in(budget.scope, spend)), Charge())


def charge_quarters(budget: Budget, spends: Sequence[Spend], quarters: int) -> tuple[int, ...]:
    """Return what counts against a budget in each quarter hour of a day, pico-USD."""
    found = [0] * quarters
    for spend in spends:
        if is_in(budget.scope, spend):
            found[min(spend.quarter, quarters - 1)] += _charge(budget, spend).total_pusd
    return tuple(found)


def spent_by(quarters: Sequence[int], elapsed: timedelta) -> int:
    """Return what of a day was spent after a time, whole quarters and the even share of the one that was under way."""
    whole, rest = divmod(elapsed, QUARTER)
    under_way = quarters[whole] if whole < len(quarters) else 0
    return sum(quarters[:whole]) + under_way * (rest // _US) // (QUARTER // _US)


def _charge(budget: Budget, spend: Spend) -> Charge:
    known = Charge(
        known_pusd=spend.cost_pusd,
        estimated_pusd=spend.cost_pusd if spend.status == "estimated" else 0,
        calls=spend.calls,
    )
    if spend.status not in {"unpriced", "partial"}:
        return known
    by_tokens, by_call = budget.unpriced_ceiling_usd_per_1k_tokens, budget.unpriced_ceiling_usd_per_call
    with_tokens = spend.calls - spend.calls_without_tokens
    ceiling, covered = 0, 0
    if by_tokens is not None:
        ceiling += to_pusd(by_tokens) * spend.tokens // _TOKENS_PER_CEILING  # whole: it has nine decimals at most
        covered += with_tokens
    if by_call is not None:
        ceiling += to_pusd(by_call) * (spend.calls - covered)
        covered = spend.calls
    return known + Charge(ceiling_pusd=ceiling, at_ceiling=covered, unknown=spend.calls - covered)


_SPEND: Final = """
SELECT CAST(floor((epoch_us(time_utc) - epoch_us(CAST($1 AS TIMESTAMPTZ))) / 900000000) AS BIGINT) AS quarter,
    application, team, model, release_digest, tags, cost_status, count(*), coalesce(sum(cost_pusd), 0),
    coalesce(sum(input_tokens + output_tokens), 0), count_if(input_tokens IS NULL OR output_tokens IS NULL)
FROM priced WHERE time_utc >= $1 AND time_utc < $2
GROUP BY ALL ORDER BY ALL
"""
