"""Rows of any table, by a file that declares which column holds what, in which unit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.documents import describe, read_document
from tasks.interactions.schema import Interaction
from tasks.interactions.sources.context import Context
from tasks.interactions.sources.documents import user_fields
from tasks.interactions.sources.values import count, decimal, digest, identity, moment, pusd, refuse
from tasks.interactions.sources.words import provider_name, service_tier

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS: Final = {"s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6"), "ns": Decimal("1e-9")}
_USD: Final = {"usd": Decimal(1), "usd_cents": Decimal("1e-2"), "pusd": Decimal("1e-12")}
_DURATIONS: Final = ("latency_ms", "ttft_ms")
_COUNTS: Final = (
    *("bucket", "plan_revision", "prompt_version", "status", "input_tokens", "output_tokens", "cached_input_tokens"),
    *("cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens", "audio_input_tokens"),
    *("cached_audio_input_tokens", "audio_output_tokens"),
)
_CACHED: Final = ("cached_input_tokens", "cache_write_tokens")
_NOT_MAPPED: Final = ("source", "other_usage", "tokens_estimated")
_LATEST_S: Final = 2**40


class Column(BaseModel):
    """Where a field stands in a row.

    Attributes:
        column: Its column; a dot leads into a nested object.
        unit: ``s``, ``ms``, ``us`` or ``ns`` of a time or a duration, ``usd``, ``usd_cents`` or ``pusd`` of money.
        format: How a time is written, as of ``strptime``; ISO 8601 without it. Without a zone it is UTC.
        unknown: Texts that stand for nothing known, beside an empty one and null.
        optional: A row may lack the column.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = Field(min_length=1)
    unit: Literal["s", "ms", "us", "ns", "usd", "usd_cents", "pusd"] | None = None
    format: str | None = None
    unknown: tuple[str, ...] = ()
    optional: bool = False


class Mapping(BaseModel):
    """Which columns of a table hold which fields of the log.

    Attributes:
        columns: By field of the log, or ``user``; a text is a column that needs nothing else said.
        constants: Fields that are the same in every row.
        inclusive_cache: Whether input tokens count cached ones; needed where cached tokens are mapped.
        origin: What times that are numbers count from; 1970 without it.
        identity: What tells two rows apart where no column is their id: their content, so that a row twice is a
            duplicate, or their place, so that two rows alike are two calls.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: dict[str, Column]
    constants: dict[str, str | int | bool | tuple[str, ...]] = Field(default_factory=dict)
    inclusive_cache: bool | None = None
    origin: AwareDatetime = _EPOCH
    identity: Literal["content", "place"] = "content"

    @field_validator("columns", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: {"column": held} if isinstance(held, str) else held for name, held in value.items()}

    @model_validator(mode="after")
    def _check(self) -> Mapping:
        allowed = sorted({*Interaction.model_fields, "user"} - set(_NOT_MAPPED))
        for name, held in self.columns.items():
            if name not in allowed:
                raise ValueError(f"columns.{name} is no field of the log; allowed: {', '.join(allowed)}")
            _check_unit(name, held)
        if self.inclusive_cache is None and any(name in self.columns for name in _CACHED):
            raise ValueError("inclusive_cache: say whether input tokens count the cached ones: true or false")
        if "time" not in self.columns:
            raise ValueError("columns.time is missing: say which column holds the time")
        _check_constants(self.constants)
        return self


def read_mapping(path: Path) -> Mapping:
    """Read a mapping from a YAML file.

    Raises:
        InputError: It cannot be read, or something in it is not allowed; every bad field is named.
    """
    return read_document(path, Mapping)


def items(document: Any) -> list[Any]:
    """Return the row."""
    return [document] if isinstance(document, dict) else refuse("row", "has not as many cells as there are columns")


def fields(row: dict[str, Any], context: Context) -> dict[str, Any]:
    """Return the columns of one row.

    Raises:
        InputError: A value is not what its field wants, or there is no mapping.
    """
    mapping = context.mapping or refuse("mapping", "is missing: give the file that says which column holds what")
    found: dict[str, Any] = {"status": 200, **mapping.constants}
    for name, column in mapping.columns.items():
        value = _cell(row, name, column)
        if value is not None:
            found |= _field(name, value, column, mapping)
    if mapping.inclusive_cache is False and found.get("input_tokens") is not None:
        found["input_tokens"] += sum(found.get(name) or 0 for name in _CACHED)
    if "interaction_id" not in found and mapping.identity == "place":
        place = context.place or refuse("place", "is unknown: rows that are told apart by it need it")
        found["interaction_id"] = digest({"place": place, "row": row})
    return found


def _cell(row: dict[str, Any], name: str, column: Column) -> Any:
    value: Any = row
    for part in (column.column,) if column.column in row else column.column.split("."):
        if not isinstance(value, dict) or part not in value:
            return None if column.optional else refuse(name, f"the row has no column {column.column!r}")
        value = value[part]
    return None if value in ("", *column.unknown) else value


def _field(name: str, value: Any, column: Column, mapping: Mapping) -> dict[str, Any]:
    if name == "user":
        return user_fields(identity(value, name))
    if name == "time":
        return {name: _time(value, column, mapping.origin)}
    if name == "reported_cost_pusd":
        usd = decimal(value, name)
        return {name: None if usd is None else pusd(usd * _USD[column.unit or "usd"], name)}
    if name in _DURATIONS:
        number = decimal(value, name)
        return {name: None if number is None else float(number * _SECONDS[column.unit or "ms"] * 1000)}
    if name in _COUNTS:
        return {name: _whole(value, name)}
    if name == "tags":
        return {name: tuple(value) if isinstance(value, list) else (identity(value, name),)}
    if name in {"provider", "service_tier"}:
        return {name: (provider_name if name == "provider" else service_tier)(value, name)}
    return {name: identity(value, name)}


def _whole(value: Any, name: str) -> int | None:
    number = decimal(value, name)
    if number is None or abs(number) > 2**53 or number != int(number):
        refuse(name, "must be a whole number from 0 to 2**53")
    return count(int(number), name)


def _time(value: Any, column: Column, origin: datetime) -> datetime | None:
    if column.unit:
        number = decimal(value, "time")
        seconds = Decimal(0) if number is None else number * _SECONDS[column.unit]
        if abs(seconds) > _LATEST_S:
            refuse("time", "is too far away")
        try:
            return origin + timedelta(microseconds=int(seconds * 1_000_000))
        except OverflowError:
            refuse("time", "is too far away")
    if not column.format:
        return moment(value if isinstance(value, str) else refuse("time", "is a number; say its unit"), "time")
    try:
        read = datetime.strptime(str(value), column.format)  # noqa: DTZ007 - the zone is added below
    except ValueError:
        refuse("time", "is not written in the format that was declared")
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


def _check_unit(name: str, held: Column) -> None:
    needed = tuple(_USD) if name == "reported_cost_pusd" else tuple(_SECONDS) if name in _DURATIONS else ()
    if needed and held.unit not in needed:
        raise ValueError(f"columns.{name}.unit is {held.unit!r}; allowed: {', '.join(needed)}")
    if not needed and held.unit and (name != "time" or held.unit not in _SECONDS):
        raise ValueError(f"columns.{name}.unit is {held.unit!r}, but it has no unit here")
    if held.format and (name != "time" or held.unit):
        raise ValueError(f"columns.{name}.format is for a time that has no unit")


def _check_constants(constants: dict[str, Any]) -> None:
    if "time" in constants:
        raise ValueError("constants.time is not allowed: a time is no constant")
    known = {"interaction_id": "x", "application": "x", "time": _EPOCH.replace(year=2020), "status": 200}
    try:
        Interaction.model_validate(known | constants)
    except ValidationError as error:
        raise ValueError(f"constants: {describe(error, Interaction)}") from error
