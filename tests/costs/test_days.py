from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_release import URL, release_of

from tasks.costs import releases, steps
from tasks.costs.billing import Billing
from tasks.costs.days import ROLLUPS, CostReport, DayBill, check_budgets, list_days, read_bill, roll_up_day
from tasks.costs.line import LineKey, Rollup
from tasks.costs.prices import read_price_book
from tasks.errors import InputError, NotFoundError
from tasks.interactions.schema import REJECTED_SCHEMA, Interaction, as_table
from tasks.monitors.verdict import Outcome
from tasks.release.model import Monitors, Price, Release
from tasks.stores.lake import Lake

ROOT = Path(__file__).parents[2]
BOOK = read_price_book(ROOT / "tasks" / "costs" / "prices.yaml")
DAY = date(2024, 6, 1)
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
NOW = datetime(2024, 6, 10, tzinfo=UTC)


def make_release(budget_usd: float, price: Price | None = None) -> Release:
    limits = Monitors(cost_usd_per_day=budget_usd)
    return release_of(application="support", model_id="mine", endpoint=URL, text="t", monitors=limits, price=price)


def call(name: str, time: datetime = NOON, **values: Any) -> Interaction:
    named = {
        "application": "support",
        "provider": "openai",
        "model": "gpt-4o",
        "input_tokens": 1000,
        "output_tokens": 100,
    }
    return Interaction(interaction_id=name, time=time, status=200, **{**named, **values})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def store(lake: Lake, *calls: Interaction, source: str = "s") -> None:
    nothing = REJECTED_SCHEMA.empty_table()
    assert lake.append(source, expected=0, offset=1, interactions=as_table(calls), rejected=nothing)


def nobody(application: str, digest: str) -> None:  # noqa: ARG001
    return None


def roll(lake: Lake, day: date = DAY, application: str | None = None, known: Any = nobody) -> tuple[Rollup, ...]:
    billing = Billing(lake=lake, book=BOOK, find_release=known)
    return roll_up_day(billing, day, application, now=NOW).lines


def as_bytes(table: pa.Table | None) -> bytes:
    assert table is not None
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink)
    return bytes(sink.getvalue().to_pybytes())


def test_a_rerun_of_a_day_gives_the_same_bytes_and_replaces_only_that_day(lake: Lake) -> None:
    before, after = NOON.replace(hour=0) - timedelta(microseconds=1), NOON.replace(hour=0) + timedelta(days=1)
    store(lake, call("1"), call("2", before), call("3", after), call("4", model="nope"), call("5", application="other"))
    lines = roll(lake)
    assert [(line.key.application, line.key.model, line.cost_pusd) for line in lines] == [
        ("other", "gpt-4o", 6_500_000_000),
        ("support", "gpt-4o", 6_500_000_000),
        ("support", "nope", None),
    ]
    roll(lake, DAY - timedelta(days=1))
    stored = as_bytes(lake.read(ROLLUPS))
    assert roll(lake) == lines
    assert roll(lake, DAY, "support") == lines[1:]
    assert as_bytes(lake.read(ROLLUPS)) == stored
    store(lake, call("6"), source="late")
    assert roll(lake)[1].requests == 2
    assert [line.requests for line in read_bill(Billing(lake=lake, book=BOOK, find_release=nobody), DAY)] == [1, 2, 1]


def test_a_day_without_usage_has_no_lines(lake: Lake) -> None:
    assert roll(lake) == ()
    assert lake.read(ROLLUPS) is None


def test_the_price_of_a_release_is_that_of_its_calls(lake: Lake) -> None:
    own = make_release(1, Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2)))
    store(lake, call("1", release_digest=own.digest, model="local"), call("2"))
    lines = roll(lake, known=lambda _, digest: own if digest == own.digest else None)
    assert [(line.key.release_digest, line.cost_pusd, line.price_layer) for line in lines] == [
        (None, 6_500_000_000, "price book"),
        (own.digest, 1_200_000_000, "release"),
    ]


def line_of(cost_pusd: int | None, requests: int = 1, priced: int = 1, digest: str | None = "d") -> Rollup:
    key = LineKey(DAY, "support", digest, provider="p", model="m")
    return Rollup(key=key, requests=requests, priced_requests=priced, cost_pusd=cost_pusd)


@pytest.mark.parametrize(
    ("lines", "outcome", "statement"),
    [
        ([line_of(10**11)], Outcome.PASS, "cost 0.10 USD <= budget 0.10 USD (n=1)"),
        ([line_of(10**11 + 1)], Outcome.FAIL, "cost 0.100000000001 USD > budget 0.10 USD (n=1)"),
        ([line_of(10**11), line_of(1)], Outcome.FAIL, "cost 0.100000000001 USD > budget 0.10 USD (n=2)"),
        (
            [line_of(1, 3, 2)],
            Outcome.INCONCLUSIVE,
            "cost 0.000000000001 USD not known to be <= budget 0.10 USD (n=3, unknown 1)",
        ),
        (
            [line_of(None, 3, 0)],
            Outcome.INCONCLUSIVE,
            "cost 0.00 USD not known to be <= budget 0.10 USD (n=3, unknown 3)",
        ),
        ([line_of(10**12, 3, 2)], Outcome.FAIL, "cost 1.00 USD > budget 0.10 USD (n=3, unknown 1)"),
    ],
)
def test_a_budget_is_held_exactly_and_the_unknown_never_passes(
    lines: list[Rollup], outcome: Outcome, statement: str
) -> None:
    release = make_release(0.1)
    (budget,) = check_budgets(lines, lambda *_: release)
    name = f"release-{release.digest[:12]} {DAY}"
    assert (budget.check.monitor, budget.check.outcome) == ("budget", outcome)
    assert budget.check.statement == f"{name}: {statement}"


def test_budgets_add_up_a_release_over_its_models() -> None:
    lines = [line_of(6 * 10**10), line_of(1, digest=None), line_of(6 * 10**10), line_of(1, digest="x")]
    (budget,) = check_budgets(lines, lambda _, digest: make_release(0.1) if digest == "d" else None)
    assert (budget.application, budget.release, budget.check.outcome) == ("support", "mine 1", Outcome.FAIL)


def test_days_end_yesterday_or_begin_where_asked() -> None:
    late = datetime(2024, 6, 1, 23, 30, tzinfo=UTC).astimezone()
    assert list_days(None, 2, late) == (date(2024, 5, 30), date(2024, 5, 31))
    assert list_days(None, 1, late, "Europe/Berlin") == (date(2024, 6, 1),)
    assert list_days(date(2024, 5, 31), 2, late) == (date(2024, 5, 31), date(2024, 6, 1))  # today is still open
    with pytest.raises(InputError, match=r"days: '2024-05-31 to 2024-06-02' .*days until today, 2024-06-01 in UTC"):
        list_days(date(2024, 5, 31), 3, late)
    assert list_days(date(2024, 2, 28), 3, late) == (date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1))


def test_the_tables_show_exact_money_and_what_is_unpriced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(steps, "create_table_artifact", lambda **artifact: shown.append(artifact))
    day = (line_of(10**11 + 1), line_of(None, 3, 0))
    monkeypatch.setattr(steps, "create_markdown_artifact", lambda **artifact: shown.append(artifact))
    bill = DayBill(zone="UTC", day=DAY, lines=day, records=(), is_new=True)
    report = steps.publish_costs.fn([bill], ())
    assert report == CostReport((bill,), ())
    assert [row["USD"] for row in shown[0]["table"]] == ["0.100000000001", "unpriced"]
    assert shown[0]["description"] == "0.100000000001 USD for 1 priced of 4 requests"


def test_an_unregistered_release_has_no_price_and_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(application: str, digest: str) -> Release:
        raise NotFoundError(f"{application} {digest}")

    monkeypatch.setattr(releases, "Registry", lambda url: SimpleNamespace(url=url, find=find))
    known = releases.registered_releases("http://127.0.0.1:1")
    assert known("support", "d") is None
    assert known("o'ther", "d") is None
