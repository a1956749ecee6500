from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.costs.line import LineKey, Rollup
from tasks.costs.rates import PARTS
from tasks.errors import InputError
from tasks.finance.provider_reports import Entry, ProviderReport, read_provider_report
from tasks.finance.reconciliation import Difference, Reason, Reconciliation, exact_usd, reconcile

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "formats" / "openai_usage_completions_buckets.json"
DAY = date(2025, 6, 2)
NEXT = DAY + timedelta(days=1)
PUSD = 10**12


def line(tokens: dict[str, int], usd: dict[str, int] | None, **key: Any) -> Rollup:
    """A line whose parts have so many tokens and cost so many pico-USD."""
    counts = tuple(tokens.get(part, 1 if part == "request" else 0) for part in PARTS)
    costs = None if usd is None else tuple(usd.get(part, 0) for part in PARTS)
    given: dict[str, Any] = {"day": DAY, "application": "a", "provider": "openai", "model": "m"}
    return Rollup(
        key=LineKey(**(given | key)),
        requests=1,
        counts=counts,
        parts_pusd=(None,) * len(PARTS) if costs is None else costs,
        cost_pusd=None if costs is None else sum(costs),
    )


def entry(tokens: int | None, usd: str | None = None, **values: Any) -> Entry:
    amount = None if usd is None else Fraction(usd)
    given: dict[str, Any] = {"day": DAY, "model": "m", "tier": "standard", "part": "input"}
    return Entry(**(given | values), tokens=tokens, usd=amount, rounding_usd=Fraction(1, 10**6))


def report(*entries: Entry, days: tuple[date, ...] = (DAY, NEXT), provider: str = "openai") -> ProviderReport:
    return ProviderReport(provider=provider, days=frozenset(days), partial_days=frozenset(), entries=entries)


def found(result: Reconciliation) -> list[tuple[str, int | None, str | None]]:
    return [
        (str(one.reason), one.tokens, None if one.usd is None else exact_usd(one.usd)) for one in result.differences
    ]


OURS = line({"input": 1_000_000}, {"input": 2 * PUSD})


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([OURS], [entry(1_000_000, "2")], []),
        ([OURS], [entry(1_000_000, "2.0000004")], [("rounding", 0, "0.0000004")]),
        ([OURS], [entry(1_500_000, "3")], [("tokens differ", 500_000, "1.00")]),
        ([OURS], [entry(1_000_000, "2.5")], [("price differs", 0, "0.50")]),
        ([OURS], [entry(1_500_000, "6")], [("tokens differ", 500_000, "1.00"), ("price differs", 0, "3.00")]),
        ([OURS], [entry(None, "2.5")], [("amount differs", None, "0.50")]),
        ([OURS], [], [("missing at provider", -1_000_000, "-2.00")]),
        ([], [entry(10, "3")], [("missing in log", 10, "3.00")]),
        ([line({"input": 10}, None)], [entry(10, "3")], [("unpriced here", 0, "3.00")]),
        (
            [OURS, line({"input": 500_000}, None, team="t")],
            [entry(1_500_000, "3")],
            [("unpriced here", 0, "1.00")],
        ),
        (
            [OURS],
            [entry(1_000_000, "1", tier="batch")],
            [("another tier", 1_000_000, "1.00"), ("another tier", -1_000_000, "-2.00")],
        ),
        (
            [OURS],
            [entry(600_000, "1.2"), entry(400_000, "0.4", part="cache_read")],
            [("another token type", 400_000, "0.40"), ("another token type", -400_000, "-0.80")],
        ),
        (
            [OURS, line({"input": 1_000_000}, {"input": 2 * PUSD}, day=NEXT)],
            [entry(1_100_000, "2.2"), entry(900_000, "1.8", day=NEXT)],
            [("day boundary", 100_000, "0.20"), ("day boundary", -100_000, "-0.20")],
        ),
        ([line({"output": 6, "reasoning": 4}, {"output": 6, "reasoning": 4})], [entry(10, "1e-11", part="output")], []),
        ([line({}, {"request": PUSD})], [entry(None, "1", part="request")], []),
    ],
)
def test_a_difference_has_its_reason_and_its_exact_amount(
    ours: list[Rollup], theirs: list[Entry], expected: list[tuple[str, int | None, str | None]]
) -> None:
    keep = entry(7, "7", part="audio_output", model="other")  # a report of amounts always has one
    mine = line({"audio_output": 7}, {"audio_output": 7 * PUSD}, model="other")
    assert found(reconcile([*ours, mine], [report(*theirs, keep)])) == expected


def test_a_report_that_is_not_grouped_is_held_against_sums() -> None:
    ours = [OURS, line({"output": 5}, {"output": 5}, model="n", service_tier="batch")]
    whole = reconcile(ours, [report(entry(None, "2.000000000005", model=None, tier=None, part="total"))])
    assert (whole.matched, whole.differences) == (1, ())


def test_usage_alone_is_compared_in_tokens_at_our_prices() -> None:
    result = reconcile([OURS], [report(entry(1_250_000), entry(9, model="new"))])
    assert found(result) == [("tokens differ", 250_000, "0.50"), ("missing in log", 9, None)]
    assert (result.theirs_usd, result.ours_tokens, result.theirs_tokens) == (None, 1_000_000, 1_250_009)


def test_costs_and_usage_together_tell_price_from_tokens() -> None:
    costs = report(entry(1_500_000, "6", tier=None))
    result = reconcile([OURS], [costs, report(entry(1_000_000), entry(500_000, tier="batch"))])
    assert found(result) == [("tokens differ", 500_000, "1.00"), ("price differs", 0, "3.00")]


def test_names_of_models_may_differ_and_other_providers_are_left_alone() -> None:
    strange = line({"input": 1}, {"input": 1}, provider="anthropic")
    result = reconcile([OURS, strange], [report(entry(1_000_000, "2", model="m-2025"))], {"m-2025": "m"})
    assert (result.matched, result.differences, result.ours_usd) == (1, (), Fraction(2))


def test_calls_without_tokens_are_counted_and_only_whole_days_compared() -> None:
    unknown = Rollup(key=LineKey(day=DAY, application="a", provider="openai", model="m"), requests=3)
    result = reconcile([OURS, unknown], [report(entry(1_000_000, "2")), report(entry(1_000_000), days=(DAY,))])
    assert (result.days, result.skipped_days, result.unknown_calls) == ((DAY,), (NEXT,), 3)
    with pytest.raises(InputError, match="reports of anthropic, openai: give reports of one provider"):
        reconcile([], [report(), report(provider="anthropic")])
    with pytest.raises(InputError, match="reports of nobody"):
        reconcile([], [])


def test_every_reason_says_what_to_do() -> None:
    for reason in Reason:
        one = Difference(day=DAY, model=None, tier=None, part="input", reason=reason, tokens=1, usd=Fraction(1))
        assert one.advice
        assert one.is_harmless is (reason is Reason.ROUNDING)


names = st.sampled_from("mn")
parts = st.sampled_from(["input", "cache_read", "output"])
days = st.sampled_from([DAY, NEXT])
tiers = st.sampled_from(["standard", "batch"])


@example(
    ours=[(DAY, "m", "standard", "input", 0, 1)], theirs=[(DAY, "m", "standard", "input", 1, Fraction(0))]
)  # paid for without a token
@given(
    ours=st.lists(st.tuples(days, names, tiers, parts, st.integers(0, 100), st.none() | st.integers(0, 10**13))),
    theirs=st.lists(
        st.tuples(days, names, tiers, parts, st.integers(1, 100), st.fractions(0, 10, max_denominator=10**6))
    ),
)
def test_ours_and_the_differences_are_always_the_providers(ours: list[Any], theirs: list[Any]) -> None:
    lines = [
        line({part: count}, None if pusd is None else {part: pusd}, day=day, model=model, service_tier=tier)
        for day, model, tier, part, count, pusd in ours
    ]
    entries = [
        Entry(day=day, model=model, tier=tier, part=part, tokens=tokens, usd=usd)
        for day, model, tier, part, tokens, usd in theirs
    ]
    result = reconcile(lines, [report(*entries)])
    if result.theirs_usd is not None:
        assert result.ours_usd + sum((one.usd or Fraction(0)) for one in result.differences) == result.theirs_usd
        assert sum(result.by_reason().values()) == result.theirs_usd - result.ours_usd


def write(folder: Path, document: Any) -> Path:
    path = folder / "report.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def bucket(*results: dict[str, Any], hours: int = 24) -> dict[str, Any]:
    start = int(datetime(2025, 6, 2, tzinfo=UTC).timestamp())
    return {"object": "bucket", "start_time": start, "end_time": start + hours * 3600, "results": list(results)}


def cost(value: Any, item: str | None, **more: Any) -> dict[str, Any]:
    amount = {"value": value, "currency": "usd"}
    return {"object": "organization.costs.result", "amount": amount, "line_item": item, "project_id": None} | more


def test_costs_of_openai_are_read_exactly(tmp_path: Path) -> None:
    items = [
        cost("0.000004500000000000000000000000000000000", "gpt-4o-mini-2024-07-18, input", quantity=30.0),
        cost(0.06, "gpt-4o-2024-08-06, cached input"),
        cost(1, "evals | gpt-4o, output", project_name="p"),
        cost(0.5, "web search tool calls"),
    ]
    path = write(tmp_path, {"object": "page", "data": [bucket(*items)], "has_more": False, "next_page": None})
    read = read_provider_report(path, "openai")
    assert [(one.model, one.part, one.tokens, one.usd) for one in read.entries] == [
        ("gpt-4o-mini-2024-07-18", "input", 30, Fraction(45, 10**7)),
        ("gpt-4o-2024-08-06", "cache_read", None, Fraction(6, 100)),
        ("evals | gpt-4o", "output", None, Fraction(1)),
        ("web search tool calls", "other", None, Fraction(1, 2)),
    ]
    assert (read.days, read.entries[1].rounding_usd) == (frozenset({DAY}), Fraction(1, 200))
    (total,) = read_provider_report(write(tmp_path, [bucket(cost(0.06, None))]), "openai").entries
    assert (total.model, total.part) == (None, "total")


@pytest.mark.skipif(not SAMPLE.exists(), reason="shared/data is not next to the repository")
def test_the_real_usage_report_is_read() -> None:
    raw = json.loads(SAMPLE.read_text())
    read = read_provider_report(SAMPLE, "openai")
    assert (len(read.days), read.partial_days) == (29, frozenset({date(2025, 1, 11), date(2025, 2, 10)}))
    whole = [one for one in raw if one["end_time"] - one["start_time"] == 86400]
    results = [result for one in whole for result in one["results"]]
    sums: Counter[str] = Counter()
    for one in read.entries:
        sums[one.part] += one.tokens or 0
    assert sums["input"] + sums["cache_read"] == sum(one["input_tokens"] for one in results)
    assert sums["output"] == sum(one["output_tokens"] for one in results)
    assert sums["audio_input"] == sum(one["input_audio_tokens"] for one in results)
    assert sums["cache_read"] == sum(one["input_cached_tokens"] for one in results)


def anthropic(*results: dict[str, Any]) -> dict[str, Any]:
    data = [{"starting_at": "2025-06-02T00:00:00Z", "ending_at": "2025-06-03T00:00:00Z", "results": list(results)}]
    return {"data": data, "has_more": False, "next_page": None}


def test_amounts_of_anthropic_are_cents(tmp_path: Path) -> None:
    token = {"amount": "123.45", "currency": "USD", "cost_type": "tokens", "model": "claude", "service_tier": "batch"}
    search = {"amount": "7", "currency": "USD", "cost_type": "web_search", "description": "Web Search Usage"}
    made = anthropic(token | {"token_type": "cache_creation.ephemeral_1h_input_tokens"}, search)
    read = read_provider_report(write(tmp_path, made), "anthropic")
    assert [(one.model, one.tier, one.part, one.usd) for one in read.entries] == [
        ("claude", "batch", "cache_write_1h", Fraction(12345, 10**4)),
        ("Web Search Usage", None, "other", Fraction(7, 100)),
    ]
    usage = {"uncached_input_tokens": 1500, "cache_read_input_tokens": 200, "output_tokens": 500, "model": "claude"}
    usage |= {
        "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 0},
        "service_tier": None,
    }
    read = read_provider_report(write(tmp_path, anthropic(usage)), "anthropic")
    assert {one.part: one.tokens for one in read.entries} == {
        "input": 1500,
        "cache_read": 200,
        "cache_write_1h": 1000,
        "output": 500,
    }


@pytest.mark.parametrize(
    ("provider", "document", "message"),
    [
        ("openai", "{", "cannot be read as JSON"),
        ("openai", "[NaN]", "NaN is no number"),
        ("openai", [1], "expected pages or buckets, not int"),
        ("openai", {"data": [], "has_more": True}, "one page of several; download the others"),
        ("openai", {"data": 1}, "data must be a list of objects"),
        ("openai", [bucket(hours=25)], "is not within one UTC day; ask for buckets of one day"),
        ("openai", [bucket() | {"start_time": "x"}], "start_time and end_time must be its times"),
        ("openai", [bucket({"object": "x"})], "object: 'x' is not allowed"),
        ("openai", [bucket(cost(1, None) | {"fine_tokens": 3})], "field: 'fine_tokens' is not allowed"),
        ("openai", [bucket(cost("many", None))], r"the amount must be a decimal number \(was 'many'\)"),
        ("openai", [bucket(cost(1, None) | {"amount": {"value": 1, "currency": "eur"}})], "currency: 'eur'"),
        (
            "openai",
            [bucket({"object": "organization.usage.completions.result", "input_tokens": 1, "input_cached_tokens": 2})],
            "its parts are more than its whole",
        ),
        (
            "openai",
            [bucket({"object": "organization.usage.completions.result", "input_tokens": -1})],
            "whole number from 0",
        ),
        ("anthropic", anthropic({"amount": 1.5, "currency": "USD"}), "amount must be a decimal text in cents"),
        ("anthropic", anthropic({"amount": "1", "currency": "EUR"}), "currency: 'EUR' is not allowed; allowed: USD"),
        (
            "anthropic",
            anthropic({"amount": "1", "currency": "USD", "token_type": "x"}),
            "token_type: 'x' is not allowed",
        ),
        ("anthropic", [{"starting_at": "2025-06-02", "ending_at": "2025-06-03", "results": []}], "with a zone"),
        ("google", [], "provider: 'google' is not allowed; allowed: openai, anthropic"),
    ],
)
def test_what_is_no_report_is_refused_with_the_place(
    tmp_path: Path, provider: str, document: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_provider_report(write(tmp_path, document), provider)


def test_amounts_are_written_with_all_their_digits() -> None:
    assert [exact_usd(Fraction(one)) for one in ("1", "-0.5", "1e-12", "1/3")] == [
        "1.00",
        "-0.50",
        "0.000000000001",
        "0.333333333333333333333333333333",
    ]


# --- the same usage given twice ---


def test_reports_that_say_the_same_of_a_day_are_refused_and_others_are_added() -> None:
    usage, costs = report(entry(1_000_000)), report(entry(None, "2"))
    assert found(reconcile([OURS], [usage, costs])) == []
    for twice in ([usage, usage], [costs, usage, costs]):
        with pytest.raises(InputError, match="2025-06-02: two reports say the same of it, and its usage would count"):
            reconcile([OURS], twice)
    # Files of two projects, say: they are added up.
    halves = [report(entry(400_000)), report(entry(600_000))]
    assert found(reconcile([OURS], halves)) == []


def test_pages_that_overlap_are_refused_and_empty_buckets_are_no_repetition(tmp_path: Path) -> None:
    path, start = tmp_path / "usage.json", int(datetime(2025, 6, 2, tzinfo=UTC).timestamp())
    result = {"object": "organization.usage.completions.result", "input_tokens": 5, "num_model_requests": 1}
    bucket = {"start_time": start, "end_time": start + 86_400, "results": [result]}
    path.write_text(json.dumps([{"data": [bucket]}, {"data": [bucket]}]))
    with pytest.raises(InputError, match=r"usage.json: bucket 1 is bucket 0 again; give each page once"):
        read_provider_report(path, "openai")
    path.write_text(json.dumps([{"data": [bucket | {"results": []}] * 2}, {"data": [bucket]}]))
    assert [one.tokens for one in read_provider_report(path, "openai").entries] == [5]
