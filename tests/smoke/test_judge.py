"""Every expectation a smoke case may have: met, not met, and said without a word of the answer."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_release import release_of

from tasks.costs.prices import PriceBook, PriceEntry
from tasks.costs.rates import Layer, Rate
from tasks.costs.rollup import add_up
from tasks.monitors.verdict import Outcome
from tasks.release.model import Monitors, Price, Release
from tasks.smoke.judge import cost_pusd, judge_smoke
from tasks.smoke.suite import SmokeCase, SmokeSuite
from tasks.traffic.driver import Answer, Message

START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(seconds=5)


def released(price: Price | None) -> Release:
    return release_of(monitors=Monitors(latency_ms=1000), price=price)


RELEASE = released(Price(input_usd_per_mtok=Decimal("0.15"), output_usd_per_mtok=Decimal("0.6")))
NO_BOOK = PriceBook()


def answered(text: str = "Paris.", *, release: Release = RELEASE, **changes: Any) -> Answer:
    good = Answer(
        status=200,
        release_digest=release.digest,
        prompt_sha256=release.prompt.sha256,
        text=text,
        latency_ms=240.4,
        input_tokens=1000,
        output_tokens=100,
    )
    return replace(good, **changes)


def said(answer: Answer, *, release: Release = RELEASE, book: PriceBook = NO_BOOK, **expected: Any) -> list[str]:
    """Return what is said of an answer that fails, nothing where it passes."""
    case = SmokeCase.model_validate({"name": "c", "question": "?", **expected})
    verdict = judge_smoke(release, [(case, answer)], START, END, book)
    if verdict.outcome is Outcome.PASS:
        return []
    return [check.statement.removeprefix("c: ") for check in verdict.checks]


# --- expectations of the text ---


@pytest.mark.parametrize(
    ("expected", "good", "bad", "statement"),
    [
        ({"json": True}, '{"a": 1}', "Here: {}", "the answer is no JSON document"),
        ({"json": True}, "[1]", "NaN", "the answer is no JSON document"),
        (
            {"json_schema": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}},
            '{"city": "Paris"}',
            '{"city": 7}',
            "the answer breaks its json_schema at properties/city/type",
        ),
        ({"json_schema": {"type": "object"}}, "{}", "Paris", "the answer is no JSON document"),
        ({"contains": ["PARIS"]}, "paris", "Lyon", "the answer does not contain 'PARIS'"),
        ({"not_contains": ["lyon", "nice"]}, "Paris", "LYON or Nice", "the answer contains 'lyon', 'nice'"),
        ({"regex": r"^\d{4}$"}, "1789", "17890", "the answer does not match the pattern '^\\\\d{4}$'"),
        (
            {"similar_to": {"text": "The capital is Paris.", "at_least": 0.6}},
            "Paris is the capital",
            "I like tea.",
            "similarity 0.06 < 0.6 to the wanted answer",
        ),
        ({"refusal": "forbidden"}, "Paris.", "I\u2019m sorry, no.", "the answer is a refusal, which is forbidden"),
        ({"refusal": "required"}, "I cannot help with that.", "Sure!", "the answer is no refusal, which is required"),
    ],
)
def test_an_expectation_of_the_text(expected: dict[str, Any], good: str, bad: str, statement: str) -> None:
    assert said(answered(good), **expected) == []
    assert said(answered(bad), **expected) == [statement]


def test_a_refusal_is_allowed_where_nothing_is_said() -> None:
    assert said(answered("I cannot help with that.")) == []
    assert said(answered("I cannot help with that."), refusal="allowed") == []


def test_a_toxic_answer_is_over_its_limit() -> None:
    assert said(answered("Have a nice day."), max_toxicity=0.5) == []
    (statement,) = said(answered("You fucking idiot."), max_toxicity=0.5)
    assert statement.startswith("toxicity ")
    assert statement.endswith(" > limit 0.5")


def test_a_pattern_without_an_end_fails_its_case_and_not_the_test() -> None:
    (statement,) = said(answered("a" * 2000 + "!"), regex="^(([a-z])+.)+[A-Z]([a-z])+$")
    assert statement.endswith("the pattern found no end within 1 s")


def test_every_failing_expectation_is_said_not_the_first_alone() -> None:
    wrong = answered("Lyon", latency_ms=5000.0, input_tokens=None)
    everything = said(
        wrong, json=True, contains=["paris"], regex="x", refusal="required", max_latency_ms=100, max_cost_usd=1
    )
    assert everything == [
        "the answer is no JSON document",
        "the answer does not contain 'paris'",
        "the answer does not match the pattern 'x'",
        "the answer is no refusal, which is required",
        "latency 5000 ms > limit 100 ms",
        "unpriced: the answer says nothing of its tokens",
    ]


def test_the_numbers_of_a_finding_are_kept() -> None:
    case = SmokeCase(name="c", question="?", max_latency_ms=100, max_cost_usd=Decimal("0.0001"))
    checks = judge_smoke(RELEASE, [(case, answered())], START, END).checks
    assert [(check.value, check.limit) for check in checks] == [(240.4, 100), (0.00021, 0.0001)]


# --- status ---


def test_an_error_can_be_what_is_wanted() -> None:
    refused = answered("", status=400, error="invalid_request_error")
    assert said(refused, status=400) == []
    assert said(answered(), status=400) == ["status 200 != 400 ()"]
    assert said(replace(refused, release_digest=""), status=400) == [f"answered by release unknown != {RELEASE.short}"]


def test_tries_are_said() -> None:
    gone = answered("", status=0, error="ConnectError", tries=2)
    assert said(gone) == ["status none != 200 (ConnectError) after 2 tries"]
    case = SmokeCase(name="c", question="?")
    assert judge_smoke(RELEASE, [(case, answered(tries=2))], START, END).reason == "c: 240 ms <= 1000 ms (2 tries)"


# --- cost ---


def test_a_cost_is_held_against_its_limit_exactly() -> None:
    # 1000 tokens in at 0.15 and 100 out at 0.60 USD per million.
    assert said(answered(), max_cost_usd="0.00021") == []
    assert said(answered(), max_cost_usd="0.000209999999") == ["cost 0.00021 USD > limit 0.000209999999 USD"]


@pytest.mark.parametrize("tokens", [{"input_tokens": None}, {"output_tokens": None}])
def test_unknown_usage_is_unpriced_and_never_free(tokens: dict[str, None]) -> None:
    assert said(answered(**tokens), max_cost_usd=100) == ["unpriced: the answer says nothing of its tokens"]


def test_an_unknown_price_is_unpriced_and_never_free() -> None:
    free = released(None)
    assert said(answered(release=free), release=free, max_cost_usd=100) == [
        "unpriced: no price of internal bot is known"
    ]


def test_the_price_book_is_asked_for_the_day_of_the_test() -> None:
    own = released(None)
    entry = {"provider": "internal", "model": "bot", "source": "s", "output_usd_per_mtok": 0}
    book = PriceBook(
        (
            PriceEntry(**entry, from_utc=date(2026, 1, 1), until_utc=date(2026, 3, 1), input_usd_per_mtok=1),
            PriceEntry(**entry, from_utc=date(2026, 3, 1), input_usd_per_mtok=2),
        )
    )
    assert said(answered(release=own), release=own, book=book, max_cost_usd="0.002") == []
    assert said(answered(release=own), release=own, book=book, max_cost_usd="0.0019") == [
        "cost 0.002 USD > limit 0.0019 USD"
    ]


CONNECTION = duckdb.connect()


@given(
    tokens=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    prices=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    unit=st.sampled_from([1, 2, 3, 1000, 10**6]),
)
@settings(max_examples=25)
def test_a_call_costs_what_the_rollup_says(tokens: tuple[int, int], prices: tuple[int, int], unit: int) -> None:
    day, columns = START.date(), ("provider", "model", "release_digest")
    rate = Rate(
        provider="internal",
        model="bot",
        day=day,
        input_pusd_per_unit=prices[0],
        cached_input_pusd_per_unit=None,
        output_pusd_per_unit=prices[1],
        unit_tokens=unit,
        layer=Layer.RELEASE,
        sha256="",
    )
    row = {"date_utc": day, "application": "faq", **dict.fromkeys(columns, "x")}
    numbers = {"input_tokens": tokens[0], "output_tokens": tokens[1], "cached_input_tokens": 0}
    CONNECTION.register("interactions", pa.Table.from_pylist([row | numbers]))
    (line,) = add_up(CONNECTION, lambda _: (rate,))
    assert cost_pusd((rate,), *tokens) == line.cost_pusd


# --- suites ---


def test_a_case_takes_the_defaults_it_does_not_say_itself() -> None:
    suite = SmokeSuite.model_validate(
        {
            "defaults": {"refusal": "forbidden", "contains": ["a"], "max_latency_ms": 100},
            "cases": [
                {"name": "plain", "question": "?"},
                {"name": "own", "question": "?", "refusal": "required", "contains": [], "max_latency_ms": 7},
                {"name": "error", "question": "?", "status": 413},
            ],
        }
    )
    plain, own, error = suite.filled()
    assert (plain.refusal, plain.contains, plain.max_latency_ms) == ("forbidden", ("a",), 100)
    assert (own.refusal, own.contains, own.max_latency_ms) == ("required", (), 7)
    assert (error.refusal, error.contains, error.max_latency_ms) == (None, None, 100)


def test_a_suite_comes_through_a_form_unchanged() -> None:
    suite = SmokeSuite.model_validate(
        {
            "defaults": {"json": True, "max_cost_usd": 0.001},
            "concurrency": 2,
            "cases": [{"name": "a", "messages": [{"role": "user", "content": "?"}], "json": False}],
        }
    )
    sent = json.loads(json.dumps(suite.model_dump(mode="json")))
    assert SmokeSuite.model_validate(sent) == suite
    assert SmokeSuite.model_validate(sent).filled() == suite.filled()
    assert sent["cases"][0]["json"] is False


def test_a_case_asks_a_question_or_a_conversation() -> None:
    turns = (
        Message(role="user", content="a"),
        Message(role="assistant", content="b"),
        Message(role="user", content="c"),
    )
    assert SmokeCase(name="n", question="q").asked == "q"
    assert SmokeCase(name="n", messages=turns).asked == turns


SPOKEN = "zq7 geheim"


@given(
    text=st.sampled_from(['{"%s": "%s"}', '["%s", "%s"]', "You fucking %s! %s", "Sorry, %s %s", '{"n": {"%s": "%s"}}']),
    status=st.sampled_from([200, 200, 200, 500]),
)
def test_no_word_of_an_answer_is_said(text: str, status: int) -> None:
    schema = {"properties": {"n": {"additionalProperties": {"type": "integer"}}}, "additionalProperties": False}
    case = SmokeCase.model_validate(
        {
            "name": "c",
            "question": "?",
            "json": True,
            "json_schema": schema,
            "contains": ["x"],
            "not_contains": ["never there"],
            "regex": "^y$",
            "similar_to": {"text": "w", "at_least": 1},
            "refusal": "required",
            "max_toxicity": 0,
            "max_cost_usd": 0,
            "max_latency_ms": 1,
        }
    )
    shown = repr(judge_smoke(RELEASE, [(case, answered(text % (SPOKEN, SPOKEN), status=status))], START, END))
    assert "zq7" not in shown
    assert "geheim" not in shown
