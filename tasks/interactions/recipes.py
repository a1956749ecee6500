"""How the lines or documents of a file are read, and what is kept of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from tasks.errors import InputError
from tasks.interactions.lines import AUTO, LineReader, Policy, Reject, decodes
from tasks.interactions.schema import Interaction, parse_line

if TYPE_CHECKING:
    from tasks.interactions.redaction import Redactor
    from tasks.interactions.sources.mapping import Mapping

FormatName = Literal[
    "auto",
    "native",
    "openai",
    "anthropic",
    "bedrock",
    "google",
    "cohere",
    "otlp",
    "openinference",
    "litellm",
    "litellm-spend",
    "langfuse",
    "mlflow",
    "mapped",
]
"""What people can choose from: ``auto`` and the names of ``FORMATS``, which takes long to import."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the lines of a file are read.

    Args:
        form: Name of their format, or ``auto``, which looks at every line.
        application: What was called, where a line does not say.
        content: What is kept of texts: ``off`` nothing, ``hash`` their SHA-256, ``full`` the texts.
        mapping: Which column holds what, for the format ``mapped``.
        redactor: What is taken out of texts before anything else is done with them; None takes out nothing.

    Raises:
        InputError: There is no format of this name, or ``mapped`` has no mapping.
    """

    form: str = "native"
    application: str | None = None
    content: Policy = "full"
    mapping: Mapping | None = None
    redactor: Redactor | None = None

    def __post_init__(self) -> None:
        if self.form == "native":
            return
        from tasks.interactions.sources.formats import FORMATS

        if self.form not in {AUTO, *FORMATS}:
            raise InputError.of("format", self.form, (AUTO, *FORMATS))
        if self.form == "mapped" and self.mapping is None:
            raise InputError("format mapped: give the mapping file that says which column holds what")

    def reader(self, place: str) -> LineReader:
        """Return a reader of a source, whose place tells rows apart that have no id."""
        redact = self.redactor
        return LineReader(
            form=self.form,
            application=self.application,
            policy=self.content,
            keep=self.keep,
            redact=(lambda text: redact.redact(text).text) if redact is not None else None,
            parse=lambda line, at: self.parse(line, f"{place}#{at}"),
            detect=_detect if self.form == AUTO else lambda _: self.form,
        )

    def parse(self, document: bytes, place: str) -> Sequence[Interaction | str]:
        """Return each call in a document, or why it is none; at least one."""
        if self.form != "native" and not decodes(document):
            return ("line: is no text in UTF-8",)
        form = _detect(document) if self.form == AUTO else self.form
        if form is None or form == "native":
            return (parse_line(document),)
        from tasks.interactions.sources.context import Context
        from tasks.interactions.sources.formats import FORMATS

        return FORMATS[form].parse(document, Context(self.application, mapping=self.mapping, place=place))

    def kept_rejects(self, rejects: Sequence[Reject]) -> Sequence[Reject]:
        """Return rejected lines as the content policy has them: their bytes, or only the digest of these."""
        if self.content == "full" and self.redactor is None:
            return rejects
        digests = (f"sha256:{hashlib.sha256(line).hexdigest()}".encode() for _, _, line in rejects)
        return [(number, reason, digest) for (number, reason, _), digest in zip(rejects, digests, strict=True)]

    def keep(self, rows: pa.Table) -> pa.Table:
        """Return rows with the texts that may be kept."""
        if self.content == "full" and self.redactor is None:
            return rows
        from tasks.interactions.keeping import keep_rows

        return keep_rows(rows, self.content, self.redactor)


def _detect(document: bytes) -> str | None:
    from tasks.interactions.sources.formats import detect

    return detect(document)
