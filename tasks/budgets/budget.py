"""Budgets: what a team, an application, a model, a release or a tag may cost in a day or a month (YAML)."""

from __future__ import annotations

from collections import Counter
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.costs.line import UTC
from tasks.costs.rates import PUSD_PER_USD
from tasks.costs.zones import find_zone
from tasks.documents import read_document
from tasks.errors import InputError
from tasks.release.model import Name, Release

Text = Annotated[str, Field(min_length=1, max_length=200)]
Amount = Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=6, allow_inf_nan=False)]
Ceiling = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=9, allow_inf_nan=False)]
AlertShare = Annotated[Decimal, Field(gt=0, le=10, max_digits=5, decimal_places=3, allow_inf_nan=False)]
ALERT_AT: Final = (Decimal("0.5"), Decimal("0.8"), Decimal(1))
_MICRO: Final = Decimal("0.000001")
_MOST: Final = Decimal(10**12 - 1)
_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


class Scope(BaseModel):
    """Whose calls a budget is for: those that have all of it; nothing given is every call.

    Attributes:
        application, team, model: As the interaction log names them.
        release: Digest of the release that answered.
        tag: One of the call's tags, ``name=value``.
    """

    model_config = _STRICT

    application: Text | None = None
    team: Text | None = None
    model: Text | None = None
    release: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    tag: Text | None = None

    def describe(self) -> str:
        """Return whose calls it is for, for people."""
        given = [f"{name} {value}" for name, value in self if value is not None]
        return ", ".join(given) or "every call"


class Budget(BaseModel):
    """What some calls may cost.

    Attributes:
        name: What people call it; alerts are told apart by it.
        scope: Whose calls.
        budget_per_day_usd: USD for one day.
        budget_per_month_usd: USD for one calendar month.
        alert_at: Shares of a budget that alert when they are reached.
        unpriced_ceiling_usd_per_call: What a call without a price is taken to cost at most.
        unpriced_ceiling_usd_per_1k_tokens: The same for 1,000 tokens, where the call's tokens are known.
        fail_closed: Whether a cost that nobody knows and no ceiling covers fails the budget or is inconclusive.
    """

    model_config = _STRICT

    name: Name
    scope: Scope = Scope()
    budget_per_day_usd: Amount | None = None
    budget_per_month_usd: Amount | None = None
    alert_at: tuple[AlertShare, ...] = ALERT_AT
    unpriced_ceiling_usd_per_call: Ceiling | None = None
    unpriced_ceiling_usd_per_1k_tokens: Ceiling | None = None
    fail_closed: bool = True

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if self.budget_per_day_usd is None and self.budget_per_month_usd is None:
            raise ValueError("give budget_per_day_usd, budget_per_month_usd or both")
        if list(self.alert_at) != sorted(set(self.alert_at)):
            raise ValueError(
                f"alert_at must rise, each share once: {', '.join(f'{share:f}' for share in self.alert_at)}"
            )
        return self


class BudgetBook(BaseModel):
    """The project's budgets.

    Attributes:
        timezone: Whose days and months, a name of the tz database.
        budgets: Each name once.
    """

    model_config = _STRICT

    timezone: str = UTC
    budgets: tuple[Budget, ...] = ()

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            find_zone(name)
        except InputError as error:
            raise ValueError(str(error)) from error
        return name

    @model_validator(mode="after")
    def _names(self) -> Self:
        twice = sorted(name for name, count in Counter(budget.name for budget in self.budgets).items() if count > 1)
        if twice:
            raise ValueError(f"two budgets are called {', '.join(twice)}; give each a name of its own")
        return self


def read_budgets(path: Path) -> BudgetBook:
    """Read a budgets file (YAML); amounts never pass through a binary float.

    Raises:
        InputError: It cannot be read, or a field is not allowed; with the place.
    """
    return read_document(path, BudgetBook, texts=True)


def release_budget(release: Release) -> Budget:
    """Return the budget that a release's own file sets: inconclusive, not failed, where a cost is not known.

    A release must not be taken back because a price list has a gap.
    """
    given = Decimal(str(release.spec.monitors.cost_usd_per_day))
    return Budget(
        name=f"release-{release.digest[:12]}",
        scope=Scope(application=release.spec.application, release=release.digest),
        budget_per_day_usd=min(given.quantize(_MICRO, ROUND_UP), _MOST),
        fail_closed=False,
    )


def to_pusd(usd: Decimal) -> int:
    """Return USD as pico-USD, exact for up to twelve decimals."""
    return int(usd * PUSD_PER_USD)
