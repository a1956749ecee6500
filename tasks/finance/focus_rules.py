"""Whether a file keeps the rules of FOCUS: names, nulls, values, formats, and costs that are price times quantity."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Final

from tasks.errors import InputError
from tasks.finance.focus_columns import (
    AI_SUBCATEGORIES,
    COLUMNS,
    OTHER_COLUMNS,
    PRICED,
    PRODUCTS,
    TOGETHER,
    VERSIONS,
    Column,
    Version,
)

_NUMBER: Final = re.compile(r"-?(\d+(\.\d*)?|\.\d+)")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_CUSTOM: Final = re.compile(r"x_[A-Za-z0-9_]+")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_UNIT: Final = re.compile(r"(\d+ )?[A-Za-z][A-Za-z]*(-[A-Z][A-Za-z]*)*(/(\d+ )?[A-Z][a-z]+)?")
_NULLS: Final = frozenset({"", "NULL"})
_HUGE: Final = 200
Row = Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One rule that a file breaks.

    Attributes:
        column: Where.
        rule: What the specification demands, or with ``should`` what it recommends.
        row: The first row that breaks it, from 1, the header not counted; None of a rule on columns.
        value: What stands there; None is null.
        times: How many rows break it.
    """

    column: str
    rule: str
    row: int | None = None
    value: str | None = None
    times: int = 1

    @property
    def is_demanded(self) -> bool:
        """Whether the specification demands it and does not only recommend it."""
        return not self.rule.startswith("should")

    def describe(self) -> str:
        """Return it in one line, for people."""
        if self.row is None:
            return f"{self.column}: {self.rule}"
        return f"{self.column}: {self.rule} (was {self.value!r:.80} in row {self.row}, {self.times} rows)"


def check_focus_file(path: Path, version: Version = "1.3") -> tuple[Problem, ...]:
    """Return every rule that a CSV file breaks; nothing where it keeps all of them.

    Args:
        path: With a header; an empty cell and ``NULL`` are null.
        version: Whose columns.

    Raises:
        InputError: It cannot be read, or has no header.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = next(reader, [])
            rows = [_row(names, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}; export it again") from error
    if not names:
        raise InputError(f"{path}: it has no header; export it again")
    return check_focus(names, rows, version)


def check_focus(names: Sequence[str], rows: Sequence[Row], version: Version = "1.3") -> tuple[Problem, ...]:
    """Return every rule that rows break, each once with the first row.

    Args:
        names: The columns.
        rows: Texts; None is null.
        version: Whose columns.
    """
    present = [COLUMNS[name] for name in names if name in VERSIONS[version][0]]
    parents: dict[str, str | None] = {}
    broken: dict[tuple[str, str], Problem] = {}
    for number, row in enumerate(rows, start=1):
        for column, rule in _check_row(present, row, parents):
            first = broken.get((column, rule))
            value = row.get(column)
            broken[column, rule] = (
                replace(first, times=first.times + 1)
                if first
                else Problem(column=column, rule=rule, row=number, value=value)
            )
    return (*_check_names(names, version), *broken.values())


def _check_names(names: Sequence[str], version: Version) -> Iterator[Problem]:
    known, needed = VERSIONS[version]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(column=name, rule="stands twice")
    for name in sorted(needed - set(names)):
        yield Problem(column=name, rule=f"is missing; version {version} demands it")
    for name in names:
        if name not in known | OTHER_COLUMNS and not _CUSTOM.fullmatch(name or ""):
            yield Problem(column=name, rule=f"is no column of version {version}; custom ones begin with x_")


def _check_row(present: Sequence[Column], row: Row, parents: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    if any(column.name not in row for column in present):
        yield "row", "must have as many cells as the header"
        return
    bad = set()
    for column in present:
        problem = _check_value(column, row[column.name])
        if problem:
            bad.add(column.name)
            yield column.name, problem
    names = {column.name for column in present} - bad
    yield from _check_nulls(names, row)
    yield from _check_periods(names, row)
    yield from _check_products(names, row)
    yield from _check_sku(names, row, parents)


def _check_value(column: Column, value: str | None) -> str | None:
    if value is None:
        return None if column.nullable else "must not be null"
    if column.allowed and value not in column.allowed:
        return f"must be one of {', '.join(column.allowed)}"
    if column.kind == "decimal":
        if not _NUMBER.fullmatch(value):
            return "must be a plain decimal number"
        return "must not be negative" if column.non_negative and Decimal(value) < 0 else None
    if column.kind == "datetime":
        return None if _is_moment(value) else "must be UTC as 2025-01-31T00:00:00Z"
    if column.kind == "json":
        return None if _is_flat(value) else "must be a JSON object of texts, numbers, booleans and nulls"
    if column.name == "BillingCurrency" and not _CURRENCY.fullmatch(value):
        return "must be a code of ISO 4217"
    if column.name in {"PricingUnit", "ConsumedUnit"} and not _UNIT.fullmatch(value):
        return "should be a unit such as Tokens or 1000000 Tokens"
    return None


def _check_nulls(names: set[str], row: Row) -> Iterator[tuple[str, str]]:
    category, corrects = row.get("ChargeCategory"), row.get("ChargeClass") == "Correction"
    for name in (name for name in PRICED if name in names):
        if category == "Tax" and row[name] is not None:
            yield name, "must be null on a tax"
        if category in {"Usage", "Purchase"} and not corrects and row[name] is None:
            yield name, f"must not be null on {category}"
        if name != "SkuPriceId" and "SkuPriceId" in names and row["SkuPriceId"] is None and row[name] is not None:
            yield name, "must be null where SkuPriceId is"
    for first, second in TOGETHER:
        if {first, second} <= names and (row[first] is None) != (row[second] is None):
            yield second, f"must be null where {first} is, and only there"
    yield from _check_consumed(names, row, category, corrects=corrects)


def _check_sku(names: set[str], row: Row, parents: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    price = row["SkuPriceId"] if {"SkuId", "SkuPriceId"} <= names else None
    if price is not None and parents.setdefault(price, row["SkuId"]) != row["SkuId"]:
        yield "SkuPriceId", "must have one SkuId only"
    if {"SkuId", "SkuMeter"} <= names and row["SkuId"] is None and row["SkuMeter"] is not None:
        yield "SkuMeter", "must be null where SkuId is"
    ai = row.get("ServiceCategory") == "AI and Machine Learning"
    if "ServiceSubcategory" in names and (row["ServiceSubcategory"] in AI_SUBCATEGORIES) != ai:
        yield "ServiceSubcategory", "must be one of its ServiceCategory"


def _check_consumed(names: set[str], row: Row, category: str | None, *, corrects: bool) -> Iterator[tuple[str, str]]:
    if "ConsumedQuantity" not in names:
        return
    unused = row.get("CommitmentDiscountStatus") == "Unused"
    if (category != "Usage" or unused) and row["ConsumedQuantity"] is not None:
        yield "ConsumedQuantity", "must be null where nothing is used"
    if category == "Usage" and not unused and not corrects and row["ConsumedQuantity"] is None:
        yield "ConsumedQuantity", "must not be null on Usage"


def _check_periods(names: set[str], row: Row) -> Iterator[tuple[str, str]]:
    for period in ("Charge", "Billing"):
        start, end = f"{period}PeriodStart", f"{period}PeriodEnd"
        if {start, end} <= names and not (row[start] or "") < (row[end] or ""):
            yield end, f"must be after {start}"


def _check_products(names: set[str], row: Row) -> Iterator[tuple[str, str]]:
    quantity = row.get("PricingQuantity")
    for cost, price in PRODUCTS:
        if not {cost, price} <= names or quantity is None or row[price] is None:
            continue
        with localcontext(prec=_HUGE):
            product, written = Decimal(row[price] or 0) * Decimal(quantity), Decimal(row[cost] or 0)
            digit = Decimal(1).scaleb(int(written.as_tuple().exponent))
        if abs(product - written) * 2 > digit:
            yield cost, f"must be {price} times PricingQuantity"


def _is_moment(value: str) -> bool:
    if not _MOMENT.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_flat(value: str) -> bool:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    try:
        found = json.loads(value, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and not any(isinstance(item, dict | list) for item in found.values())


def _row(names: Sequence[str], cells: Sequence[str]) -> Row:
    """Return a row by its columns; nothing where it has another number of cells."""
    return {name: _null(cell) for name, cell in zip(names, cells, strict=True)} if len(cells) == len(names) else {}


def _null(value: str | None) -> str | None:
    return None if value in _NULLS else value
