"""A release's budget of a UTC day, held against what the day cost."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from tasks.costs.rates import PUSD_PER_USD
from tasks.costs.rollup import Rollup, format_usd
from tasks.monitors.verdict import Check, Outcome


def check_budget(rollups: Sequence[Rollup], limit_usd: float) -> Check:
    """Hold one release's cost of one UTC day against its budget.

    Args:
        rollups: The lines of the release and day.
        limit_usd: The budget, USD.

    Returns:
        A check that fails above the budget. Below it the check passes only if every call is priced: a cost that is
        not known cannot pass. Without a call it is inconclusive.
    """
    requests = sum(rollup.requests for rollup in rollups)
    priced = sum(rollup.priced_requests for rollup in rollups)
    known = [rollup.cost_pusd for rollup in rollups if rollup.cost_pusd is not None]
    cost = sum(known)
    over = cost > int(Decimal(str(limit_usd)) * PUSD_PER_USD)
    covered = requests > 0 and priced == requests
    outcome = Outcome.FAIL if over else Outcome.PASS if covered else Outcome.INCONCLUSIVE
    amount = f"{format_usd(cost)} USD" if known else "unknown"
    sign = ">" if over else "<=" if covered else "not known to be <="
    return Check(
        monitor="cost",
        outcome=outcome,
        statement=f"cost {amount} {sign} budget {Decimal(str(limit_usd)):f} USD a day (n={requests}, priced {priced})",
        value=cost / PUSD_PER_USD if known else None,
        limit=limit_usd,
        n=requests,
    )
