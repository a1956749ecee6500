"""Our bill held against the provider's: every difference named, and all of them add up exactly.

ours + the sum of the differences = the provider's, to the last digit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal, localcontext
from enum import StrEnum
from fractions import Fraction
from itertools import combinations
from typing import Final

from tasks.costs.line import Rollup
from tasks.costs.rates import INPUT_PARTS
from tasks.errors import ConflictError, InputError
from tasks.finance.provider_reports import ProviderReport
from tasks.finance.reconciliation_sides import Grain, Key, Side, add_sides, covered, our_entries, their_entries
from tasks.finance.repeats import refuse_repeated_days

_CANCELS: Final = Fraction(1, 20)
"""Two differences are one that moved where what is left of them is at most this share."""
_PREC: Final = 80


class Reason(StrEnum):
    """Why a line of the two bills differs."""

    MISSING_IN_LOG = "missing in log"
    MISSING_AT_PROVIDER = "missing at provider"
    UNPRICED = "unpriced here"
    TOKENS = "tokens differ"
    PRICE = "price differs"
    AMOUNT = "amount differs"
    TIER = "another tier"
    TOKEN_TYPE = "another token type"  # noqa: S105 - no password
    DAY = "day boundary"
    ROUNDING = "rounding"


ADVICE: Final = {
    Reason.MISSING_IN_LOG: "untracked spend: find the key or project that made these calls, and log it",
    Reason.MISSING_AT_PROVIDER: "not billed, or not yet: look again in two days, then for doubled or test calls",
    Reason.UNPRICED: "add a price to the price book and reprice the days",
    Reason.TOKENS: "look for lost or broken streams, retries, and calls logged twice",
    Reason.PRICE: "correct the price book or the contract, and reprice the days",
    Reason.AMOUNT: "give the usage report, too: without tokens, price and usage cannot be told apart",
    Reason.TIER: "log the service tier of the answer: these calls were billed at another one",
    Reason.TOKEN_TYPE: "log what was read from and written to caches: these tokens were billed as others",
    Reason.DAY: "nothing is lost: calls about midnight UTC are counted on the neighbouring day",
    Reason.ROUNDING: "nothing: the provider rounds its amounts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference: the provider's less ours.

    Attributes:
        tokens: None where the provider says no number.
        usd: Exact; None where the provider says no amount and we know no price.
    """

    day: date
    model: str | None
    tier: str | None
    part: str
    reason: Reason
    tokens: int | None
    usd: Fraction | None

    @property
    def advice(self) -> str:
        """What to do about it."""
        return ADVICE[self.reason]

    @property
    def is_harmless(self) -> bool:
        """Whether nothing has to be done about it."""
        return self.reason is Reason.ROUNDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """Two bills of some days, and what lies between them.

    Attributes:
        days: Those that were compared.
        skipped_days: Those the provider's reports cover only in part.
        ours_usd, theirs_usd: Exact; the provider's is None where it says no amounts.
        ours_tokens, theirs_tokens: The provider's is None where one of its lines says no number.
        matched: How many lines are the same.
        unknown_calls: Ours without known tokens, which no line can hold.
        differences: By day, model, tier and part.
    """

    provider: str
    days: tuple[date, ...]
    skipped_days: tuple[date, ...]
    ours_usd: Fraction
    theirs_usd: Fraction | None
    ours_tokens: int
    theirs_tokens: int | None
    matched: int
    unknown_calls: int
    differences: tuple[Difference, ...]

    def by_reason(self) -> dict[Reason, Fraction]:
        """Return what each reason comes to, USD."""
        sums: dict[Reason, Fraction] = defaultdict(Fraction)
        for one in self.differences:
            sums[one.reason] += one.usd or 0
        return {reason: sums[reason] for reason in Reason if reason in sums}

    def share(self, one: Difference) -> float | None:
        """Return a difference as a share of the provider's bill; None where that is unknown or 0."""
        return float(one.usd / self.theirs_usd) if one.usd is not None and self.theirs_usd else None


def reconcile(
    lines: Sequence[Rollup], reports: Sequence[ProviderReport], aliases: Mapping[str, str] | None = None
) -> Reconciliation:
    """Hold our rollup against a provider's reports.

    Args:
        lines: Of UTC days; other providers' lines are not looked at.
        reports: Of one provider: costs, usage, or both, which together tell price from usage.
        aliases: The provider's name of a model to the one our log has.

    Raises:
        InputError: No report, reports of several providers, no day that they cover wholly, or one given twice.
        ConflictError: The differences do not add up, which would be an error of this project.
    """
    days = covered(reports)
    providers = {report.provider for report in reports}
    if len(providers) != 1 or not days:
        of = ", ".join(sorted(providers)) or "nobody"
        raise InputError(f"reports of {of}: give reports of one provider that all cover some whole UTC day")
    (provider,) = providers
    refuse_repeated_days(reports, days)
    given = their_entries(reports, days, aliases or {})
    grain = Grain.of(given)
    mine = [line for line in lines if line.key.provider == provider and line.key.day in days]
    ours, theirs = add_sides(our_entries(mine), grain), add_sides(given, grain)
    found = [
        one
        for key in sorted(ours.keys() | theirs.keys(), key=_order)
        for one in _compare(key, ours.get(key), theirs.get(key), has_usd=grain.has_usd)
    ]
    result = Reconciliation(
        provider=provider,
        days=tuple(sorted(days)),
        skipped_days=tuple(sorted(frozenset[date]().union(*(r.days | r.partial_days for r in reports)) - days)),
        ours_usd=_total(side.usd for side in ours.values()),
        theirs_usd=_total(side.usd for side in theirs.values()) if grain.has_usd else None,
        ours_tokens=sum(side.tokens or 0 for side in ours.values()),
        theirs_tokens=_tokens(theirs),
        matched=len((ours.keys() & theirs.keys()) - {_key(one) for one in found}),
        unknown_calls=sum(line.requests for line in mine if line.counts[0] is None),
        differences=tuple(_moved(found)),
    )
    _prove(result)
    return result


def exact_usd(usd: Fraction) -> str:
    """Return an amount with all its digits where they end, and with thirty where they do not."""
    with localcontext(prec=_PREC):
        number = Decimal(usd.numerator) / Decimal(usd.denominator)
        text = f"{number.quantize(Decimal(1).scaleb(-30)):f}".rstrip("0")
    whole, _, rest = text.partition(".")
    return f"{whole}.{rest.ljust(2, '0')}"


def _compare(key: Key, ours: Side | None, theirs: Side | None, *, has_usd: bool) -> Iterator[Difference]:
    none = Fraction(0)
    if theirs is None:
        if ours is not None:
            gone = None if ours.tokens is None else -ours.tokens
            yield _difference(key, Reason.MISSING_AT_PROVIDER, gone, -(ours.usd or none))
        return
    billed = (theirs.usd or none) if has_usd else None
    if ours is None:
        yield _difference(key, Reason.MISSING_IN_LOG, theirs.tokens, billed)
        return
    more = None if theirs.tokens is None else theirs.tokens - (ours.tokens or 0)
    if ours.usd is None:
        yield _difference(key, Reason.UNPRICED, more, billed)
    elif more is None or theirs.tokens is None:
        yield from _by_amount(key, ours, theirs)
    else:
        yield from _by_tokens(key, ours, theirs, more, has_usd=has_usd)


def _by_amount(key: Key, ours: Side, theirs: Side) -> Iterator[Difference]:
    delta = (theirs.usd or Fraction(0)) - (ours.usd or Fraction(0))
    if delta:
        reason = Reason.ROUNDING if abs(delta) <= theirs.rounding and not ours.unpriced else Reason.AMOUNT
        yield _difference(key, reason, None, delta)


def _by_tokens(key: Key, ours: Side, theirs: Side, more: int, *, has_usd: bool) -> Iterator[Difference]:
    """Yield what unpriced tokens, other tokens and another price come to; together they are the whole."""
    priced = (ours.tokens or 0) - ours.unpriced
    price = (ours.usd or Fraction(0)) / priced if priced else Fraction(0)
    if more:
        yield _difference(key, Reason.TOKENS, more, more * price)
    if not has_usd:
        return
    if ours.unpriced:
        yield _difference(key, Reason.UNPRICED, 0, ours.unpriced * price)
    paid = ours.usd or Fraction(0)  # not the priced tokens' price: what was paid without a token has none
    dearer = (theirs.usd or Fraction(0)) - paid - (more + ours.unpriced) * price
    if dearer:
        reason = Reason.ROUNDING if abs(dearer) <= theirs.rounding else Reason.PRICE
        yield _difference(key, reason, 0, dearer)


def _difference(key: Key, reason: Reason, tokens: int | None, usd: Fraction | None) -> Difference:
    day, model, tier, part = key
    return Difference(day=day, model=model, tier=tier, part=part, reason=reason, tokens=tokens, usd=usd)


def _moved(found: list[Difference]) -> list[Difference]:
    """Name those that cancel each other: the same tokens, billed at another tier, type or day."""
    for reason, near in ((Reason.TIER, _is_tier), (Reason.TOKEN_TYPE, _is_type), (Reason.DAY, _is_day)):
        free = [index for index, one in enumerate(found) if one.reason in _MOVABLE and one.tokens]
        taken: set[int] = set()
        for first, second in combinations(free, 2):
            pair = found[first], found[second]
            if not taken & {first, second} and near(*pair) and _cancel(*pair):
                taken |= {first, second}
        found = [replace(one, reason=reason) if index in taken else one for index, one in enumerate(found)]
    return found


_MOVABLE: Final = frozenset({Reason.MISSING_IN_LOG, Reason.MISSING_AT_PROVIDER, Reason.TOKENS})


def _cancel(one: Difference, other: Difference) -> bool:
    first, second = one.tokens or 0, other.tokens or 0
    return first * second < 0 and abs(first + second) <= _CANCELS * max(abs(first), abs(second))


def _is_tier(one: Difference, other: Difference) -> bool:
    return (one.day, one.model, one.part) == (other.day, other.model, other.part) and one.tier != other.tier


def _is_type(one: Difference, other: Difference) -> bool:
    alike = (one.day, one.model, one.tier) == (other.day, other.model, other.tier)
    return alike and (one.part in INPUT_PARTS) == (other.part in INPUT_PARTS) and one.part != other.part


def _is_day(one: Difference, other: Difference) -> bool:
    alike = (one.model, one.tier, one.part) == (other.model, other.tier, other.part)
    return alike and abs(one.day - other.day) == timedelta(days=1)


def _tokens(theirs: Mapping[Key, Side]) -> int | None:
    """Return all their tokens; None where one line does not say its number."""
    lines = [side.tokens for key, side in theirs.items() if key[3] not in {"request", "other"}]
    known = [tokens for tokens in lines if tokens is not None]
    return sum(known) if known and len(known) == len(lines) else None


def _prove(result: Reconciliation) -> None:
    usd = result.ours_usd + _total(one.usd for one in result.differences)
    tokens = result.ours_tokens + sum(one.tokens or 0 for one in result.differences)
    if (result.theirs_usd is not None and usd != result.theirs_usd) or (
        result.theirs_tokens is not None and tokens != result.theirs_tokens
    ):
        raise ConflictError(
            f"{result.provider}: ours and the differences come to {exact_usd(usd)} USD and {tokens} tokens, but the "
            f"bill is {exact_usd(result.theirs_usd or usd)} USD and {result.theirs_tokens}; please report this"
        )


def _total(values: Iterable[Fraction | None]) -> Fraction:
    return sum((value for value in values if value is not None), Fraction(0))


def _key(one: Difference) -> Key:
    return one.day, one.model, one.tier, one.part


def _order(key: Key) -> tuple[date, str, str, str]:
    day, model, tier, part = key
    return day, model or "", tier or "", part
