"""What a document of a source does not say itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.interactions.sources.mapping import Mapping


@dataclass(frozen=True, slots=True)
class Context:
    """What is known of a document beside what stands in it; it fills in and never overrides.

    Attributes:
        application: What was called, where the document does not name it.
        received: When it was called, where the document does not say; None refuses such a document.
        mapping: Which column holds what, for the format ``mapped``.
        place: Where the document stands, for example ``file#ordinal``; the identity of rows that have none and of
            which two alike are two calls.
    """

    application: str | None = None
    received: datetime | None = None
    mapping: Mapping | None = None
    place: str | None = None
