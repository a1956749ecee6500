"""Contracts stand before lists, and their discounts are exact."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from tasks.costs.prices import PriceBook, find_rates, read_price_book
from tasks.costs.rates import Layer
from tasks.errors import InputError
from tasks.release.model import Price

DAY = date(2024, 6, 1)
BOOK = """
prices:
  - {provider: openai, model: m, from_utc: 2024-01-01, input_usd_per_mtok: 5, output_usd_per_mtok: 15, source: a list}
contracts:
  - {name: own, provider: openai, model: "m*", team: research, from_utc: 2024-01-01, percent_off: 33.333, source: c}
  - name: all
    provider: open*
    from_utc: 2024-06-01
    until_utc: 2024-07-01
    percent_off: 10
    committed_usd_per_month: 100
    source: c
  - name: own
    provider: mistral
    from_utc: 2024-01-01
    input_usd_per_mtok: 1
    cached_input_usd_per_mtok: 0.1
    output_usd_per_mtok: 2
    source: c
"""


@pytest.fixture
def book(tmp_path: Path) -> PriceBook:
    (tmp_path / "prices.yaml").write_text(BOOK)
    return read_price_book(tmp_path / "prices.yaml")


def test_the_first_contract_that_fits_discounts_the_list(book: PriceBook) -> None:
    (rate,) = find_rates(book, "openai", "m", DAY)
    assert (rate.layer, rate.input_pusd_per_unit, rate.unit_tokens) == (Layer.CONTRACT, 4_500_000, 1)
    assert rate.list_rate is not None
    assert (rate.list_rate.layer, rate.list_rate.input_pusd_per_unit) == (Layer.BOOK, 5_000_000)
    (rate,) = find_rates(book, "openai", "m", DAY, team="research")
    assert Fraction(rate.input_pusd_per_unit, rate.unit_tokens) == Fraction("3.33335") * 10**6
    (rate,) = find_rates(book, "openai", "m", date(2024, 5, 31))
    assert rate.layer is Layer.BOOK
    (rate,) = find_rates(book, "openai", "m", date(2024, 7, 1))
    assert rate.layer is Layer.BOOK


def test_a_release_comes_before_a_contract_and_a_discount_of_nothing_is_unpriced(book: PriceBook) -> None:
    own = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(1))
    (rate,) = find_rates(book, "openai", "m", DAY, own)
    assert (rate.layer, rate.list_rate and rate.list_rate.layer) == (Layer.RELEASE, Layer.BOOK)
    assert find_rates(book, "openai", "nobody-knows-it", DAY) == ()
    (rate,) = find_rates(book, "mistral", "nobody-knows-it", DAY)
    assert (rate.layer, rate.list_rate, rate.cached_input_pusd_per_unit) == (Layer.CONTRACT, None, 100_000)


def test_a_discount_holds_for_every_part_and_tier(book: PriceBook) -> None:
    day = date(2024, 6, 1)
    discounted, listed = find_rates(book, "openai", "o3", day), find_rates(PriceBook(), "openai", "o3", day)
    for rate, full in zip(discounted, listed, strict=True):
        pairs = zip(rate.part_rates(), full.part_rates(), strict=True)
        assert all(Fraction(ours, rate.unit_tokens) * 10 == 9 * theirs for ours, theirs in pairs)
        assert rate.sha256 != full.sha256


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("percent_off: 0", "contracts.0.percent_off: Input should be greater than 0"),
        ("percent_off: 101", "contracts.0.percent_off: Input should be less than or equal to 100"),
        ("team: x", "give either percent_off or input_usd_per_mtok and output_usd_per_mtok"),
        ("input_usd_per_mtok: 1", "give either percent_off or input_usd_per_mtok and output_usd_per_mtok"),
        ("percent_off: 5, input_usd_per_mtok: 1", "give either percent_off or"),
        ("percent_off: 5, until_utc: 2024-01-01", "until_utc 2024-01-01 is not after from_utc 2024-01-01"),
        ("percent: 5", "contracts.0.percent: Extra inputs are not permitted"),
    ],
)
def test_a_contract_is_read_strictly(tmp_path: Path, line: str, reason: str) -> None:
    entry = f"{{name: x, provider: p, from_utc: 2024-01-01, source: s, {line}}}"
    (tmp_path / "prices.yaml").write_text(f"prices: []\ncontracts: [{entry}]")
    with pytest.raises(InputError) as raised:
        read_price_book(tmp_path / "prices.yaml")
    assert reason in str(raised.value)
