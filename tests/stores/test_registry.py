from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from uuid import uuid4

import pytest
from sklearn.linear_model import LinearRegression

from tasks.errors import DeliveryError, InputError, NotFoundError
from tasks.release.model import Prompt, PromptRef, Release, ReleaseSpec, text_sha256
from tasks.stores.models import ModelStore
from tasks.stores.registry import Registry

pytestmark = pytest.mark.stack


@pytest.fixture(scope="session")
def registry(mlflow_url: str) -> Registry:
    return Registry(mlflow_url)


def a_name(kind: str) -> str:
    return f"{kind}-{uuid4().hex[:8]}"


def a_spec(**changes: object) -> ReleaseSpec:
    fields = {
        "application": a_name("app"),
        "model_id": "gpt-x",
        "version": "2026.1",
        "endpoint": "http://127.0.0.1:1/v1",
        "prompt": {"name": a_name("prompt"), "text": "Answer like {{ persona }}.\nÄöü 漢字"},
        "parameters": {"temperature": 0.2, "max_tokens": 64, "seed": 1, "logprobs": True},
        "price": {"input_usd_per_mtok": "0.15", "output_usd_per_mtok": "0.60"},
    }
    return ReleaseSpec.model_validate({**fields, **changes})


def test_a_release_comes_back_as_it_was_registered(registry: Registry):
    spec = a_spec()

    release, is_new = registry.register(spec)

    again = registry.release(spec.application, release.registry_version)
    assert is_new
    assert again.digest == release.digest
    assert again.prompt == release.prompt
    assert again.prompt.text == spec.prompt.text
    assert again.spec.parameters == spec.parameters
    assert registry.find(spec.application, release.digest) == again


def test_the_same_content_is_the_same_release(registry: Registry):
    spec = a_spec()
    first, _ = registry.register(spec)

    second, is_new = registry.register(spec)
    pinned = spec.model_copy(update={"prompt": PromptRef(name=spec.prompt.name, version=first.prompt.version)})
    third, is_new_either = registry.register(pinned)

    assert not is_new
    assert not is_new_either
    assert {second.registry_version, third.registry_version} == {first.registry_version}


def test_another_text_is_another_release_and_another_prompt_version(registry: Registry):
    spec = a_spec()
    first, _ = registry.register(spec)
    other = spec.model_copy(update={"prompt": PromptRef(name=spec.prompt.name, text="Be brief.")})

    second, is_new = registry.register(other)

    assert is_new
    assert (second.registry_version, second.prompt.version) == (first.registry_version + 1, first.prompt.version + 1)


def test_a_prompt_changed_behind_our_back_is_noticed(registry: Registry):
    release, _ = registry.register(a_spec())
    client = registry._client()

    client.set_prompt_version_tag(release.prompt.name, str(release.prompt.version), "mlflow.prompt.text", "Lie.")

    with pytest.raises(DeliveryError, match="changed"):
        registry.release(release.application, release.registry_version)


def test_what_does_not_exist_is_named(registry: Registry):
    release, _ = registry.register(a_spec())

    with pytest.raises(NotFoundError, match="has no release 99"):
        registry.release(release.application, 99)
    with pytest.raises(NotFoundError, match="has no release aaaaaaaaaaaa"):
        registry.find(release.application, "a" * 64)
    with pytest.raises(NotFoundError, match="nobody has no release 1"):
        registry.release("nobody", 1)
    with pytest.raises(NotFoundError, match="nothing@1 is not registered"):
        registry.register(a_spec(prompt="nothing@1"))
    with pytest.raises(NotFoundError, match="models:/nothing/1"):
        registry.register(a_spec(endpoint="models:/nothing/1"))


def test_aliases_are_written_moved_and_removed(registry: Registry):
    spec = a_spec()
    registry.register(spec)
    registry.register(spec.model_copy(update={"version": "2026.2"}))

    registry.set_aliases(spec.application, {"champion": 1, "challenger": 2})
    registry.set_aliases(spec.application, {"champion": 2, "challenger": None, "previous": 1})

    assert registry.aliases(spec.application) == {"champion": 2, "previous": 1}
    with pytest.raises(InputError, match="winner"):
        registry.set_aliases(spec.application, {"winner": 1})


def test_an_evaluation_is_linked_to_its_release(registry: Registry):
    release, _ = registry.register(a_spec())

    run_id = registry.log_evaluation(release, "night", {"quality": 0.9}, {"verdict": "pass"})

    run = registry._client().get_run(run_id)
    assert run.data.metrics == {"quality": 0.9}
    assert run.data.tags["delivery.digest"] == release.digest
    assert run.info.status == "FINISHED"


def test_a_release_keeps_parameters_of_any_shape_and_size(registry: Registry):
    fields = {f"field_{number}": {"type": ["string", "null"], "description": "x" * 100} for number in range(100)}
    schema = {"type": "object", "properties": fields, "additionalProperties": False}
    parameters = {
        "stop": ["###", "\n"],
        "seed": None,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}},
    }
    release, _ = registry.register(a_spec(parameters=parameters))

    assert registry.find(release.application, release.digest).spec.parameters == parameters


def test_a_record_that_is_no_longer_allowed_is_one_line(registry: Registry, monkeypatch: pytest.MonkeyPatch):
    release, _ = registry.register(a_spec())
    whole = registry._record(release.application, release.registry_version)
    whole[1]["spec"]["parameters"]["stream"] = True
    monkeypatch.setattr(Registry, "_record", lambda *_: whole)

    with pytest.raises(DeliveryError, match=r"is no longer allowed: parameters: .*; register it anew") as caught:
        registry.release(release.application, release.registry_version)
    assert "\n" not in str(caught.value)


class Refusing(BaseHTTPRequestHandler):
    """An MLflow server that refuses everything, or what is created only."""

    code, creates_only = "PERMISSION_DENIED", False

    def do_GET(self) -> None:
        if self.creates_only:
            self._say(404, "RESOURCE_DOES_NOT_EXIST")
        else:
            self._say(403, self.code)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.endswith("/search"):
            self._say(200, "")
        else:
            self._say(403, self.code)

    do_PATCH = do_DELETE = do_POST  # noqa: N815 - http.server finds them by these names

    def _say(self, status: int, code: str) -> None:
        body = json.dumps({"error_code": code, "message": "not\nfor you"} if code else {}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def a_release() -> Release:
    spec = a_spec()
    text = spec.prompt.text or ""
    prompt = Prompt(name=spec.prompt.name, version=1, text=text, sha256=text_sha256(text))
    return Release(spec=spec, prompt=prompt, registry_version=1)


CALLS = {
    "register": lambda registry, release: registry.register(release.spec),
    "read release 1": lambda registry, release: registry.release(release.application, 1),
    "find release": lambda registry, release: registry.find(release.application, release.digest),
    "write the aliases": lambda registry, release: registry.set_aliases(release.application, {"champion": 1}),
    "read the aliases": lambda registry, release: registry.aliases(release.application),
    "tag": lambda registry, release: registry.tag(release, {"state": "x"}),
    "record the evaluation": lambda registry, release: registry.log_evaluation(release, "night", {}, {}),
    "store the model": lambda registry, _: ModelStore(registry.url).log_sklearn_model("m", LinearRegression()),
    "load models:/m/1": lambda registry, _: ModelStore(registry.url).load_sklearn_model("models:/m/1"),
}


@pytest.mark.parametrize("what", CALLS)
def test_whatever_the_server_refuses_is_one_line_that_says_which_call(refusing: str, what: str):
    with pytest.raises(DeliveryError) as caught:
        CALLS[what](Registry(refusing), a_release())

    said = str(caught.value)
    assert type(caught.value) is DeliveryError
    assert said.startswith(f"the registry at {refusing} did not {what}")
    assert "not for you" in said
    assert said.endswith("; see its log, then try again")
    assert "\n" not in said


@pytest.mark.parametrize("what", ["register", "store the model"])
def test_a_name_that_is_taken_meanwhile_is_one_line(refusing: str, what: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Refusing, "code", "RESOURCE_ALREADY_EXISTS")
    monkeypatch.setattr(Refusing, "creates_only", True)

    with pytest.raises(DeliveryError, match=f"did not {what}.*; choose another name, or try again$"):
        CALLS[what](Registry(refusing), a_release())


def test_a_name_that_a_prompt_has_is_no_application(registry: Registry):
    release, _ = registry.register(a_spec())

    with pytest.raises(DeliveryError, match=f"{release.prompt.name}.*; choose another name, or try again$") as caught:
        registry.register(a_spec(application=release.prompt.name))
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(60)
def test_a_server_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        release, begun = a_release(), time.monotonic()
        for what in ("read release 1", "find release"):
            with pytest.raises(DeliveryError, match=f"did not {what}") as caught:
                CALLS[what](Registry(url), release)
            assert type(caught.value) is DeliveryError  # a release that cannot be looked up may well exist
        assert time.monotonic() - begun < 20


def test_a_server_that_hangs_is_given_half_a_minute(registry: Registry, monkeypatch: pytest.MonkeyPatch):
    for name in ("TIMEOUT", "MAX_RETRIES", "BACKOFF_FACTOR"):
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    registry._client()

    assert (os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"], os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) == ("10", "2")


def test_the_digest_of_the_prompt_is_that_of_its_bytes(registry: Registry):
    release, _ = registry.register(a_spec())

    assert release.prompt.sha256 == text_sha256(release.spec.prompt.text or "")
