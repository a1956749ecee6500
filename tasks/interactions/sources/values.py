"""Single values of a source's document, read strictly; what is refused is named by its field and never repeated."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from hashlib import sha256
from typing import Any, NoReturn

from tasks.errors import InputError

PUSD_DIGITS = 12
"""Decimal places of a US dollar that are kept: a pico-USD."""
_LARGEST_USD = 9_000_000
_LARGEST_COUNT = 2**53
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)


def refuse(field: str, problem: str) -> NoReturn:
    """Refuse a field.

    Raises:
        InputError: Always; it names the field and the problem, and not what stood there.
    """
    raise InputError(f"{field}: {problem}")


def decode(document: bytes) -> Any:
    """Return a JSON document with its fractions as exact decimals.

    Raises:
        InputError: It is no JSON in UTF-8, or holds a number or a text that does not exist.
    """
    try:
        value = json.loads(document, parse_float=Decimal, parse_constant=lambda _: refuse("document", "NaN, Infinity"))
    except json.JSONDecodeError as error:
        raise InputError(f"document: is no JSON; it breaks at character {error.pos}") from error
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise InputError("document: is no JSON in UTF-8, is nested too deep, or holds a number too large") from error
    if b"\\ud" in document or b"\\uD" in document:
        _refuse_half_pairs(value)
    return value


def _refuse_half_pairs(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise InputError("document: holds half of a surrogate pair, which is no text") from error


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON: the same content has the same digest.

    >>> digest({"a": 1, "b": Decimal("2.50")}) == digest({"b": Decimal("2.50"), "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain, ensure_ascii=True)
    return sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, as hex digits."""
    return sha256(text.encode()).hexdigest()


def dig(value: Any, *names: str) -> Any:
    """Return what stands under a path of names; None where the path ends early.

    Raises:
        InputError: Something on the path is no object.
    """
    for depth, name in enumerate(names):
        if value is None:
            return None
        if not isinstance(value, dict):
            refuse(".".join(names[:depth]) or "document", "must be an object")
        value = value.get(name)
    return value


def first_item(value: Any) -> Any:
    """Return the first item of a list, None of an empty one or of anything else."""
    return value[0] if isinstance(value, list) and value else None


def text(value: Any, field: str) -> str | None:
    """Return a text; None where it is unknown or empty.

    Raises:
        InputError: It is something else.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        refuse(field, "must be a text")
    return str(value)


def identity(value: Any, field: str) -> str | None:
    """Return an id or a name, which some sources write as a whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(value, field)


def count(value: Any, field: str) -> int | None:
    """Return a count; None where it is unknown.

    Raises:
        InputError: It is no whole number from 0 to 2**53.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_COUNT:
        refuse(field, "must be a whole number from 0 to 2**53")
    return int(value)


def decimal(value: Any, field: str) -> Decimal | None:
    """Return a number, as decimals or as the text of one; None where it is unknown.

    Raises:
        InputError: It is none, or none that is finite.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        refuse(field, "must be a number")
    try:
        number = Decimal(value)
    except (ArithmeticError, ValueError):
        refuse(field, "must be a number")
    if not number.is_finite():
        refuse(field, "must be a finite number")
    return number


def pusd(value: Any, field: str) -> int | None:
    """Return US dollars as pico-USD, from their decimal text; what is finer than that is rounded half to even.

    >>> pusd(Decimal("0.00022500000000000002"), "cost")
    225000000
    """
    number = decimal(value, field)
    if number is None:
        return None
    if not -_LARGEST_USD <= number <= _LARGEST_USD:
        refuse(field, f"must be at most {_LARGEST_USD} USD")
    return int(number.scaleb(PUSD_DIGITS, context=_EXACT).quantize(Decimal(1), context=_EXACT))


def milliseconds(value: Any, field: str, *, per_unit: int = 1) -> float | None:
    """Return a duration in milliseconds.

    Args:
        value: How many units.
        field: Its name.
        per_unit: Milliseconds in a unit; 1000 for seconds.
    """
    number = decimal(value, field)
    return None if number is None else float(number) * per_unit


def moment(value: Any, field: str) -> datetime | None:
    """Return a time: ISO 8601, UTC where it names no zone, or seconds since 1970.

    Raises:
        InputError: It is neither.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            read = datetime.fromisoformat(value)
            # Moved to UTC at once: a zone may carry a year out of the range that dates have.
            return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
        number = decimal(value, field)
        if number is not None and abs(number) < 2**40:
            return _EPOCH + timedelta(microseconds=int(number * 1_000_000))
    except (ValueError, OverflowError):
        pass
    return refuse(field, "must be a time in ISO 8601, or seconds since 1970")


def moment_ns(value: Any, field: str) -> int | None:
    """Return nanoseconds since 1970, which some sources write as a text; None for 0, which stands for unknown."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < len(str(2**64)):
        value = int(value)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        refuse(field, "must be nanoseconds since 1970")
    return int(value) or None


def from_ns(value: int) -> datetime:
    """Return a time from nanoseconds since 1970, cut to microseconds."""
    return _EPOCH + timedelta(microseconds=value // 1000)


def elapsed_ms(start: datetime | None, end: datetime | None) -> float | None:
    """Return the time between two moments, milliseconds; None where one is unknown."""
    return None if start is None or end is None else (end - start) / timedelta(milliseconds=1)


def first_of(values: Iterable[Any]) -> Any:
    """Return the first value that is known."""
    return next((value for value in values if value is not None and value != ""), None)
