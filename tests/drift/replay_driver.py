"""A data path of a test's own: a probe asks the server at the release's endpoint."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from tasks.release.model import Release
from tasks.settings import Settings
from tasks.traffic.driver import Answer, Driver


class PlainDriver:
    """Asks a server of the shape of OpenAI's; everything else is not for these tests."""

    def probe(self, release: Release, question: str, timeout_s: float) -> Answer:
        """Ask the endpoint itself."""
        place = urlsplit(release.spec.endpoint)
        body = json.dumps({"messages": [{"role": "user", "content": question}]})
        with closing(HTTPConnection(place.netloc, timeout=timeout_s)) as connection:
            connection.request("POST", f"{place.path}/chat/completions", body)
            reply = connection.getresponse()
            document = json.loads(reply.read())
        text = document["choices"][0]["message"]["content"] if reply.status == 200 else ""
        return Answer(status=reply.status, release_digest="", prompt_sha256="", text=text, latency_ms=1.0)

    def __getattr__(self, name: str) -> Any:
        """Refuse what these tests do not use."""
        if name in vars(Driver):
            return lambda *_: refuse(name)
        raise AttributeError(name)


def refuse(name: str) -> None:
    """Say what was called by mistake."""
    raise NotImplementedError(name)


def make(_where: Settings) -> PlainDriver:
    """Return the driver."""
    return PlainDriver()
