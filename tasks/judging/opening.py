"""Where judges keep their scores and what they used, what their models cost, and a judge ready to be asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from tasks.costs.prices import find_rates, read_price_book
from tasks.costs.rates import Rate
from tasks.judging.budget import Budget
from tasks.judging.client import Client
from tasks.judging.judge import Judge
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


@contextmanager
def open_judge(config: Settings, plan: JudgePlan, key: str, now: datetime, occasion: str = "") -> Iterator[Judge]:
    """Open a judge with its server, its prices of the day it is asked, and what is left of a budget.

    Args:
        config: Where things are.
        plan: Who judges, and for how much.
        key: What the budget is kept under, beside the judge's name; see ``window_key``.
        now: UTC.
        occasion: Scores are looked up among those of this occasion only; empty: those of any.

    Raises:
        InputError: The price book cannot be read, the budget cannot be kept, or the key of the server is not set.
    """
    rates = judge_rates(config, plan, now)
    with open_judge_stores(config) as (cache, purse), Client(plan.judge.endpoint, os.environ) as client:
        budget = Budget(plan.budget, rates, purse, f"{plan.judge.name} {key}")
        yield Judge(spec=plan.judge, client=client, budget=budget, limits=plan.limits, cache=cache, occasion=occasion)


def window_key(application: str, window: str) -> str:
    """Return what the budget of one window of one application is kept under."""
    return f"{application} {window}"
