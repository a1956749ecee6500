"""The OpenAI chat shape: what a request may be, and how answers, chunks and errors are written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.errors import ServingError
from tasks.interactions.schema import printable

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
_SURROGATE = re.compile(rb"\\u[dD][89abAB]")
DONE = b"data: [DONE]\n\n"


class ApiError(ServingError):
    """An answer that is an error, as an OpenAI client expects to read it.

    Args:
        status: HTTP status, 400 to 599.
        message: One line for the caller; never a key, never the caller's text.
        kind: The machine's word for it: ``error.type`` in the answer, ``error_type`` in the log. What does not print
            is replaced, and it is cut to 200 characters.
        param: The field of the request that was wrong.
        retry_after: Value of the ``Retry-After`` header, where the endpoint sent one.
    """

    def __init__(
        self, status: int, message: str, *, kind: str, param: str | None = None, retry_after: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = printable(kind) or "unknown"
        self.param = param
        self.retry_after = retry_after

    def body(self) -> bytes:
        """Return the answer's body, JSON in UTF-8."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return as_json({"error": error})


class TextPart(BaseModel):
    """One part of a message's content; parts that are no text have no ``text``."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Annotated[str, Field(min_length=1, max_length=40)]
    text: str | None = None


class Message(BaseModel):
    """One message; keys this server has no use for are kept for the endpoint."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        """The text of the content, its parts joined by line ends."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part.text for part in self.content if part.text)


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of ``POST /v1/chat/completions``; keys not named here are passed to the endpoint as they are."""

    model_config = ConfigDict(strict=True, extra="allow")

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def question(self) -> str:
        """The text of the last user message."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def wants_usage(self) -> bool:
        """Whether the caller asked for the usage at the end of a stream."""
        return self.stream_options is not None and self.stream_options.include_usage


def parse_request(body: bytes) -> ChatRequest:
    """Read the body of a chat request.

    Args:
        body: What was sent; JSON in UTF-8.

    Returns:
        The request; it holds at least one user message with text.

    Raises:
        ApiError: 400, naming the first field that is wrong; the value is not repeated.
    """
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
        if _SURROGATE.search(body):
            # Half of a pair is legal JSON and no text; it could be neither forwarded nor logged.
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _invalid("the body is not JSON in UTF-8", None) from error
    if not isinstance(document, dict):
        raise _invalid(f"the body is a JSON object, not {type(document).__name__}", None)
    try:
        request = ChatRequest.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _invalid(f"{place}: {first['msg']}", place) from error
    if not request.question.strip():
        raise _invalid("messages: the last user message must hold a text", "messages")
    return request


def completion(answer_id: str, created: int, model: str, text: str, usage: tuple[int, int]) -> bytes:
    """Return a whole answer.

    Args:
        answer_id: Unique id of the answer.
        created: Unix time, seconds.
        model: The model as the release names it.
        text: The answer.
        usage: Input and output tokens.
    """
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    head = {"id": f"chatcmpl-{answer_id}", "object": "chat.completion", "created": created, "model": model}
    return as_json({**head, "choices": [choice], "usage": _usage(usage)})


def with_context(answer: bytes, context: str) -> bytes:
    """Return a whole answer with the passage it was taken from as field ``context``: for probes, never for users.

    Args:
        answer: As ``completion`` gives it.
        context: The passage.
    """
    return as_json({**json.loads(answer), "context": context})


def completion_events(
    answer_id: str, created: int, model: str, pieces: list[str], usage: tuple[int, int] | None
) -> Iterator[bytes]:
    """Yield an answer as server-sent events, the last being ``[DONE]``.

    Args:
        answer_id: Unique id of the answer.
        created: Unix time, seconds.
        model: The model as the release names it.
        pieces: The answer; joined they are its text.
        usage: Input and output tokens, where the caller asked for them.
    """
    head = {"id": f"chatcmpl-{answer_id}", "object": "chat.completion.chunk", "created": created, "model": model}

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        return event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for piece in pieces:
        yield chunk({"content": piece})
    yield chunk({}, "stop")
    if usage is not None:
        yield event({**head, "choices": [], "usage": _usage(usage)})
    yield DONE


def event(document: dict[str, Any]) -> bytes:
    """Return one server-sent event that holds a JSON document."""
    return b"data: " + as_json(document) + b"\n\n"


def as_json(document: dict[str, Any]) -> bytes:
    """Return a document as compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _invalid(message: str, param: str | None) -> ApiError:
    return ApiError(400, message, kind="invalid_request_error", param=param)
