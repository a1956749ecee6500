"""Where judges keep their scores and what they used, and what their models cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from tasks.costs.prices import find_rates, read_price_book
from tasks.costs.rates import Rate
from tasks.judging.plan import JudgePlan
from tasks.judging.purse import Purse
from tasks.scoring.cache import ScoreCache
from tasks.settings import Settings


@contextmanager
def open_judge_stores(config: Settings) -> Iterator[tuple[ScoreCache, Purse]]:
    """Open the scores that were paid for, and what was used, of a state folder."""
    folder = config.state_dir.absolute()
    with ScoreCache(folder / "scores.sqlite") as cache, Purse(folder / "judges.sqlite") as purse:
        yield cache, purse


def judge_rates(config: Settings, plan: JudgePlan, now: datetime) -> tuple[Rate, ...]:
    """Return what a judge's model costs on the day it is asked; none is unpriced.

    Raises:
        InputError: The price book cannot be read.
    """
    endpoint = plan.judge.endpoint
    return find_rates(read_price_book(config.price_book), endpoint.provider, endpoint.model, now.date())
