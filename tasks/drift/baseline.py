"""A baseline: what drift is measured against, in a few KB, named, versioned and told apart by its digest.

It is made once from a window and read by every evaluation since; the interactions it was made of are never read
again, except for a sample of their texts, which stays in the lake under its own retention and is found again by
window and salt (``sample.draw_sample``). Where those texts are gone, ``sketches`` remain.

Baselines of the same columns merge by adding, so shards may each make one. One that has other columns than the
window is an error that says which, never a comparison of the rest.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.drift.columns import Scan
from tasks.drift.nights import STRICT, Night, Watched, baseline_level
from tasks.drift.numeric import NumberRule, level_of, quantile_of
from tasks.drift.scan import ScanSpec, scan_relation
from tasks.drift.sketch import TextSketch, merge_sketches
from tasks.errors import InputError
from tasks.monitors.verdict import Check, Outcome

if TYPE_CHECKING:
    import duckdb

FORMAT: Final = 1
SAMPLED_UNITS: Final = 3000
"""How many users or sessions of the baseline's window the text comparison reads again."""
NIGHT_DIGITS: Final = 6
"""Decimals of what a night came to."""
NIGHT_MEASURES: Final = 3
LARGEST_BYTES: Final = 2**22
"""More than this is no baseline, whatever it unpacks to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a baseline is of.

    Attributes:
        name: As people and releases call it.
        version: From 1; the same name and version never have two contents.
        application: What users call.
        release_digest: The release that answered; None where it is of all.
        start, end: The half-open window, UTC.
        judge_version: What scored the answers; scores of another judge cannot be compared.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    version: int
    application: str
    start: datetime
    end: datetime
    release_digest: str | None = None
    judge_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBaseline:
    """A baseline as it is stored.

    Attributes:
        about: What it is of.
        scan: Its columns.
        nights: What each of its nights came to.
        sketches: Its texts, a column each.
        salt: Draws the sample of its texts.
        format: Which version of this format it was written in.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    about: About
    scan: Scan
    nights: tuple[Night, ...] = ()
    sketches: tuple[TextSketch, ...] = ()
    salt: str = ""
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the baseline as JSON; the same baseline gives the same text."""
        return TypeAdapter(StoredBaseline).dump_json(self).decode()

    def to_bytes(self) -> bytes:
        """Return the baseline compressed: a few KB."""
        return zlib.compress(self.to_json().encode(), 9)

    @property
    def digest(self) -> str:
        """SHA-256 of its JSON, 64 hex digits: what a release refers to."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> StoredBaseline:
        """Read what ``to_json`` wrote.

        Raises:
            InputError: It is no baseline of this format, or was changed by hand in a way that is not sound.
        """
        try:
            found = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(f"baseline.{place}: {first['msg']}; make the baseline anew") from error
        if found.format != FORMAT:
            raise InputError.of("baseline.format", found.format, f"{FORMAT}; make the baseline anew")
        if found.to_json() != text:
            raise InputError("baseline: it is not what this format writes; make the baseline anew")
        _check_sound(found)
        return found

    @classmethod
    def from_bytes(cls, stored: bytes, digest: str | None = None) -> StoredBaseline:
        """Read what ``to_bytes`` wrote.

        Args:
            stored: The compressed baseline.
            digest: What the release says it is; None trusts the bytes.

        Raises:
            InputError: It is no baseline, or another one than the digest names.
        """
        unpacking = zlib.decompressobj()
        try:
            text = unpacking.decompress(stored, LARGEST_BYTES).decode()
        except (zlib.error, UnicodeDecodeError) as error:
            raise InputError(f"baseline: {len(stored)} bytes that do not unpack; make the baseline anew") from error
        if not unpacking.eof:
            raise InputError(f"baseline: cut short, or more than {LARGEST_BYTES} bytes; make the baseline anew")
        found = cls.from_json(text)
        if digest is not None and found.digest != digest:
            raise InputError.of("baseline.digest", found.digest, f"{digest}, as the release says")
        return found

    def merge(self, other: StoredBaseline) -> StoredBaseline:
        """Return the baseline of both; no user or session may be in both.

        Raises:
            InputError: They are of other columns, applications or judges, or have a night in common.
        """
        mine, theirs = ((item.about.application, item.about.judge_version) for item in (self, other))
        if mine != theirs:
            raise InputError.of("baseline.about", theirs, f"{mine}")
        days = {night.day for night in self.nights} & {night.day for night in other.nights}
        if days:
            raise InputError.of("baseline.nights", min(days).isoformat(), "nights that the other does not have")
        start, end = min(self.about.start, other.about.start), max(self.about.end, other.about.end)
        return replace(
            self,
            about=replace(self.about, start=start, end=end),
            scan=self.scan.merge(other.scan),
            nights=tuple(sorted((*self.nights, *other.nights), key=lambda night: night.day)),
            sketches=merge_sketches(self.sketches, other.sketches),
        )

    def check_schema(self, current: Scan, judge_version: str | None = None) -> Check:
        """Say whether a window can be held against this baseline.

        Args:
            current: The window.
            judge_version: What scored its answers.

        Returns:
            A pass, or an error that names what differs: nothing may be compared then.
        """
        mine, theirs = dict(self.scan.schema), dict(current.schema)
        faults = [f"it has no {name}" for name in theirs if name not in mine]
        faults += [f"the window has no {name}" for name in mine if name not in theirs]
        faults += [f"{name} is a {mine[name]} there" for name in mine if theirs.get(name, mine[name]) != mine[name]]
        if judge_version != self.about.judge_version:
            faults.append(f"its judge is {self.about.judge_version}, the window's {judge_version}")
        label = f"baseline {self.about.name} v{self.about.version}"
        words = f"{label}: {'; '.join(faults)}; make it anew" if faults else f"{label} has the window's columns"
        outcome = Outcome.ERROR if faults else Outcome.PASS
        statement = f"drift: {words} (n={current.n})"
        return Check(monitor="drift", outcome=outcome, statement=statement, value=None, limit=None, n=current.n)

    def rule(
        self, watched: tuple[Watched, ...], categories: tuple[str, ...], *, weekend: bool, alpha: float = 0.01
    ) -> NumberRule:
        """Return how a window of a day type is held against this baseline, with what it knows of its nights.

        Args:
            watched: The columns of numbers.
            categories: The columns of words.
            weekend: Whether the window is a Saturday or a Sunday.
            alpha: The chance that anything fails while nothing is wrong, 0 to 1.
        """
        rule = NumberRule(watched=watched, categories=categories, alpha=alpha)
        known: dict[tuple[str, str], float] = {}
        for item in watched:
            for measure, metric in (("mean", item.name), ("p50", item.name), ("p95", p95_of(item.name))):
                level = baseline_level(self.nights, metric, weekend=weekend)
                if level is not None:
                    known[item.name, measure] = _prediction_sd(level, rule.level)
        return replace(rule, night_sd=known, knows_nights=len(known) == NIGHT_MEASURES * len(watched))


def p95_of(column: str) -> str:
    """Return the name of a night's metric: the 95th percentile of a column."""
    return f"{column} p95"


def make_night(day: date, scan: Scan, watched: Sequence[Watched], more: Sequence[tuple[str, float]] = ()) -> Night:
    """Return what a night came to.

    Args:
        day: The UTC day.
        scan: Its counts.
        watched: The columns whose mean (by its name) and 95th percentile (``p95_of``) are told.
        more: Further metrics, for example shares of failed calls or the AUC of its texts.
    """
    levels = [(item.name, level_of(scan.number(item.name), item)) for item in watched]
    levels += [(p95_of(item.name), quantile_of(scan.number(item.name), item, 0.95)) for item in watched]
    known = [(name, round(level, NIGHT_DIGITS)) for name, level in levels if level is not None]
    return Night(day=day, n=scan.n, values=tuple(sorted((*known, *more))))


def make_baseline(
    relation: duckdb.DuckDBPyRelation,
    spec: ScanSpec,
    about: About,
    *,
    sketches: tuple[TextSketch, ...] = (),
    more: Sequence[tuple[date, tuple[tuple[str, float], ...]]] = (),
) -> StoredBaseline:
    """Make a baseline from the interactions of a window.

    Args:
        relation: The answered interactions, with the columns of the spec and ``date_utc``.
        spec: Which columns it keeps.
        about: What it is of.
        sketches: Of its texts.
        more: Further metrics a day, see ``make_night``.

    Raises:
        InputError: A column is missing, a value is below 0, or there is no interaction.
    """
    scan = scan_relation(relation, spec)
    if not scan.n:
        raise InputError.of("baseline window", f"{about.start.isoformat()} to {about.end.isoformat()}, empty", "any")
    days = [row[0] for row in relation.project("date_utc").distinct().order("date_utc").fetchall()]
    extra, plain = dict(more), replace(spec, segments=())
    nights = tuple(
        make_night(
            day, scan_relation(relation.filter(f"date_utc = DATE '{day}'"), plain), spec.numbers, extra.get(day, ())
        )
        for day in days
    )
    return StoredBaseline(
        about=about, scan=scan, nights=nights, sketches=sketches, salt=f"{about.name} v{about.version}"
    )


def _prediction_sd(level: tuple[float, float, int], tail: float) -> float:
    """Return the standard deviation that makes a normal interval as wide as the prediction interval of few nights."""
    from scipy import stats

    _, deviation, nights = level
    widening = float(stats.t.isf(tail / 2, nights - 1) / stats.norm.isf(tail / 2))
    return deviation * math.sqrt(1 + 1 / nights) * widening


def _check_sound(baseline: StoredBaseline) -> None:
    for item in baseline.sketches:
        item.read()
    scan = baseline.scan
    numbers: list[tuple[str, tuple[tuple[Any, int], ...], float]] = [
        (item.name, item.histogram.bins, item.effective_n) for item in scan.numbers
    ]
    words = [(item.name, item.categories.counts, item.effective_n) for item in scan.categories]
    for name, counts, effective in (*numbers, *words):
        n = sum(count for _, count in counts)
        in_order = counts == tuple(sorted(dict(counts).items())) and all(count > 0 for _, count in counts)
        if not in_order or not 0 <= effective <= n:
            raise InputError.of(f"baseline.{name}", f"n {n}, effective_n {effective}", "ascending bins, counts above 0")
