"""Where a budget stands at a moment: what is spent, where the period will end, what to check and what to alert."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final

from tasks.budgets.budget import Budget, to_pusd
from tasks.budgets.forecast import Basis, Forecast, PastDay, choose_days, forecast_day, forecast_month
from tasks.budgets.spend import Charge
from tasks.costs.rates import PUSD_PER_USD
from tasks.costs.rollup import Rollup, format_usd
from tasks.monitors.verdict import Check, Outcome

PATIENCE: Final = Fraction(1, 4)
"""How much of a day must be over before the clock alone, without earlier days, may alert."""
_US: Final = timedelta(microseconds=1)
_US_PER_HOUR: Final = timedelta(hours=1) // _US


class AlertKind(StrEnum):
    """Why somebody is told."""

    SPENT = "spent"
    FORECAST = "forecast"
    UNKNOWN = "unknown cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a budget is looked at.

    Attributes:
        day: The day in the budgets' time zone.
        start, end: Of the day, UTC, half-open; 23 to 25 hours apart.
        now: At or after the start.
    """

    day: date
    start: datetime
    end: datetime
    now: datetime

    @property
    def elapsed(self) -> Fraction:
        """The share of the day that is over, 0 to 1."""
        return min(Fraction((self.now - self.start) // _US, (self.end - self.start) // _US), Fraction(1))

    @property
    def hours(self) -> Fraction:
        """How many hours of the day are over."""
        return Fraction((min(self.now, self.end) - self.start) // _US, _US_PER_HOUR)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetState:
    """One budget of one day or month at a moment.

    Attributes:
        period: The day, ``2025-03-30``, or the month, ``2025-03``.
        limit_pusd: What it allows.
        charge: What counts against it so far.
        hour_pusd: What the last hour cost.
        mean_hour_pusd: What an hour of the day has cost so far; None at its first moment.
        forecast: What the period will have cost.
        may_alert: Whether the forecast rests on enough to alert.
        is_awaited: Whether no call is in the log yet of a day that usually has spent something by now.
    """

    budget: Budget
    period: str
    limit_pusd: int
    charge: Charge
    hour_pusd: int
    mean_hour_pusd: int | None
    forecast: Forecast
    may_alert: bool
    is_awaited: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether it is of a day that is over: what counts more has come late."""
        return self.forecast.basis is Basis.DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing somebody is told once.

    Attributes:
        alert_id: 64 hex digits, the same for the same budget, period, kind and share, whenever it is found.
        share: The share of the budget that was reached; None of the other kinds.
    """

    alert_id: str
    budget: str
    period: str
    kind: AlertKind
    share: Decimal | None
    statement: str


def day_state(
    budget: Budget, moment: Moment, charged: Charge, hour_pusd: int, past: Sequence[PastDay]
) -> BudgetState | None:
    """Return where a budget of a day stands; None where it has no limit for a day.

    Args:
        budget: The budget.
        moment: The day, and how far it is.
        charged: What counts so far.
        hour_pusd: What the last hour cost.
        past: What earlier days had cost by this time, and in all.
    """
    if budget.budget_per_day_usd is None:
        return None
    forecast = forecast_day(charged.total_pusd, moment.elapsed, past, moment.day)
    return BudgetState(
        budget=budget,
        period=moment.day.isoformat(),
        limit_pusd=to_pusd(budget.budget_per_day_usd),
        charge=charged,
        hour_pusd=hour_pusd,
        mean_hour_pusd=int(charged.total_pusd / moment.hours) if moment.hours else None,
        forecast=forecast,
        may_alert=forecast.basis is Basis.SHAPE or moment.elapsed >= PATIENCE,
        is_awaited=charged.calls == 0 and _usually_spent(past, moment.day),
    )


def month_state(
    budget: Budget, moment: Moment, charged: Charge, hour_pusd: int, past: Sequence[PastDay], *, before: Charge
) -> BudgetState | None:
    """Return where a budget of a calendar month stands; None where it has no limit for a month.

    Args:
        budget: The budget.
        moment: The day, and how far it is.
        charged: What counts of this day so far.
        hour_pusd: What the last hour cost.
        past: What earlier days had cost by this time, and in all.
        before: What the month's days before this one count.
    """
    if budget.budget_per_month_usd is None:
        return None
    today = forecast_day(charged.total_pusd, moment.elapsed, past, moment.day)
    following = (moment.day.replace(day=1) + timedelta(days=31)).replace(day=1)
    days_left = (following - moment.day).days - 1
    forecast = forecast_month(before.total_pusd, today, past, moment.day, days_left)
    return BudgetState(
        budget=budget,
        period=f"{moment.day:%Y-%m}",
        limit_pusd=to_pusd(budget.budget_per_month_usd),
        charge=before + charged,
        hour_pusd=hour_pusd,
        mean_hour_pusd=int(charged.total_pusd / moment.hours) if moment.hours else None,
        forecast=forecast,
        may_alert=forecast.basis is Basis.SHAPE,
    )


def bill_state(budget: Budget, day: date, lines: Sequence[Rollup]) -> BudgetState | None:
    """Return where a budget stood at the end of a day, by the day's bill; None where it has no limit for a day.

    Args:
        budget: The budget.
        day: The day, in whatever time zone the bill is.
        lines: Those of the bill that are the budget's.
    """
    charged = Charge(
        known_pusd=sum(line.cost_pusd or 0 for line in lines),
        calls=sum(line.requests for line in lines),
        unknown=sum(line.requests - line.priced_requests for line in lines),
    )
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + timedelta(days=1)
    return day_state(budget, Moment(day=day, start=start, end=end, now=end), charged, 0, ())


def check_state(state: BudgetState) -> Check:
    """Hold what is spent so far against a budget.

    Returns:
        A check that fails above the budget. At or below it, it passes only if every call has a price or a ceiling; if
        not, it fails or is inconclusive, as the budget says. Without a call it passes, where there usually is none by
        now either; else it is inconclusive: no log has come in.
    """
    charged, over = state.charge, state.charge.total_pusd > state.limit_pusd
    unsure = Outcome.FAIL if state.budget.fail_closed else Outcome.INCONCLUSIVE
    known = Outcome.INCONCLUSIVE if state.is_awaited else Outcome.PASS
    outcome = Outcome.FAIL if over else unsure if charged.unknown else known
    sign = ">" if over else "not known to be <=" if charged.unknown or state.is_awaited else "<="
    awaited = ", no call is in the log yet" if state.is_awaited else ""
    usd = f"{format_usd(charged.total_pusd)} USD"
    limit = f"{format_usd(state.limit_pusd)} USD"
    return Check(
        monitor="budget",
        outcome=outcome,
        statement=f"{state.budget.name} {state.period}: cost {usd} {sign} budget {limit} ({_counts(charged)}{awaited})",
        value=charged.total_pusd / PUSD_PER_USD,
        limit=state.limit_pusd / PUSD_PER_USD,
        n=charged.calls,
    )


def find_alerts(state: BudgetState) -> tuple[Alert, ...]:
    """Return what there is to tell about a budget now, told before or not; of the shares the highest one reached."""
    return tuple(_alerts(state))


def _alerts(state: BudgetState) -> Iterator[Alert]:
    total, limit, name = state.charge.total_pusd, state.limit_pusd, f"{state.budget.name} {state.period}"
    forecast, allowed = state.forecast, f"budget {format_usd(state.limit_pusd)} USD"
    if state.charge.unknown:
        text = f"{name}: {state.charge.unknown} of {state.charge.calls} calls have no price and no ceiling"
        yield _alert(state, AlertKind.UNKNOWN, None, text)
    if state.may_alert and total <= limit < forecast.median_pusd:
        usd = format_usd(forecast.median_pusd)
        text = f"{name}: forecast {usd} USD > {allowed} ({_interval(forecast)}, spent {format_usd(total)} USD)"
        yield _alert(state, AlertKind.FORECAST, None, text)
    share = max((share for share in state.budget.alert_at if total >= limit * Fraction(share)), default=None)
    if share is not None:
        percent = f"{(share * 100).normalize():f} %"
        text = f"{name}: cost {format_usd(total)} USD >= {percent} of {allowed} ({_counts(state.charge)})"
        yield _alert(state, AlertKind.SPENT, share, text)


def _alert(state: BudgetState, kind: AlertKind, share: Decimal | None, statement: str) -> Alert:
    shown = "" if share is None else f"{share.normalize():f}"
    key = "\n".join((state.budget.name, state.period, str(kind), shown))
    return Alert(
        alert_id=hashlib.sha256(key.encode()).hexdigest(),
        budget=state.budget.name,
        period=state.period,
        kind=kind,
        share=share,
        statement=statement,
    )


def _counts(charged: Charge) -> str:
    parts = [f"n={charged.calls}"]
    if charged.at_ceiling:
        parts.append(f"{charged.at_ceiling} at the ceiling: {format_usd(charged.ceiling_pusd)} USD")
    if charged.estimated_pusd:
        parts.append(f"estimated {format_usd(charged.estimated_pusd)} USD")
    if charged.unknown:
        parts.append(f"unknown {charged.unknown}")
    return ", ".join(parts)


def _usually_spent(past: Sequence[PastDay], day: date) -> bool:
    """Return whether most of the earlier days that are like a day had spent something by this time of it."""
    spent = [one.spent_pusd > 0 for one in choose_days(past, day)]
    return 2 * sum(spent) > len(spent)


def _interval(forecast: Forecast) -> str:
    high = "unknown" if forecast.high_pusd is None else f"{format_usd(forecast.high_pusd)} USD"
    return f"{format_usd(forecast.low_pusd)} USD to {high}, by {forecast.basis}"
