"""A day's bill through its life: open, provisional, closed, restated; late, repriced, killed, tagged, by the hour."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.costs.billing import Billing
from tasks.costs.days import DAYS, HOSTED, ROLLUPS, TAGS, read_bill, roll_up_day
from tasks.costs.gpu_hours import GpuHours
from tasks.costs.prices import PriceBook, PriceEntry
from tasks.costs.repricing import compare_day, reprice_day
from tasks.costs.zones import day_window, days_between, find_zone
from tasks.errors import InputError
from tasks.interactions.schema import REJECTED_SCHEMA, Interaction, as_table
from tasks.stores.lake import Lake

DAY = date(2024, 6, 1)
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
LATER = datetime(2024, 6, 10, tzinfo=UTC)


def book(usd: int = 5, *hosted: GpuHours) -> PriceBook:
    entry = PriceEntry(
        provider="p",
        model="m",
        from_utc=date(2024, 1, 1),
        input_usd_per_mtok=Decimal(usd),
        output_usd_per_mtok=Decimal(15),
        source="a test",
    )
    return PriceBook((entry,), (), hosted)


def billing(lake: Lake, prices: PriceBook | None = None, zone: str = "UTC") -> Billing:
    return Billing(lake=lake, book=prices or book(), find_release=lambda *_: None, zone=zone)


def call(name: str, time: datetime = NOON, **values: Any) -> Interaction:
    given = {"application": "support", "provider": "p", "model": "m", "input_tokens": 1000, "output_tokens": 100}
    return Interaction(interaction_id=name, time=time, **{"status": 200, **given, **values})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def store(lake: Lake, source: str, *calls: Interaction) -> None:
    nothing = REJECTED_SCHEMA.empty_table()
    assert lake.append(source, expected=0, offset=1, interactions=as_table(calls), rejected=nothing)


def as_bytes(lake: Lake) -> list[bytes]:
    found = []
    for name in (ROLLUPS, TAGS, DAYS):
        table = lake.read(name)
        assert table is not None
        sink = pa.BufferOutputStream()
        pq.write_table(table.combine_chunks(), sink)
        found.append(sink.getvalue().to_pybytes())
    return found


def states(lake: Lake) -> list[tuple[Any, ...]]:
    table = lake.read(DAYS)
    rows = [] if table is None else table.to_pylist()
    return [(row["application"], row["revision"], row["state"], row["reason"], row["cost_pusd"]) for row in rows]


def test_a_day_is_open_then_provisional_then_closed_and_restated_by_late_calls(lake: Lake) -> None:
    store(lake, "a", call("1"), call("2", application="other"))
    end = datetime(2024, 6, 2, tzinfo=UTC)
    moments = [(NOON, "open"), (end, "provisional"), (end + timedelta(hours=24), "closed"), (LATER, "closed")]
    for now, state in moments:
        bill = roll_up_day(billing(lake), DAY, now=now)
        assert [(record.application, str(record.state)) for record in bill.records] == [
            ("other", state), ("support", state),
        ]  # fmt: skip
    assert bill.is_new is False
    before = as_bytes(lake)
    assert roll_up_day(billing(lake, book(7)), DAY, now=LATER).is_new is False
    assert as_bytes(lake) == before
    store(lake, "late", call("3"))
    assert roll_up_day(billing(lake), DAY, now=LATER).is_new
    one = 6_500_000_000
    assert states(lake) == [
        ("other", 1, "closed", None, one),
        ("support", 1, "closed", None, one),
        ("support", 2, "restated", "calls", 2 * one),
    ]
    previous = lake.read(DAYS, {"application": "support"})
    assert previous is not None
    assert previous["previous_cost_pusd"].to_pylist() == [None, one]
    assert roll_up_day(billing(lake), DAY, now=LATER).is_new is False


def test_the_same_calls_twice_in_parts_and_in_another_order_are_the_same_bill(tmp_path: Path) -> None:
    calls = [call(str(n), input_tokens=n * 7, application=f"app{n % 3}", tags=("a=1", f"b={n % 2}")) for n in range(60)]
    bills = []
    for name, parts in {
        "whole": [calls],
        "reversed": [calls[::-1]],
        "parts": [calls[:20], calls[20:21], calls[21:]],
        "twice": [calls, calls[::2], calls],
    }.items():
        lake = Lake(tmp_path / name)
        for at, part in enumerate(parts):
            store(lake, f"s{at}", *part)
            if name == "parts":
                roll_up_day(billing(lake), DAY, now=NOON)
        roll_up_day(billing(lake), DAY, now=LATER)
        bills.append(as_bytes(lake)[:2])
    assert all(bill == bills[0] for bill in bills)


KILLED = """
import os, signal, sys
from datetime import UTC, date, datetime
from pathlib import Path
from tasks.stores.lake import Lake
sys.path.insert(0, sys.argv[3])
from test_states import DAY, LATER, billing, book, roll_up_day
left = int(sys.argv[2])
real = Lake.replace
def replace(self, *args):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(self, *args)
Lake.replace = replace
roll_up_day(billing(Lake(Path(sys.argv[1])), book(6)), DAY, now=LATER, force=True)
"""


def kill_after(lake: Lake, writes: int) -> None:
    command = [sys.executable, "-c", KILLED, str(lake.root), str(writes), str(Path(__file__).parent)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], env=os.environ, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def test_a_repricing_that_is_killed_is_finished_by_the_next_run(lake: Lake) -> None:
    store(lake, "a", call("1"))
    roll_up_day(billing(lake), DAY, now=LATER)
    kill_after(lake, 1)
    roll_up_day(billing(lake, book(6)), DAY, now=LATER)
    assert [state[1:4] for state in states(lake)] == [(1, "closed", None), (2, "restated", "prices")]


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_run_that_is_killed_between_its_writes_ends_as_one_that_was_not(tmp_path: Path, writes: int) -> None:
    lakes = [Lake(tmp_path / name) for name in ("killed", "whole")]
    for lake in lakes:
        store(lake, "a", call("1", tags=("x=1",)), call("2"))
        roll_up_day(billing(lake), DAY, now=LATER)
        store(lake, "late", call("3"))
    kill_after(lakes[0], writes)
    for lake in lakes:
        roll_up_day(billing(lake, book(6)), DAY, now=LATER)
    assert as_bytes(lakes[0]) == as_bytes(lakes[1])
    assert [state[1:4] for state in states(lakes[0])] == [(1, "closed", None), (2, "restated", "calls and prices")]


def test_a_dry_repricing_says_what_would_change_and_writes_nothing(lake: Lake) -> None:
    store(lake, "a", call("1"), call("2", model="nope"), call("3", application="other"))
    roll_up_day(billing(lake), DAY, now=LATER)
    before = as_bytes(lake)
    assert compare_day(billing(lake), DAY) == ()
    found = compare_day(billing(lake, book(7)), DAY, "support")
    assert [(one.model, one.old_pusd, one.new_pusd, one.delta_pusd, one.reason) for one in found] == [
        ("m", 6_500_000_000, 8_500_000_000, 2_000_000_000, "prices")
    ]
    assert found[0].old_prices != found[0].new_prices
    assert as_bytes(lake) == before
    reprice_day(billing(lake, book(7)), DAY, "support", now=LATER)
    assert [state for state in states(lake) if state[0] == "support"] == [
        ("support", 1, "closed", None, 6_500_000_000),
        ("support", 2, "restated", "prices", 8_500_000_000),
    ]
    assert [line.cost_pusd for line in read_bill(billing(lake), DAY, "other")] == [6_500_000_000]
    (new, *_) = compare_day(billing(lake), DAY - timedelta(days=1)) or (None,)
    assert new is None
    store(lake, "b", call("4", NOON + timedelta(days=1)))
    (never,) = compare_day(billing(lake), DAY + timedelta(days=1))
    assert (never.reason, never.old_pusd, never.delta_pusd) == ("never rolled up", None, None)


def test_a_business_day_has_its_own_hours_and_its_own_bill(lake: Lake) -> None:
    late, early = (datetime(2025, 3, 29, hour, 30, tzinfo=UTC) for hour in (22, 23))
    end = datetime(2025, 3, 30, 22, tzinfo=UTC)
    store(lake, "a", call("1", late), call("2", early), call("3", end - timedelta(seconds=1)), call("4", end))
    counts = {}
    for zone in ("Europe/Berlin", "UTC"):
        for day in days_between(date(2025, 3, 29), date(2025, 3, 31)):
            bill = roll_up_day(billing(lake, zone=zone), day, now=LATER + timedelta(days=400))
            counts[zone, day.day] = sum(line.requests for line in bill.lines)
    assert [counts["Europe/Berlin", day] for day in (29, 30, 31)] == [1, 2, 1]
    assert [counts["UTC", day] for day in (29, 30, 31)] == [2, 2, 0]
    start, stop = day_window(date(2025, 3, 30), "Europe/Berlin")
    assert stop - start == timedelta(hours=23)
    with pytest.raises(InputError, match="timezone: 'Berlin' is not allowed"):
        find_zone("Berlin")
    with pytest.raises(InputError, match="the last day is before the first"):
        days_between(DAY, DAY - timedelta(days=1))


def test_a_call_with_two_tags_counts_in_both_and_the_first_ones_add_up_to_the_bill(lake: Lake) -> None:
    calls = [
        call("1", tags=("a=1", "b=1")),
        call("2", tags=("b=1",)),
        call("3"),
        call("4", model="nope", tags=("c=1",)),
    ]
    store(lake, "a", *calls)
    bill = roll_up_day(billing(lake), DAY, now=LATER)
    table = lake.read(TAGS)
    assert table is not None
    one = 6_500_000_000
    names = ("tag", "requests", "priced_requests", "cost_pusd", "first_requests", "first_cost_pusd")
    assert {tuple(row[name] for name in names) for row in table.to_pylist()} == {
        (None, 1, 1, one, 1, one),
        ("a=1", 1, 1, one, 1, one),
        ("b=1", 2, 2, 2 * one, 1, one),
        ("c=1", 1, 0, None, 1, None),
    }
    assert sum(row["first_cost_pusd"] or 0 for row in table.to_pylist()) == sum(x.cost_pusd or 0 for x in bill.lines)
    assert sum(row["first_requests"] for row in table.to_pylist()) == 4


@pytest.mark.parametrize("measure", [{"capacity_tokens_per_s": Decimal("0.01")}, {"concurrency": 1}])
def test_hours_of_machines_are_allocated_or_idle_to_the_last_digit(lake: Lake, measure: dict[str, Any]) -> None:
    entry = GpuHours(
        provider="own",
        model="llama",
        from_utc=date(2024, 1, 1),
        gpus=3,
        usd_per_gpu_hour=Decimal("2.333333"),
        source="a test",
        **measure,
    )
    calls = [
        call(f"{n}", provider="own", model="llama", application=f"app{n % 2}", output_tokens=n, latency_ms=1234.5)
        for n in range(7)
    ]
    store(lake, "a", *calls, call("x", provider="own", model="llama", output_tokens=None))
    bill = roll_up_day(billing(lake, book(5, entry)), DAY, "app0", now=LATER)
    table = lake.read(HOSTED)
    assert table is not None
    (row,) = table.to_pylist()
    assert row["total_pusd"] == Decimal("2.333333") * 3 * 24 * 10**12
    assert row["allocated_pusd"] + row["idle_pusd"] == row["total_pusd"]
    assert row["allocated_pusd"] == sum(line.cost_pusd or 0 for line in bill.lines)
    assert 0 < row["idle_pusd"] < row["total_pusd"]
    weighted = 7 * 1000 + 4 * 21
    share = Decimal(weighted) / (Decimal("0.01") * 86400) if "capacity_tokens_per_s" in measure else None
    if share is None:
        share = Decimal(7 * 1234) / 86_400_000
    assert row["busy_share"] == pytest.approx(float(min(Decimal(1), share)), rel=1e-3)
    assert abs(row["allocated_pusd"] - row["total_pusd"] * Decimal(row["busy_share"])) < 10**6
    assert {line.key.application for line in bill.lines} == {"app0", "app1", "support"}
    assert {line.price_layer for line in bill.lines} == {"gpu hours"}


def test_machines_that_are_busy_all_day_have_nothing_idle_but_what_rounding_leaves(lake: Lake) -> None:
    values = {"provider": "own", "model": "llama", "from_utc": date(2024, 1, 1), "gpus": 1, "source": "a test"}
    entry = GpuHours(**values, usd_per_gpu_hour=Decimal(1), capacity_tokens_per_s=Decimal("0.000001"))
    store(lake, "a", *[call(f"{n}", provider="own", model="llama", output_tokens=n) for n in range(7)])
    roll_up_day(billing(lake, book(5, entry)), DAY, now=LATER)
    table = lake.read(HOSTED)
    assert table is not None
    assert 0 <= table["idle_pusd"].to_pylist()[0] <= 2 * 7
