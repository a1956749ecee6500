"""The formats that can be read, and which of them a document has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from tasks.errors import InputError
from tasks.interactions.schema import Interaction
from tasks.interactions.sources import langfuse, litellm, mapping, mlflow_traces, otlp, spans
from tasks.interactions.sources.context import Context
from tasks.interactions.sources.documents import READERS, native_fields
from tasks.interactions.sources.values import decode, digest, refuse

_NONE_FOUND = "document: holds no call of a model"


@dataclass(frozen=True, slots=True)
class Format:
    """One format of documents; a document is a line, an element of a file, or a whole export.

    Attributes:
        name: As the column ``source`` names it.
        items: The calls in a decoded document, each still in the format's own shape; a text is the reason why one
            cannot be read.
        fields: The columns of one call; it may leave out what ``Context`` knows.
        recognises: Whether a decoded document has this format.
    """

    name: str
    items: Callable[[Any], Iterable[Any]]
    fields: Callable[[Any, Context], dict[str, Any]]
    recognises: Callable[[dict[str, Any]], bool]

    def parse(self, document: bytes, context: Context) -> list[Interaction | str]:
        """Read a document.

        Args:
            document: JSON in UTF-8.
            context: What it does not say itself.

        Returns:
            For each call in it the interaction, or the reason why it is none, naming the field and never the content;
            at least one.
        """
        if self.name == "native":
            return [_native(document)]
        try:
            return self.parse_decoded(decode(document), context)
        except InputError as error:
            return [str(error)]

    def parse_decoded(self, document: Any, context: Context) -> list[Interaction | str]:
        """Read a document that is decoded already, as ``parse``."""
        try:
            items = list(self.items(document))
        except InputError as error:
            return [str(error)]
        except RecursionError:
            return ["document: is nested too deep"]
        return [self._parse_item(item, context) for item in items] or [_NONE_FOUND]

    def _parse_item(self, item: Any, context: Context) -> Interaction | str:
        if isinstance(item, str):
            return item
        try:
            fields = {name: value for name, value in self.fields(item, context).items() if value is not None}
            fields.setdefault("application", context.application)
            fields.setdefault("time", context.received)
            if fields["application"] is None:
                return "application: the document does not name it; say which one it is"
            if fields["time"] is None:
                return "time: the document does not say it; say when it was received"
            if "interaction_id" not in fields:
                fields["interaction_id"] = digest(item)
            return Interaction.model_validate({**fields, "source": self.name})
        except InputError as error:
            return str(error)
        except ValidationError as error:
            return _reason(error)
        except RecursionError:
            return "document: is nested too deep"


def _native(document: bytes) -> Interaction | str:
    try:
        return Interaction.model_validate_json(document)
    except ValidationError as error:
        return _reason(error)


def _reason(error: ValidationError) -> str:
    """Return the reason without the value, and without a name that only the document knows."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = first["loc"][0] if first["loc"] else "document"
    if first["type"] == "extra_forbidden" or (place != "document" and place not in Interaction.model_fields):
        return "document: holds a field that is no column of the log"
    return f"{place}: {first['msg'][:200]}"


def _whole(document: Any) -> tuple[Any, ...]:
    return (document,) if isinstance(document, dict) else refuse("document", "must be an object")


def _is_native(document: dict[str, Any]) -> bool:
    return {"interaction_id", "time", "status"} <= document.keys() and not {"request", "response"} & document.keys()


FORMATS: Final = {
    form.name: form
    for form in (
        Format("native", _whole, native_fields, _is_native),
        *(Format(name, _whole, fields, recognises) for name, (fields, recognises) in READERS.items()),
        Format("otlp", otlp.items, spans.fields, otlp.recognises),
        Format("openinference", spans.items, spans.fields, spans.recognises),
        Format("litellm", _whole, litellm.fields, litellm.recognises),
        Format("litellm-spend", _whole, litellm.spend_fields, litellm.recognises_spend),
        Format("langfuse", langfuse.items, langfuse.fields, langfuse.recognises),
        Format("mlflow", mlflow_traces.items, mlflow_traces.fields, mlflow_traces.recognises),
        Format("mapped", mapping.items, mapping.fields, lambda _: False),
    )
}
"""The formats by their names."""


def detect(document: bytes) -> str | None:
    """Return the name of the one format a document has by its shape; None where it has none, or more than one."""
    try:
        decoded = decode(document)
        if not isinstance(decoded, dict):
            return None
        found = [name for name, form in FORMATS.items() if form.recognises(decoded)]
    except (InputError, RecursionError):
        return None
    return found[0] if len(found) == 1 else None
