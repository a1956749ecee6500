"""What people's labels came to, as rows of the lake: calibrations of the quality, and the agreement of judges."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from tasks.errors import InputError
from tasks.judging.agreement import MIN_PAIRS, Interval, measure_kappa
from tasks.scoring.calibration import Calibration
from tasks.scoring.quality import JUDGE_VERSION

CALIBRATIONS: Final = "calibrations"
AGREEMENTS: Final = "agreements"
QUALITY: Final = f"quality {JUDGE_VERSION}"
"""What is calibrated: a score and its version."""
_UTC: Final = pa.timestamp("us", tz="UTC")
CALIBRATIONS_SCHEMA: Final = pa.schema(
    [
        pa.field("application", pa.string(), nullable=False),
        pa.field("score", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("made", _UTC, nullable=False),
        pa.field("content", pa.string(), nullable=False),
    ]
)
"""One row for each named calibration; ``content`` is the JSON of a ``Calibration``, numbers only."""
AGREEMENTS_SCHEMA: Final = pa.schema(
    [
        pa.field("application", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("made", _UTC, nullable=False),
        pa.field("kappa", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("statement", pa.string(), nullable=False),
    ]
)
"""One row for each judge and check; ``identity`` is the digest of the judge that was asked, and empty for a check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCalibration:
    """A calibration as the lake keeps it.

    Attributes:
        name: What people call it.
        made: When it was stored, UTC.
        calibration: The curve.
    """

    name: str
    made: datetime
    calibration: Calibration

    @property
    def label(self) -> str:
        """The name and the first digits of the digest."""
        return f"{self.name} ({self.calibration.digest[:12]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far a judge or a check says what people say.

    Attributes:
        name: ``judge:helpful``, ``check:refusal``, ``quality``.
        identity: Digest of the judge, empty for what has none.
        kappa: None where there is none.
        statement: It, or why there is none.
        n: Answers that both have judged.
    """

    name: str
    identity: str
    kappa: Interval | None
    statement: str
    n: int


def compare_labels(name: str, identity: str, said: Sequence[bool | None], labels: Sequence[bool]) -> Agreement:
    """Return how far something agrees with people.

    Args:
        name: What is compared.
        identity: Digest of the judge, or empty.
        said: Whether it calls each answer good; None where it does not know.
        labels: Whether people do.
    """
    pairs: list[tuple[Hashable, Hashable]] = [
        (one, other) for one, other in zip(said, labels, strict=True) if one is not None
    ]
    n = len(pairs)
    if n < MIN_PAIRS:
        words = f"{n} labelled answers in common < minimum {MIN_PAIRS}"
        return Agreement(name=name, identity=identity, kappa=None, statement=words, n=n)
    kappa = measure_kappa([one for one, _ in pairs], [other for _, other in pairs])
    words = "both say one and the same of all answers" if kappa is None else f"kappa {kappa.words}"
    return Agreement(name=name, identity=identity, kappa=kappa, statement=words, n=n)


def calibration_row(application: str, name: str, calibration: Calibration, now: datetime) -> pa.Table:
    """Return a calibration as the one row of ``CALIBRATIONS_SCHEMA``."""
    row = {
        "application": application,
        "score": calibration.score,
        "name": name,
        "digest": calibration.digest,
        "made": now,
        "content": calibration.model_dump_json(),
    }
    return pa.Table.from_pylist([row], schema=CALIBRATIONS_SCHEMA)


def latest_calibration(rows: pa.Table | None) -> StoredCalibration | None:
    """Return the calibration that was stored last, None if there is none.

    Raises:
        InputError: It is not what was stored.
    """
    if rows is None or rows.num_rows == 0:
        return None
    last = max(rows.to_pylist(), key=lambda row: (row["made"], row["digest"]))
    try:
        found = Calibration.model_validate_json(last["content"])
    except ValidationError as error:
        raise InputError(f"calibration {last['name']}: it is not one of this version; calibrate again") from error
    if found.digest != last["digest"]:
        raise InputError(f"calibration {last['name']}: its digest is not that of its content; calibrate again")
    return StoredCalibration(name=last["name"], made=last["made"], calibration=found)


def agreement_row(application: str, found: Agreement, now: datetime) -> pa.Table:
    """Return an agreement as the one row of ``AGREEMENTS_SCHEMA``."""
    kappa = found.kappa
    row = {
        "application": application,
        "name": found.name,
        "identity": found.identity,
        "made": now,
        "kappa": kappa and kappa.value,
        "low": kappa and kappa.low,
        "high": kappa and kappa.high,
        "n": found.n,
        "statement": found.statement,
    }
    return pa.Table.from_pylist([row], schema=AGREEMENTS_SCHEMA)


def read_agreements(rows: pa.Table | None) -> dict[tuple[str, str], str]:
    """Return what is known of the agreement with people, in words, by name and identity."""
    return {(row["name"], row["identity"]): row["statement"] for row in (rows.to_pylist() if rows is not None else ())}


def spread_curve(calibration: Calibration, scores: NDArray[np.float64]) -> tuple[float, float]:
    """Return between which means the curve allows the mean of the calibrated scores to lie, by 90 % of resampled fits.

    It is wider than needed: the curve is taken to be at its bound everywhere at once.
    """
    known = scores[~np.isnan(scores)]
    low, high = (np.interp(known, calibration.grid, bound) for bound in (calibration.low, calibration.high))
    return float(low.mean()), float(high.mean())
