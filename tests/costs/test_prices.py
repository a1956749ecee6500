from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from tasks.costs.prices import PriceBook, find_rates, read_price_book
from tasks.costs.rates import Layer, Rate, UsdPerMtok, make_rate
from tasks.errors import InputError
from tasks.release.model import Price

ROOT = Path(__file__).parents[2]
DAY = date(2024, 6, 1)
ENTRY = """
  - provider: openai
    model: m
    from_utc: {start}
    input_usd_per_mtok: {price}
    output_usd_per_mtok: 2
    source: a list
"""


@pytest.fixture
def book() -> PriceBook:
    return read_price_book(ROOT / "tasks" / "costs" / "prices.yaml")


def write(path: Path, text: str) -> Path:
    (path / "prices.yaml").write_text(text)
    return path / "prices.yaml"


@pytest.mark.parametrize(
    ("model", "input_usd_per_1k", "output_usd_per_1k"),
    [("gpt-4o", "0.005", "0.015"), ("gpt-4o-mini", "0.00015", "0.0006")],
)
def test_the_book_holds_the_list_prices(
    book: PriceBook, model: str, input_usd_per_1k: str, output_usd_per_1k: str
) -> None:
    (rate,) = find_rates(book, "openai", model, DAY)
    assert rate.layer is Layer.BOOK
    assert (rate.input_pusd_per_unit, rate.output_pusd_per_unit, rate.unit_tokens) == (
        int(Decimal(input_usd_per_1k) * 10**9),
        int(Decimal(output_usd_per_1k) * 10**9),
        1,
    )


def test_the_release_comes_before_the_book_and_the_book_before_the_catalogue(book: PriceBook) -> None:
    own = Price(input_usd_per_mtok=Decimal("0.1"), output_usd_per_mtok=Decimal(1))
    assert [rate.layer for rate in find_rates(book, "openai", "gpt-4o", DAY, own)] == [Layer.RELEASE]
    assert [rate.layer for rate in find_rates(book, "openai", "gpt-4o", DAY)] == [Layer.BOOK]
    assert [rate.layer for rate in find_rates(book, "openai", "o3", DAY)] == [Layer.CATALOGUE]
    before = find_rates(book, "openai", "gpt-4o", date(2024, 5, 12))
    assert [rate.layer for rate in before] == [Layer.CATALOGUE]
    (unnamed,) = find_rates(book, None, None, DAY, own)
    assert (unnamed.input_pusd_per_unit, unnamed.output_pusd_per_unit) == (100_000, 1_000_000)


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "nope"), ("nobody", "gpt-4o"), (None, "gpt-4o"), ("openai", None), ("", "")]
)
def test_an_unknown_model_has_no_rate(book: PriceBook, provider: str | None, model: str | None) -> None:
    assert find_rates(book, provider, model, DAY) == ()


def test_a_rate_names_the_entry_it_came_from(book: PriceBook) -> None:
    digests = {find_rates(book, "openai", name, DAY)[0].sha256 for name in ("gpt-4o", "gpt-4o-mini", "o3")}
    assert len(digests) == 3
    assert all(len(digest) == 64 for digest in digests)


def test_a_rate_that_is_not_whole_is_kept_exactly() -> None:
    usd = UsdPerMtok(
        input_usd_per_mtok=Decimal("0.0000005"),
        cached_input_usd_per_mtok=Decimal("0.00000025"),
        output_usd_per_mtok=Decimal("0.000001"),
    )
    rate = make_rate(usd, provider="p", model="m", day=DAY, layer=Layer.BOOK, sha256="")
    assert rate is not None
    assert (rate.input_pusd_per_unit, rate.cached_input_pusd_per_unit, rate.output_pusd_per_unit) == (2, 1, 4)
    assert rate.unit_tokens == 4


def test_a_price_that_changes_within_the_day_is_not_guessed(book: PriceBook) -> None:
    found = [find_rates(book, "deepseek", "deepseek-chat", date(2025, 3, 1) + timedelta(days=30 * n)) for n in range(6)]
    assert () in found


def cost_usd(rates: tuple[Rate, ...], input_tokens: int, output_tokens: int) -> Decimal:
    (rate,) = [
        rate
        for rate in rates
        if rate.min_input_tokens <= input_tokens and (rate.max_input_tokens or input_tokens) >= input_tokens
    ]
    amount = input_tokens * rate.input_pusd_per_unit + output_tokens * rate.output_pusd_per_unit
    return Decimal(amount) / rate.unit_tokens / 10**12


def unit_cases() -> list[dict[str, object]]:
    path = ROOT.parent / "shared" / "data" / "conformance" / "genai_prices_unit_cases.json"
    return json.loads(path.read_text()) if path.exists() else []


@pytest.mark.skipif(not unit_cases(), reason="shared/data is not next to the repository")
def test_the_catalogue_agrees_with_its_own_cases() -> None:
    from genai_prices import Usage, calc_price

    for case in unit_cases():
        inputs, outputs = int(str(case["input_tokens"])), int(str(case["output_tokens"]))
        day = date(2025, 11, 1)
        rates = find_rates(PriceBook(), str(case["provider"]), str(case["model"]), day)
        assert cost_usd(rates, inputs, 0) == Decimal(str(case["input_price"]))
        expected = calc_price(
            Usage(input_tokens=inputs, output_tokens=outputs),
            str(case["model"]),
            provider_id=str(case["provider"]),
        ).total_price
        assert cost_usd(rates, inputs, outputs) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prices: 3", "prices: Input should be a valid tuple"),
        ("prices: [", "cannot be read"),
        ("price: []", "price: Extra inputs are not permitted"),
        (
            "prices:" + ENTRY.format(start="2024-01-01", price="-1"),
            "prices.0.input_usd_per_mtok: Input should be greater",
        ),
        ("prices:" + ENTRY.format(start="2024-01-01", price="NaN"), "prices.0.input_usd_per_mtok: "),
        ("prices:" + ENTRY.format(start="2024-01-01", price="0.0000001"), "prices.0.input_usd_per_mtok: Decimal input"),
        ("prices:" + ENTRY.format(start="soon", price="1"), "prices.0.from_utc: "),
        ("prices:" + ENTRY.format(start="2024-01-01", price="1") + "    input_price: 3", "prices.0.input_price: Extra"),
        (
            "prices:" + ENTRY.format(start="2024-01-01", price="1") + "    until_utc: 2024-01-01",
            "prices.0: Value error, until_utc 2024-01-01 is not after from_utc 2024-01-01",
        ),
        (
            "prices:" + ENTRY.format(start="2024-02-01", price="1") + ENTRY.format(start="2024-01-01", price="2"),
            "prices.1 and prices.0: two prices of openai m on 2024-02-01; close the earlier one",
        ),
    ],
)
def test_a_book_is_read_strictly(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputError) as raised:
        read_price_book(write(tmp_path, text))
    assert reason in str(raised.value)


def test_a_missing_book_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.yaml: cannot be read"):
        read_price_book(tmp_path / "no.yaml")


def test_a_past_day_keeps_its_price(tmp_path: Path) -> None:
    closed = ENTRY.format(start="2024-01-01", price="1") + "    until_utc: 2024-02-01"
    book = read_price_book(write(tmp_path, "prices:" + closed + ENTRY.format(start="2024-02-01", price="3")))
    days = [date(2023, 12, 31), date(2024, 1, 31), date(2024, 2, 1)]
    assert [[rate.input_pusd_per_unit for rate in book.rates("openai", "m", day)] for day in days] == [
        [],
        [1_000_000],
        [3_000_000],
    ]
