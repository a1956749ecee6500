from __future__ import annotations

from datetime import date, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.costs.anomaly import Effect, check_day_cost, choose_baseline, explain_change
from tasks.costs.line import LineKey, Rollup
from tasks.costs.rates import PARTS
from tasks.monitors.verdict import Outcome

DAY = date(2025, 6, 5)
USD = 10**12


def line(calls: int, tokens: dict[str, int], prices: dict[str, int], **key: Any) -> Rollup:
    """A line of calls whose parts cost so many pico-USD each."""
    counts = tuple(tokens.get(part, calls if part == "request" else 0) for part in PARTS)
    costs = tuple(count * prices.get(part, 0) for count, part in zip(counts, PARTS, strict=True))
    return Rollup(
        key=LineKey(day=DAY, **({"application": "a", "provider": "p", "model": "m", "price_sha256": "s"} | key)),
        requests=calls,
        priced_requests=calls,
        counts=counts,
        parts_pusd=costs,
        cost_pusd=sum(costs),
    )


PRICES = {"input": 2, "cache_read": 1, "output": 10}
BASE = line(10, {"input": 1000, "output": 100}, PRICES)  # 2,000 + 1,000


def changes(before: list[Rollup], after: list[Rollup]) -> dict[str, int]:
    found = explain_change(before, after)
    assert sum(found.effects.values()) == found.change_pusd == sum(change for _, change in found.segments)
    return {str(effect): amount for effect, amount in found.effects.items() if amount}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (line(10, {"input": 1000, "output": 100}, PRICES), {}),
        (line(20, {"input": 2000, "output": 200}, PRICES), {"volume": 3000}),
        (line(10, {"input": 1000, "output": 100}, PRICES | {"output": 12}), {"price": 200}),
        (line(10, {"input": 1500, "output": 100}, PRICES), {"input tokens per call": 1000}),
        (line(10, {"input": 1000, "output": 50}, PRICES), {"output tokens per call": -500}),
        (line(10, {"input": 600, "cache_read": 400, "output": 100}, PRICES), {"cache": -400}),
        (line(10, {"input": 1000, "output": 60, "reasoning": 40}, PRICES | {"reasoning": 30}), {"reasoning": 800}),
        (
            line(20, {"input": 2000, "cache_read": 1000, "output": 200}, PRICES | {"input": 3}),
            {"volume": 3000, "input tokens per call": 2000, "cache": -1000, "price": 2000},
        ),
        (line(10, {"input": 1000, "output": 100}, PRICES | {"request": 5}), {"price": 50}),
    ],
)
def test_one_thing_that_changed_is_one_effect(after: Rollup, expected: dict[str, int]) -> None:
    assert changes([BASE], [after]) == expected


def test_shares_of_models_and_of_applications_are_two_effects() -> None:
    dear = line(10, {"input": 1000}, {"input": 10}, model="dear")  # 1,000 a call against 200
    cheap = line(10, {"input": 1000}, {"input": 2})
    moved = [line(15, {"input": 1500}, {"input": 10}, model="dear"), line(5, {"input": 500}, {"input": 2})]
    assert changes([dear, cheap], moved) == {"model mix": 5 * 1000 - 5 * 200}
    other = line(10, {"input": 1000}, {"input": 2}, application="b")
    grown = [
        line(5, {"input": 500}, {"input": 10}, model="dear"),
        line(15, {"input": 1500}, {"input": 2}, application="b"),
    ]
    assert changes([dear, other], grown) == {"application mix": -5 * 1000 + 5 * 200}


def test_what_is_new_or_gone_is_a_matter_of_shares() -> None:
    new_model = line(10, {"input": 10}, {"input": 5}, model="new")
    assert changes([BASE], [BASE, new_model]) == {"volume": 3000, "model mix": -2950}
    new_application = line(10, {"input": 10}, {"input": 5}, application="new")
    assert changes([BASE], [BASE, new_application]) == {"volume": 3000, "application mix": -2950}
    assert changes([], [BASE]) == {"volume": 3000}
    assert changes([BASE], []) == {"volume": -3000}


def test_contributors_are_named_and_the_unknown_is_counted_apart() -> None:
    unknown = Rollup(key=LineKey(day=DAY, application="a", model="?"), requests=7)
    after = [line(30, {"input": 3000, "output": 300}, PRICES, team="t"), unknown]
    found = explain_change([BASE], after)
    assert (found.before_unknown, found.after_unknown) == (0, 7)
    assert found.by("team") == (("t", 9000), ("unknown", -3000))
    assert found.by("model") == (("m", 6000),)
    assert found.describe() == (
        "0.000000003 to 0.000000009 USD (+0.000000006 USD): volume +0.000000006 USD; by model: m +0.000000006 USD; "
        "calls without a cost: 0 to 7"
    )


def test_refused_calls_are_no_calls_of_a_bill() -> None:
    refused = Rollup(
        key=LineKey(day=DAY, application="a", provider="p", model="m"),
        requests=90,
        priced_requests=90,
        free_requests=90,
        counts=(0,) * len(PARTS),
        parts_pusd=(0,) * len(PARTS),
        cost_pusd=0,
    )
    assert changes([BASE], [BASE, refused]) == {}


counts = st.integers(0, 10**6)
lines = st.builds(
    lambda calls, tokens, prices, names: line(
        calls,
        dict(zip(PARTS, tokens, strict=True)),
        dict(zip(PARTS, prices, strict=True)),
        application=names[0],
        model=names[1],
        team=names[2],
    ),
    st.integers(0, 1000),
    st.lists(counts, min_size=11, max_size=11),
    st.lists(st.integers(0, 10**7), min_size=11, max_size=11),
    st.tuples(*[st.sampled_from("xyz")] * 3),
)


@given(before=st.lists(lines, max_size=8), after=st.lists(lines, max_size=8))
def test_effects_and_segments_add_up_to_the_change(before: list[Rollup], after: list[Rollup]) -> None:
    found = explain_change(before, after)
    assert found.after_pusd - found.before_pusd == sum(one.cost_pusd or 0 for one in after) - sum(
        one.cost_pusd or 0 for one in before
    )
    assert sum(found.effects.values()) == found.change_pusd
    assert sum(change for _, change in found.segments) == found.change_pusd
    assert set(found.effects) == set(Effect)


@given(before=st.lists(lines, max_size=8))
def test_a_day_like_another_has_no_effects(before: list[Rollup]) -> None:
    assert changes(before, before) == {}


def costs(*usd: int) -> dict[date, int]:
    return {DAY - timedelta(days=index): amount * USD for index, amount in enumerate(usd)}


@pytest.mark.parametrize(
    ("usd", "outcome", "statement"),
    [
        (
            (40, 10, 11, 12, 10, 10, 11, 10),
            Outcome.FAIL,
            "cost of 2025-06-05: 40.00 USD is 29.00 USD > 5.189028910304 USD off the median 11.00 USD (n=5 days)",
        ),
        (
            (12, 10, 10, 10, 10, 10, 10, 10),
            Outcome.PASS,
            "cost of 2025-06-05: 12.00 USD is 2.00 USD <= 2.00 USD off the median 10.00 USD (n=5 days)",
        ),
        (
            (30, 10, 20, 30, 10, 20, 30, 10),
            Outcome.PASS,
            "cost of 2025-06-05: 30.00 USD is 10.00 USD <= 51.890289103039 USD off the median 20.00 USD (n=5 days)",
        ),
        (
            (0, 10, 11, 12, 10, 10, 11, 10),
            Outcome.FAIL,
            "cost of 2025-06-05: 0.00 USD is 11.00 USD > 5.189028910304 USD off the median 11.00 USD (n=5 days)",
        ),
        ((9, 1, 1, 1, 1), Outcome.INCONCLUSIVE, "cost of 2025-06-05: 4 earlier days < 5 needed to call a day unusual"),
    ],
)
def test_a_day_is_unusual_only_far_off_and_of_practical_size(
    usd: tuple[int, ...], outcome: Outcome, statement: str
) -> None:
    check = check_day_cost(costs(*usd), DAY)
    assert (check.outcome, check.statement) == (outcome, statement)


@pytest.mark.parametrize(
    ("usd", "today", "usual", "outcome"),
    [
        (10, "0.5", "0", Outcome.INCONCLUSIVE),  # the bill is as ever, and half of the calls are not in it
        (10, "0.01", "0", Outcome.PASS),
        (10, "0.5", "0.5", Outcome.PASS),
        (40, "0.5", "0", Outcome.FAIL),  # with the rest it would be dearer still
        (2, "0.5", "0", Outcome.INCONCLUSIVE),
        (20, "0", "0.5", Outcome.INCONCLUSIVE),  # a price book that was completed is no change
        (2, "0", "0.5", Outcome.FAIL),
    ],
)
def test_a_day_with_other_unknown_calls_than_usual_is_not_compared(
    usd: int, today: str, usual: str, outcome: Outcome
) -> None:
    known = costs(usd, *[10] * 8)
    unknown = {one: Fraction(today if one == DAY else usual) for one in known}
    check = check_day_cost(known, DAY, unknown=unknown)
    assert check.outcome is outcome
    said = f", but {float(today):.1%} of the calls have no cost, usually {float(usual):.1%}"
    assert check.statement.endswith(said if outcome is Outcome.INCONCLUSIVE else "days)")


def test_a_day_without_a_bill_says_so() -> None:
    check = check_day_cost(costs(*[10] * 9), DAY + timedelta(days=1))
    assert (check.outcome, check.statement) == (
        Outcome.INCONCLUSIVE,
        "cost of 2025-06-06: it has no bill, or not one of every application",
    )


def test_the_baseline_is_the_median_day_of_the_same_type() -> None:
    week = costs(40, 5, 1, 3, 99, 98, 2, 4)  # Thursday back to Thursday; the 99 and 98 are a weekend's
    assert choose_baseline(week, DAY) == DAY - timedelta(days=3)
    assert choose_baseline(costs(1), DAY) is None
