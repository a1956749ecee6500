"""Costs as FOCUS 1.3 rows at token grain: a day, an owner, a model, a tier and one kind of tokens a row.

A call without a cost has no row, because FOCUS knows no cost that is unknown and 0 would be a lie; how many there are
is said beside. The sum of BilledCost is the rollup's cost to the last digit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import Any, Final

import duckdb
import pyarrow as pa

from tasks.costs.rates import PARTS, PUSD_PER_USD, TOKENS_PER_MTOK
from tasks.costs.usage import KEYS
from tasks.finance.focus_columns import COLUMNS

VERSION: Final = "1.3"
MONEY: Final = pa.decimal128(38, 12)
PRICE: Final = pa.decimal128(38, 24)
QUANTITY: Final = pa.decimal128(38, 6)
METERS: Final = {
    "input": "Input Tokens",
    "cache_read": "Cache Read Input Tokens",
    "cache_write": "Cache Write Input Tokens",
    "cache_write_1h": "Cache Write 1 Hour Input Tokens",
    "audio_input": "Audio Input Tokens",
    "cached_audio_input": "Cached Audio Input Tokens",
    "output": "Output Tokens",
    "reasoning": "Reasoning Output Tokens",
    "audio_output": "Audio Output Tokens",
    "request": "Requests",
    "other": "Other Units",
}
"""What each part of a bill is called as SkuMeter."""
_UNITS: Final = {"request": "Requests", "other": "Units"}
_DIGITS: Final = 24
_PREC: Final = 120
_UNKNOWN: Final = "unknown"
_CUSTOM: Final = (
    *("x_TokenType", "x_CostStatus", "x_Application", "x_Team", "x_ReleaseDigest", "x_ServiceTier", "x_PriceLayer"),
    *("x_PriceSha256", "x_ListPriceIsKnown"),
)
_WRITTEN: Final = (*(name for name in COLUMNS if name not in {"CommitmentDiscountStatus", "SubAccountName"}), *_CUSTOM)
_TYPES: Final = {
    **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), MONEY),
    **dict.fromkeys(("ListUnitPrice", "ContractedUnitPrice"), PRICE),
    **dict.fromkeys(("PricingQuantity", "ConsumedQuantity"), QUANTITY),
    **{f"{kind}Period{end}": pa.timestamp("us", "UTC") for kind in ("Charge", "Billing") for end in ("Start", "End")},
    "x_ListPriceIsKnown": pa.bool_(),
}
FOCUS_SCHEMA: Final = pa.schema([pa.field(name, _TYPES.get(name, pa.string())) for name in _WRITTEN])
"""The columns of the export, in this order."""
_GROUP: Final = (
    *("date_utc", "application", "release_digest", "provider", "model", "team", "service_tier", "tags"),
    *("cost_status", "price_layer", "price_sha256", "min_input_tokens"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FocusExport:
    """Rows of ``FOCUS_SCHEMA``, and what they leave out.

    Attributes:
        cost_pusd: The sum of BilledCost, pico-USD.
        calls: How many calls are in the rows, with those that were refused and cost nothing.
        left_out: Calls without a cost, by provider and model.
    """

    table: pa.Table
    cost_pusd: int
    calls: int
    left_out: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One part of one group of calls; prices are pico-USD for one, exact, None where nothing says."""

    name: str
    count: int
    pusd: int
    price: Fraction | None
    listed: Fraction | None


def export_focus(connection: duckdb.DuckDBPyConnection, billing_account: str = _UNKNOWN) -> FocusExport:
    """Return the calls of the view ``priced`` of a connection as FOCUS rows.

    Args:
        connection: Where ``price_calls`` made the view and its table of rates.
        billing_account: The account at the provider; the interaction log does not know it.

    Returns:
        Rows in a fixed order; the same calls at the same prices give the same bytes.
    """
    found = connection.sql(_sql())
    rows: list[dict[str, Any]] = []
    cost, calls = 0, 0
    for values in found.fetchall():
        row = dict(zip(found.columns, values, strict=True))
        calls += row["calls"]
        for part in _parts(row):
            cost += part.pusd
            rows.append(_row(row, part, billing_account))
    left = connection.sql(_LEFT_OUT).fetchall()
    table = pa.Table.from_pylist(rows, schema=FOCUS_SCHEMA)
    return FocusExport(table=table, cost_pusd=cost, calls=calls, left_out=tuple(left))


def _sql() -> str:
    on = " AND ".join(f"p.{name} IS NOT DISTINCT FROM r.{name}" for name in KEYS)
    group = ", ".join(f"p.{name}" if name != "min_input_tokens" else f"r.{name}" for name in _GROUP)
    sums = ", ".join(f"sum({part}_count) AS {part}_count, sum({part}_pusd) AS {part}_pusd" for part in PARTS)
    sides = ("rate", "list")
    rates = [f"any_value(r.{side}_{part}) AS {side}_{part}" for side in sides for part in (*PARTS[:-1], "tokens")]
    return f"""
    SELECT {group}, count(*) AS calls, any_value(r.has_list) AS has_list, {", ".join(rates)}, {sums}
    FROM priced p LEFT JOIN rates r
    ON {on} AND coalesce(p.input_tokens, 0) BETWEEN r.min_input_tokens AND r.max_input_tokens
    WHERE p.cost_pusd IS NOT NULL GROUP BY {group} ORDER BY {group}"""  # noqa: S608 -- own names


_LEFT_OUT: Final = """
SELECT coalesce(provider, 'unknown'), coalesce(model, 'unknown'), count(*) FROM priced WHERE cost_pusd IS NULL
GROUP BY ALL ORDER BY ALL
"""


def _parts(row: Mapping[str, Any]) -> list[_Part]:
    found = []
    for name in PARTS:
        count, pusd = int(row[f"{name}_count"] or 0), int(row[f"{name}_pusd"] or 0)
        price = _exact(row, "rate", name)
        # A call is one request everywhere; it is a charge only where requests have a price.
        if pusd == 0 and (count == 0 or (name == "request" and not price)):
            continue
        found.append(_Part(name=name, count=count, pusd=pusd, price=price, listed=_exact(row, "list", name)))
    return found


def _exact(row: Mapping[str, Any], side: str, part: str) -> Fraction | None:
    per = row[f"{side}_tokens"]
    if part == PARTS[-1] or not per or (side == "list" and not row["has_list"]):
        return None
    return Fraction(int(row[f"{side}_{part}"]), int(per))


def _row(row: Mapping[str, Any], part: _Part, account: str) -> dict[str, Any]:
    provider, model = row["provider"] or _UNKNOWN, row["model"] or _UNKNOWN
    day: date = row["date_utc"]
    billed = _usd(Fraction(part.pusd))
    return {
        **_periods(day),
        **_prices(part, billed),
        **_sku(row, part, provider, model),
        "BilledCost": billed,
        "EffectiveCost": billed,
        "ContractedCost": billed,
        "BillingAccountId": account,
        "BillingAccountName": None,
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"{METERS[part.name]} of {model} for {row['application']}",
        "ChargeFrequency": "Usage-Based",
        **dict.fromkeys(("HostProviderName", "InvoiceIssuerName", "ProviderName", "PublisherName"), provider),
        "ServiceProviderName": provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": f"{provider} models",
        "SubAccountId": row["team"],
        "Tags": _tags(row["tags"]),
        "x_TokenType": part.name,
        "x_CostStatus": row["cost_status"],
        "x_Application": row["application"],
        "x_Team": row["team"],
        "x_ReleaseDigest": row["release_digest"],
        "x_ServiceTier": row["service_tier"],
        "x_PriceLayer": row["price_layer"],
        "x_PriceSha256": row["price_sha256"],
    }


def _periods(day: date) -> dict[str, datetime]:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    month = start.replace(day=1)
    return {
        "ChargePeriodStart": start,
        "ChargePeriodEnd": start + timedelta(days=1),
        "BillingPeriodStart": month,
        "BillingPeriodEnd": (month + timedelta(days=31)).replace(day=1),
    }


def _prices(part: _Part, billed: Decimal) -> dict[str, Any]:
    """Return quantities and prices: each cost is its price times the quantity, to the cost's last digit."""
    unit = _UNITS.get(part.name, "Tokens")
    block = TOKENS_PER_MTOK if unit == "Tokens" else 1
    quantity = Fraction(part.count, block)
    paid = Fraction(part.pusd, part.count) if part.count else Fraction(part.pusd)
    # Calls are rounded one by one; where that shows, the price is what one really cost.
    contracted = part.price if part.price is not None and part.price * part.count == part.pusd else paid
    listed = contracted if part.listed is None else part.listed
    return {
        "PricingQuantity": _decimal(quantity, 6),
        "PricingUnit": unit if block == 1 else f"{block} {unit}",
        "ConsumedQuantity": Decimal(part.count),
        "ConsumedUnit": unit,
        "PricingCategory": "Standard",
        "ContractedUnitPrice": _decimal(contracted * block / PUSD_PER_USD, _DIGITS),
        "ListUnitPrice": _decimal(listed * block / PUSD_PER_USD, _DIGITS),
        "ListCost": billed if part.listed is None else _usd(listed * part.count),
        "x_ListPriceIsKnown": part.listed is not None,
    }


def _sku(row: Mapping[str, Any], part: _Part, provider: str, model: str) -> dict[str, str]:
    tier, low = row["service_tier"], row["min_input_tokens"] or 0
    details = {"x_Model": model, "x_ServiceTier": tier, "x_TokenType": part.name, "x_MinInputTokens": low}
    sku = f"{provider}/{model}/{part.name}"
    return {
        "SkuId": sku,
        "SkuMeter": METERS[part.name],
        "SkuPriceId": f"{sku}/{tier}/{low}",
        "SkuPriceDetails": json.dumps(details, ensure_ascii=False, sort_keys=True),
    }


def _tags(tags: Sequence[str] | None) -> str | None:
    """Return tags as FOCUS wants them: a key once, its first value; a tag without a value is true."""
    if not tags:
        return None
    found: dict[str, str | bool] = {}
    for tag in tags:
        name, equals, value = tag.partition("=")
        found.setdefault(name, value if equals else True)
    return json.dumps(found, ensure_ascii=False, sort_keys=True)


def _usd(pusd: Fraction) -> Decimal:
    return _decimal(pusd / PUSD_PER_USD, 12)


def _decimal(value: Fraction, digits: int) -> Decimal:
    with localcontext(prec=_PREC, rounding=ROUND_HALF_EVEN):
        exact = Decimal(value.numerator) / Decimal(value.denominator)
        return exact.quantize(Decimal(1).scaleb(-digits))
