"""The agent of a node and who speaks to it: tokens, errors, and what is kept out of texts and logs."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from nodes_stage import TOKEN, A, B, Node, plan_of, until
from pydantic import SecretStr
from starlette.applications import Starlette

import tasks.errors
from tasks.errors import DeliveryError, InputError, ServingError, UnreachableError
from tasks.settings import Settings
from tasks.traffic.driver import Answer, Driver, Message
from tasks.traffic.nodes import remote
from tasks.traffic.nodes.agent import MAX_BODY_BYTES, create_agent
from tasks.traffic.nodes.messages import REQUESTS, Trouble
from tasks.traffic.nodes.remote import RemoteNode
from tasks.traffic.servers import free_port

Serve = Callable[[Starlette], str]
PRIVATE = "my name is Ada Lovelace"
ERRORS = [kind for kind in vars(tasks.errors).values() if isinstance(kind, type) and issubclass(kind, DeliveryError)]


class Fails:
    """A driver of which every method raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def method(*_: Any) -> Any:
            raise self.error

        return method


def agent(driver: Any, data_url: str = "http://127.0.0.1:9") -> Starlette:
    return create_agent(driver, TOKEN.get_secret_value(), data_url)


@pytest.mark.stack
def test_who_has_no_token_is_refused_and_told_no_more(nodes: tuple[Node, Node]) -> None:
    node, _ = nodes
    for wrong in ("", "another-token-that-is-wrong", TOKEN.get_secret_value() + "x"):
        shown = {"Authorization": f"Bearer {wrong}"} if wrong else {}
        for name in REQUESTS:
            answer = httpx.post(f"{node.url}/v1/{name}", json={"application": "faq"}, headers=shown, trust_env=False)
            assert answer.status_code == 401
            assert answer.json() == {
                "error": "InputError",
                "message": "the token is missing or wrong; give the flows the DELIVERY_NODE_TOKEN of the node",
            }
    assert httpx.get(f"{node.url}/health", trust_env=False).json() == {"status": "ok"}
    assert httpx.get(f"{node.url}/v1/apply", trust_env=False).status_code == 405
    stranger = RemoteNode(node.url, SecretStr("another-token-that-is-wrong"))
    with pytest.raises(InputError, match=f"node {node.url}: the token is missing or wrong") as caught:
        stranger.apply(plan_of(1, A))
    assert "another-token" not in f"{caught.value} {stranger!r}"
    assert node.driver.observe("faq") is None


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "DELIVERY_NODE_TOKEN is not set: whoever reaches a node's agent says who serves its users"),
        ("short", "DELIVERY_NODE_TOKEN has 5 characters; give at least 16 of ASCII without spaces"),
        ("with a space in the middle", "DELIVERY_NODE_TOKEN has 26 characters"),
        ("naïve-naïve-naïve-naïve", "DELIVERY_NODE_TOKEN has 23 characters"),
    ],
)
def test_an_agent_without_a_good_token_does_not_start(token: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        create_agent(Fails(ValueError()), token, "http://127.0.0.1:9")
    assert said in str(caught.value)
    assert not token or token not in str(caught.value)


def test_an_error_comes_over_as_it_is(serve: Serve) -> None:
    fails = Fails(ValueError())
    data_path = serve(agent(fails))  # somebody whose health is good
    url = serve(agent(fails, data_path))
    for kind in ERRORS:
        fails.error = kind("revision 2 came too late")
        with pytest.raises(DeliveryError) as caught:
            RemoteNode(url, TOKEN).apply(plan_of(1, A))
        assert type(caught.value) is kind
        assert str(caught.value) == f"node {url}: revision 2 came too late"
    assert len(ERRORS) > 10


def test_a_failure_of_a_data_path_that_is_down_is_an_absence(serve: Serve) -> None:
    url = serve(agent(Fails(ServingError("HAProxy does not answer")), f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(UnreachableError) as caught:
        RemoteNode(url, TOKEN).observe("faq")
    assert str(caught.value) == f"node {url}: its data path is down: HAProxy does not answer"


def test_a_type_of_error_that_is_none_of_ours_is_not_made() -> None:
    for name in ("SystemExit", "Iterable", "annotations", "NoSuchError"):
        assert type(Trouble(error=name, message="m").raised_by("n")) is ServingError


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError(PRIVATE), "Probe failed: RuntimeError"), (OSError(28, "No space left"), "OSError No space left")],
)
def test_a_defect_says_its_type_and_no_text(
    serve: Serve, caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    url = serve(agent(Fails(error)))
    with caplog.at_level(logging.DEBUG), pytest.raises(ServingError) as caught:
        RemoteNode(url, TOKEN).probe(A, PRIVATE, 5)
    assert said in str(caught.value)
    assert said in caplog.text
    assert PRIVATE not in f"{caught.value}{caplog.text}"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("ask", {"application": "faq", "unit": "u", "question": "", "timeout_s": 1}, "Ask: question."),
        ("ask", {"application": "faq", "unit": "u", "question": PRIVATE, "timeout_s": 601}, "timeout_s: less_than_"),
        ("observe", {"application": "faq", PRIVATE: 1}, "extra_forbidden"),
        ("observe", {"application": "../../etc"}, "application: string_pattern_mismatch"),
        ("routed", {"digest": PRIVATE}, "digest: string_pattern_mismatch"),
        ("retire", {"application": "faq"}, "Retire: digest: missing; is the node of another version?"),
        ("apply", {"plan": {"application": "faq"}}, "Apply: plan.revision: missing"),
    ],
)
def test_what_is_no_request_is_refused_without_its_values(
    serve: Serve, path: str, body: dict[str, Any], said: str
) -> None:
    url = serve(agent(Fails(ValueError("it was called"))))
    shown = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
    answer = httpx.post(f"{url}/v1/{path}", json=body, headers=shown, trust_env=False)
    assert (answer.status_code, answer.json()["error"]) == (422, "InputError")
    assert said in answer.json()["message"]
    if PRIVATE not in body:  # a key is named, so that people find it
        assert PRIVATE not in answer.text


def test_a_body_without_end_is_refused(serve: Serve) -> None:
    url = serve(agent(Fails(ValueError())))
    shown = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
    answer = httpx.post(f"{url}/v1/ask", content=b" " * (MAX_BODY_BYTES + 1), headers=shown, trust_env=False)
    assert (answer.status_code, answer.json()["message"]) == (413, "the body is larger than 4194304 bytes")


@contextmanager
def hanging() -> Iterator[str]:
    """Take connections and say nothing, as a machine does that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_node_that_hangs_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ALIVE_S", 0.1)
    with hanging() as url:
        node = RemoteNode(url, TOKEN)
        for call in (
            lambda: node.apply(plan_of(1, A)),
            lambda: node.ensure(A),
            lambda: node.retire("faq", A.digest),
            lambda: node.stand_by("faq", ()),
        ):
            with pytest.raises(UnreachableError) as caught:
                call()
            assert str(caught.value) == f"node {url} does not answer: ReadTimeout; is its agent up?"


@pytest.mark.stack
def test_who_is_no_agent_is_told_apart(nodes: tuple[Node, Node], serve: Serve) -> None:
    node = RemoteNode(nodes[0].driver.url, TOKEN)
    with pytest.raises(ServingError) as caught:
        node.observe("faq")
    assert str(caught.value) == (f"node {node.url} answers HTTP 404 with something else than an agent does; is it one?")

    class Strange(Fails):
        def running(self, _: str) -> str:
            return "not a list"

    strange = RemoteNode(serve(agent(Strange(ValueError()))), TOKEN)
    with pytest.raises(ServingError, match="answers HTTP 200 with something else"):
        strange.running("faq")


def test_what_is_asked_and_answered_comes_over_whole(serve: Serve) -> None:
    class Echo(Fails):
        def probe(self, release: Any, question: Any, timeout_s: float) -> Answer:
            assert (release, timeout_s) == (A, 2.5)
            text = question if isinstance(question, str) else "|".join(turn.content for turn in question)
            return Answer(status=200, release_digest=A.digest, prompt_sha256="p", text=text, latency_ms=1.5, tries=2)

        def observe(self, _: str) -> None:
            return None

        def apply(self, plan: Any) -> None:
            assert plan == plan_of(7, A, B)

    node: Driver = RemoteNode(serve(agent(Echo(ValueError()))), TOKEN)
    turns = (Message(role="user", content="één"), Message(role="assistant", content="deux\u2028"))
    assert node.probe(A, turns, 2.5).text == "één|deux\u2028"
    assert node.probe(A, "plain", 2.5) == Answer(
        status=200, release_digest=A.digest, prompt_sha256="p", text="plain", latency_ms=1.5, tries=2
    )
    assert node.observe("faq") is None
    node.apply(plan_of(7, A, B))


@pytest.mark.stack
def test_it_is_a_program_that_says_nothing_of_what_it_is_asked(tmp_path: Path, nodes: tuple[Node, Node]) -> None:
    local, port = nodes[0], free_port()
    where = Settings(
        state_dir=local.driver.folder.parent,
        data_url=local.driver.url,
        ledger_url=local.follower.ledger.url,
        node_listen=f"127.0.0.1:{port}",
    )
    environment = {f"DELIVERY_{name.upper()}": str(getattr(where, name)) for name in where.model_fields_set}
    log, url = tmp_path / "agent.log", f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tasks.traffic.nodes"]
    with log.open("wb") as file:
        refused = subprocess.run(
            command, env=os.environ | environment, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: DELIVERY_NODE_TOKEN is not set")
        environment["DELIVERY_NODE_TOKEN"] = TOKEN.get_secret_value()
        process = subprocess.Popen(command, env=os.environ | environment, stdout=file, stderr=file)
    try:
        node = RemoteNode(url, TOKEN)
        until(lambda: _answers(url), "the agent listens")
        node.ensure(A)
        node.apply(plan_of(1, A))
        assert node.ask("faq", "ada@example.org", PRIVATE, 5).release_digest == A.digest
        with pytest.raises(ServingError):
            node.probe(B, PRIVATE, 5)
        with pytest.raises(InputError):
            RemoteNode(url, SecretStr("another-token-that-is-wrong")).observe("faq")
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert log.read_text() == ""


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.HTTPError:
        return False
