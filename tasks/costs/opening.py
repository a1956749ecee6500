"""Where the calls, the prices, the releases and the budgets of this project are."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from tasks.budgets.budget import BudgetBook, read_budgets
from tasks.costs.billing import Billing
from tasks.costs.line import UTC
from tasks.costs.prices import read_price_book
from tasks.costs.releases import registered_releases
from tasks.costs.zones import find_zone
from tasks.settings import Settings
from tasks.stores.lake import Lake

BUDGETS_FILE: Final = "budgets.yaml"
"""In the state folder."""


def open_billing(where: Settings, zone: str = UTC, settle_hours: int = 24) -> Billing:
    """Return where the calls, the prices and the releases of this project are.

    Args:
        where: The settings.
        zone: Whose days are billed.
        settle_hours: How long after its end a day stays provisional.

    Raises:
        InputError: There is no such time zone, or the price book cannot be read.
    """
    find_zone(zone)
    return Billing(
        lake=Lake(where.lake_dir),
        book=read_price_book(where.price_book),
        find_release=registered_releases(where.mlflow_url),
        zone=zone,
        settle=timedelta(hours=settle_hours),
    )


def open_book(where: Settings) -> BudgetBook:
    """Return the project's budgets; without a file there are none but the releases' own."""
    path = where.state_dir / BUDGETS_FILE
    return read_budgets(path) if path.exists() else BudgetBook()
