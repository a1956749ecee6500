"""What came of holding a release against its baseline: the checks, and what people want to know beside them."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.drift.moved import Leaning, Term
from tasks.monitors.verdict import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What moved in one column of texts; words and ids, never a text.

    Attributes:
        column: Which texts.
        terms: Terms that became more or less common, of ``FEWEST_UNITS`` users or sessions at least.
        examples: Ids of interactions that look newest.
        leanings: Dimension and segment that are over-represented among those, the most first.
    """

    column: str
    terms: tuple[Term, ...] = ()
    examples: tuple[str, ...] = ()
    leanings: tuple[tuple[str, Leaning], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What a window of a release came to beside its baseline.

    Attributes:
        checks: What decides.
        moved: What moved, of the texts that changed.
        explained: Which segments account for changes of numbers, in sentences.
        remarks: What was not compared, or does not decide, in sentences.
        warnings: Segment and check of each that changed (``fail``) or surely did not (``pass``); they never decide.
    """

    checks: tuple[Check, ...] = ()
    moved: tuple[Moved, ...] = ()
    explained: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    warnings: tuple[tuple[str, Check], ...] = ()

    def join(self, other: Drift) -> Drift:
        """Return both."""
        return Drift(
            checks=(*self.checks, *other.checks),
            moved=(*self.moved, *other.moved),
            explained=(*self.explained, *other.explained),
            remarks=(*self.remarks, *other.remarks),
            warnings=(*self.warnings, *other.warnings),
        )
