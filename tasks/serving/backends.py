"""What answers behind a release: a retrieval model of the registry, or an OpenAI-compatible endpoint."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Protocol

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.errors import ServingError
from tasks.release.model import Release
from tasks.serving.chat import ChatRequest, completion, completion_events

_TOKEN = re.compile(r"\w+|[^\w\s]")
_PIECE = re.compile(r"\s*\S+|\s+$")
_ANSWER_SLOT = re.compile(r"\{\{\s*answer\s*\}\}")


@dataclass(slots=True)
class Capture:
    """What is known about one answer; filled in while it is given, so a broken stream leaves what was seen.

    Attributes:
        context_text: What was retrieved for the question; None where nothing was.
        input_tokens: As the backend counts them, cached ones included; None is unknown.
        error_type: What went wrong, also where the status was sent before it did.
    """

    context_text: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    finish_reason: str | None = None
    error_type: str | None = None
    pieces: list[str] = field(default_factory=list)

    @property
    def output_text(self) -> str | None:
        """The answer as far as it was given."""
        return "".join(self.pieces) if self.pieces else None


class Backend(Protocol):
    """Answers chat requests for one release; once it exists, it is loaded."""

    async def complete(self, request: ChatRequest, capture: Capture) -> bytes:
        """Return the whole answer, JSON in UTF-8, and fill in the capture.

        Raises:
            ApiError: The backend gave an error of its own.
        """
        ...

    async def stream(self, request: ChatRequest, capture: Capture) -> AsyncGenerator[bytes]:
        """Return the answer as server-sent events; the capture fills while they are read.

        Raises:
            ApiError: The backend gave an error before its first event.
        """
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


class Document(BaseModel):
    """What a retrieval model predicts, as one JSON text: the answer and the passage it was taken from."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    answer: str
    context: str


class RetrievalBackend:
    """A scikit-learn model whose ``predict([question])`` gives one JSON ``Document``.

    A retrieval model has no use for a system prompt. A prompt with a slot ``{{ answer }}`` is the template the
    answer is put into; a prompt without one is not applied.

    Args:
        release: The release that is served.
        model: The loaded model; ``predict`` may block, it runs in a thread.
    """

    def __init__(self, release: Release, model: Any) -> None:
        self._name = release.spec.model_id
        self._template = release.prompt.text
        self._model = model

    async def complete(self, request: ChatRequest, capture: Capture) -> bytes:
        """Answer at once; whatever ``predict`` raises is passed on."""
        text = await self._answer(request, capture)
        usage = (capture.input_tokens or 0, capture.output_tokens or 0)
        return completion(uuid.uuid4().hex, int(time.time()), self._name, text, usage)

    async def stream(self, request: ChatRequest, capture: Capture) -> AsyncGenerator[bytes]:
        """Answer word by word."""
        text = await self._answer(request, capture)
        usage = (capture.input_tokens or 0, capture.output_tokens or 0) if request.wants_usage else None
        events = completion_events(uuid.uuid4().hex, int(time.time()), self._name, _PIECE.findall(text), usage)
        return _as_async(list(events))

    async def close(self) -> None:
        """Do nothing: there is nothing to give back."""

    async def _answer(self, request: ChatRequest, capture: Capture) -> str:
        document = await to_thread.run_sync(self._predict, request.question)
        text = render(self._template, document.answer)
        capture.context_text = document.context
        capture.input_tokens = sum(count_tokens(message.text) for message in request.messages)
        capture.output_tokens = count_tokens(text)
        capture.finish_reason = "stop"
        capture.pieces.append(text)
        return text

    def _predict(self, question: str) -> Document:
        prediction = str(self._model.predict([question])[0])
        try:
            return Document.model_validate_json(prediction)
        except ValidationError as error:
            raise ServingError(
                "the model's prediction is no JSON document of answer and context; train it on such documents"
            ) from error


def count_tokens(text: str) -> int:
    """Return the tokens of a text by a simple rule: words and punctuation marks; not BPE.

    It is what a local model is charged by. It is stable and needs no vocabulary, and is not comparable with the
    counts of other providers.

    >>> count_tokens("Don't panic!")
    5
    """
    return len(_TOKEN.findall(text))


def render(template: str, answer: str) -> str:
    """Put the answer into the template's ``{{ answer }}``; a template without that slot is not applied.

    >>> render("Answer: {{ answer }}.", "42")
    'Answer: 42.'
    >>> render("You are kind.", "42")
    '42'
    """
    if not _ANSWER_SLOT.search(template):
        return answer
    return _ANSWER_SLOT.sub(lambda _: answer, template)


async def _as_async(events: list[bytes]) -> AsyncGenerator[bytes]:
    for one in events:
        yield one
