"""A server with the shape of OpenAI's, on loopback; a test says what it replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class ModelServer:
    """A real server on loopback with the shape of OpenAI's; a test sets ``reply``, and reads what was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.reply: Callable[[str, dict[str, Any]], Any] = lambda _path, _body: chat(0.5)
        self.chat = chat
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with owner.lock:
                    owner.asked.append(body)
                    owner.keys.append(self.headers.get("authorization"))
                reply = owner.reply(self.path.removeprefix("/v1"), body)
                status, document, *more = reply if isinstance(reply, tuple) else (200, reply)
                data = document if isinstance(document, bytes) else json.dumps(document).encode()
                with suppress(BrokenPipeError, ConnectionResetError):
                    self.send_response(status)
                    for name, value in more[0].items() if more else ():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


def chat(answer: object, *, tokens: int | None = 10, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """Return a chat completion: a number is the score of a judge, anything else its whole content."""
    content = json.dumps({"reason": "because", "score": answer}) if isinstance(answer, int | float) else answer
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens, "completion_tokens": tokens}}
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return {"model": "judge-2026-01-01", "system_fingerprint": "fp", "choices": [choice], **usage}


@pytest.fixture
def model_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    """Yield a server with the shape of OpenAI's."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = ModelServer()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def chat_reply() -> Callable[..., dict[str, Any]]:
    """Return what makes a chat completion."""
    return chat
