"""Calls of an OpenAI-compatible server: chat, moderation and embeddings, with errors that repeat no text and no key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import httpx
from pydantic import Field, field_validator

from tasks.documents import shown
from tasks.errors import InputError
from tasks.release.model import Record
from tasks.scoring.pool import CallError

_URL: Final = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?")
_AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_REFUSED_KEY: Final = frozenset({401, 403})
_OK: Final = 200
_MAX_BYTES: Final = 8_000_000


class EndpointSpec(Record):
    """An OpenAI-compatible server.

    Attributes:
        url: Its base, as clients of OpenAI take it: what comes before ``/chat/completions``.
        model: As the server names it; a dated name stays the same, an alias may not.
        key_env: Environment variable that holds the key; never the key itself.
        provider: Who is paid, as the price book names it; None is unknown.
    """

    url: str = Field(max_length=500)
    model: str = Field(min_length=1, max_length=200)
    key_env: str | None = Field(default=None, pattern=r"^[A-Z][A-Z0-9_]{0,63}$")
    provider: str | None = Field(default=None, min_length=1, max_length=200)
    timeout_s: float = Field(default=60.0, gt=0, le=600, allow_inf_nan=False)

    @field_validator("url")
    @classmethod
    def _base(cls, value: str) -> str:
        if not _URL.fullmatch(value):
            raise ValueError(f"{shown(value)} is no base URL; write http(s)://host/v1, without a key")
        return value.rstrip("/")


class Client:
    """A server that is asked; it may be shared by threads.

    Args:
        spec: The server.
        environment: Where its key is looked up.
        transport: Replaces the network, in tests.

    Raises:
        InputError: The environment does not hold the key.
    """

    def __init__(
        self, spec: EndpointSpec, environment: Mapping[str, str], transport: httpx.BaseTransport | None = None
    ) -> None:
        key = environment.get(spec.key_env) if spec.key_env else None
        if spec.key_env and not key:
            raise InputError(f"endpoint {spec.url}: {spec.key_env} is not set; set it to the key of the endpoint")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.spec = spec
        # Certificates take long to load and are of no use without https.
        self._http = httpx.Client(
            base_url=spec.url,
            headers=headers,
            timeout=spec.timeout_s,
            transport=transport,
            verify=spec.url.startswith("https://"),
        )

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its connections."""
        self._http.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the server once.

        Args:
            path: Below its base, such as ``/chat/completions``.
            body: The request; the model is added.

        Returns:
            The JSON object it answered with.

        Raises:
            CallError: It does not answer, answers with an error, or with something that is no JSON object.
        """
        try:
            response = self._http.post(path, json={"model": self.spec.model, **body})
        except httpx.TimeoutException:
            raise CallError(f"the endpoint took longer than {self.spec.timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise CallError(f"the endpoint does not answer ({type(error).__name__})", retry=True) from None
        if response.status_code != _OK:
            raise _refused(response)
        try:
            document = response.json() if len(response.content) <= _MAX_BYTES else None
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise CallError("the endpoint's answer is no JSON object", retry=True)
        return document


def embed_texts(client: Client, texts: Sequence[str]) -> list[list[float]]:
    """Return the embeddings of texts, in their order.

    Raises:
        CallError: The server fails, or gives another number of vectors than asked for.
    """
    data = client.post("/embeddings", {"input": list(texts)}).get("data")
    if not isinstance(data, list) or len(data) != len(texts):
        raise CallError(f"the endpoint did not give {len(texts)} embeddings")
    try:
        ordered = sorted(data, key=lambda item: int(item["index"]))
        return [[float(number) for number in item["embedding"]] for item in ordered]
    except (TypeError, KeyError, ValueError):
        raise CallError("the endpoint's embeddings cannot be read") from None


class AnsweredError(CallError):
    """The server refused the request; nothing was generated, so nothing is billed."""


def _refused(response: httpx.Response) -> AnsweredError:
    status = response.status_code
    if status in _REFUSED_KEY:
        return AnsweredError(f"the endpoint refused the key ({status})")
    after = response.headers.get("retry-after", "")
    after_s = float(after) if re.fullmatch(r"\d{1,4}(\.\d{1,3})?", after) else None
    return AnsweredError(f"the endpoint answered {status}", retry=status in _AGAIN, after_s=after_s)
