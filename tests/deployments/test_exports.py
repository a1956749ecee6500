"""The commands that write costs into files and hold them against a provider's bill, over a real lake."""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from deployments.commands.exports import export_costs, reconcile_costs
from tasks.errors import InputError
from tasks.finance.focus_rules import check_focus_file
from tasks.interactions.schema import REJECTED_SCHEMA, Interaction, as_table
from tasks.settings import Settings
from tasks.stores.lake import Lake

DAY = date(2025, 6, 2)
WINDOW = (DAY, DAY + timedelta(days=1))
NOON = datetime(2025, 6, 2, 12, tzinfo=UTC)
PRICES = """
prices:
  - {provider: openai, model: m, from_utc: 2024-01-01, input_usd_per_mtok: 5, output_usd_per_mtok: 15, source: test}
"""


def call(name: str, **values: Any) -> Interaction:
    given: dict[str, Any] = {"application": "support", "provider": "openai", "model": "m", "time": NOON, "status": 200}
    return Interaction(interaction_id=name, **(given | {"input_tokens": 1000, "output_tokens": 100} | values))


@pytest.fixture
def where(tmp_path: Path) -> Settings:
    (tmp_path / "prices.yaml").write_text(PRICES)
    found = Settings(state_dir=tmp_path, price_book=tmp_path / "prices.yaml", mlflow_url="http://127.0.0.1:9")
    rows = as_table([call("1"), call("2", time=NOON + timedelta(days=1)), call("3", time=NOON + timedelta(days=2))])
    store(found, "s", rows)
    return found


def store(where: Settings, source: str, rows: Any) -> None:
    nothing = REJECTED_SCHEMA.empty_table()
    assert Lake(where.lake_dir).append(source, expected=0, offset=1, interactions=rows, rejected=nothing)


def test_focus_rows_of_two_days_keep_the_rules(
    where: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "focus.csv"
    assert export_costs(where, "focus", WINDOW, out, "acct") == 0
    assert capsys.readouterr().out == f"{out}: FOCUS 1.3, 4 rows, 0.013 USD for 2 calls\n"
    assert check_focus_file(out) == ()
    with out.open(newline="") as file:
        assert sum(Decimal(row["BilledCost"]) for row in csv.DictReader(file)) == Decimal("0.013")


def test_what_has_no_price_is_said_and_tells_in_the_exit_code(
    where: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(where, "new", as_table([call("?", model="nope")]))
    assert export_costs(where, "focus", WINDOW, tmp_path / "focus.parquet") == 3
    assert capsys.readouterr().out.splitlines()[1:] == [
        "left out, for their cost is not known: 1 calls of 'nope' by 'openai'"
    ]
    assert export_costs(where, "parquet", WINDOW, tmp_path / "rollup.parquet") == 3
    table = pq.read_table(tmp_path / "rollup.parquet")
    assert table["cost_usd"].to_pylist() == [Decimal("0.0065"), None, Decimal("0.0065")]
    assert capsys.readouterr().out.endswith("3 lines, 0.013 USD, 1 calls unpriced\n")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("xlsx", "a.xlsx", "format: 'xlsx' is not allowed; allowed: focus, csv, parquet"),
        ("csv", "a.parquet", r"output file: 'a\.parquet' is not allowed; allowed: a name that ends in \.csv"),
        ("focus", "a.txt", r"output file: 'a\.txt' is not allowed"),
    ],
)
def test_what_cannot_be_written_is_refused(where: Settings, tmp_path: Path, kind: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_costs(where, kind, WINDOW, tmp_path / name)


def report(tmp_path: Path, usd: str, model: str = "m") -> Path:
    start = int(datetime(2025, 6, 2, tzinfo=UTC).timestamp())

    def result(value: str, part: str) -> dict[str, Any]:
        amount = {"value": value, "currency": "usd"}
        return {"object": "organization.costs.result", "amount": amount, "line_item": f"{model}, {part}"}

    bucket = {
        "start_time": start,
        "end_time": start + 86400,
        "results": [result("0.005", "input"), result(usd, "output")],
    }
    path = tmp_path / "costs.json"
    path.write_text(json.dumps([bucket]))
    return path


def test_a_bill_that_agrees_and_one_that_does_not(
    where: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reconcile_costs(where, [report(tmp_path, "0.0015")], "openai") == 0
    assert "ours 0.0065 USD, the provider's 0.0065 USD; 2 lines match" in capsys.readouterr().out
    assert reconcile_costs(where, [report(tmp_path, "0.5", "m-1")], "openai", ["m-1=m"]) == 3
    shown = capsys.readouterr().out
    assert "amount differs: 0.4985 USD; give the usage report, too" in shown
    with pytest.raises(InputError, match="alias: 'm-1' is not allowed; allowed: THEIRS=OURS"):
        reconcile_costs(where, [report(tmp_path, "0.5")], "openai", ["m-1"])
