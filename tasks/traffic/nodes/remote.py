"""One node, as flows see it: the driver of another machine, over HTTP."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx
from pydantic import SecretStr, TypeAdapter, ValidationError

from tasks.errors import InputError, ServingError, UnreachableError
from tasks.release.model import Autoscaling, Release
from tasks.traffic.driver import Answer, Question, Routed
from tasks.traffic.nodes.messages import (
    AnyRequest,
    Apply,
    Ask,
    Ensure,
    Observe,
    PlanRecord,
    Probe,
    ReadRouted,
    ReadRunning,
    Retire,
    Scale,
    StandBy,
    Trouble,
    path_of,
)
from tasks.traffic.plan import BUCKETS, Plan

T = TypeVar("T")
ALIVE_S: Final = 5.0
"""So soon an agent that lives says so, whatever its data path does."""
_READ_S = 20.0
_CHANGE_S = 60.0
_DEPLOY_S = 150.0
"""Longer than a release may take to come up, or the calls of one that goes to end."""
_AWAY = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)

_NOTHING: Final = TypeAdapter[None](None)
_ANSWER: Final = TypeAdapter(Answer)
_BUCKETS: Final = TypeAdapter[tuple[str, ...] | None](tuple[str, ...] | None)
_DIGESTS: Final = TypeAdapter(tuple[str, ...])
_ROUTED: Final = TypeAdapter(Routed)


@dataclass(frozen=True, slots=True)
class RemoteNode:
    """The data path of one other machine.

    Every method raises ``UnreachableError`` where the node, or its HAProxy, is away, and else what the local driver of
    the node raises, with the node in the text.

    Args:
        url: Of its agent.
        token: What the agent asks for.
    """

    url: str
    token: SecretStr = field(repr=False)

    def ensure(self, release: Release) -> None:
        """Have a release run there."""
        self._call(Ensure(release=release), _NOTHING, _DEPLOY_S)

    def probe(self, release: Release, question: Question, timeout_s: float) -> Answer:
        """Ask a release there, past the plan."""
        request = Probe(release=release, question=question, timeout_s=timeout_s)
        return self._call(request, _ANSWER, timeout_s + _READ_S)

    def apply(self, plan: Plan) -> None:
        """Put a plan into effect there."""
        record = PlanRecord(**{name: getattr(plan, name) for name in PlanRecord.model_fields})
        self._call(Apply(plan=record), _NOTHING, _CHANGE_S + _DEPLOY_S)

    def observe(self, application: str) -> tuple[str, ...] | None:
        """Read the plan in effect there."""
        seen = self._call(Observe(application=application), _BUCKETS, _READ_S)
        return seen if seen is None or len(seen) == BUCKETS else None

    def ask(self, application: str, unit: str, question: Question, timeout_s: float) -> Answer:
        """Ask through the data path there."""
        request = Ask(application=application, unit=unit, question=question, timeout_s=timeout_s)
        return self._call(request, _ANSWER, timeout_s + _READ_S)

    def scale(self, release: Release, spec: Autoscaling) -> None:
        """Set the limits of a release's replicas there."""
        self._call(Scale(release=release, spec=spec), _NOTHING, _CHANGE_S)

    def stand_by(self, application: str, proven: Sequence[str]) -> None:
        """Say who may answer for whom there."""
        self._call(StandBy(application=application, proven=tuple(proven)), _NOTHING, _CHANGE_S)

    def routed(self, digest: str) -> Routed:
        """Read the counters of a release there."""
        return self._call(ReadRouted(digest=digest), _ROUTED, _READ_S)

    def running(self, application: str) -> tuple[str, ...]:
        """Name the releases that run there."""
        return self._call(ReadRunning(application=application), _DIGESTS, _READ_S)

    def retire(self, application: str, digest: str) -> None:
        """Stop a release there."""
        self._call(Retire(application=application, digest=digest), _NOTHING, _DEPLOY_S)

    def _check_alive(self) -> None:
        """See that somebody is there before waiting long: a machine that hangs takes a connection and says nothing."""
        try:
            self._send("GET", "/health", b"", ALIVE_S)
        except httpx.HTTPError as error:
            raise self._silent(error) from error

    def _call(self, request: AnyRequest, answer: TypeAdapter[T], timeout_s: float) -> T:
        self._check_alive()
        try:
            response = self._send("POST", path_of(request), request.model_dump_json().encode(), timeout_s)
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        if response.is_success:
            try:
                return answer.validate_json(response.content)
            except ValidationError:
                raise self._strange(response) from None
        try:
            trouble = Trouble.model_validate_json(response.content)
        except ValidationError:
            if response.status_code in _AWAY:  # a proxy before it says so
                raise UnreachableError(f"node {self.url} does not answer: HTTP {response.status_code}") from None
            raise self._strange(response) from None
        raise trouble.raised_by(self.url)

    def _silent(self, error: httpx.HTTPError) -> UnreachableError:
        return UnreachableError(f"node {self.url} does not answer: {type(error).__name__}; is its agent up?")

    def _strange(self, response: httpx.Response) -> ServingError:
        return ServingError(
            f"node {self.url} answers HTTP {response.status_code} with something else than an agent does; is it one?"
        )

    def _send(self, method: str, path: str, body: bytes, timeout_s: float) -> httpx.Response:
        timeout = httpx.Timeout(timeout_s, connect=ALIVE_S)
        headers = {"Authorization": f"Bearer {self.token.get_secret_value()}", "Content-Type": "application/json"}
        # A CA of one's own: SSL_CERT_FILE. Without TLS no certificates are loaded, which would take 20 ms a call.
        verify: Any = ssl.create_default_context() if self.url.startswith("https://") else False
        return httpx.request(
            method, f"{self.url}{path}", content=body, headers=headers, timeout=timeout, trust_env=False, verify=verify
        )


def read_nodes(text: str, token: SecretStr | None) -> tuple[RemoteNode, ...]:
    """Read the list of nodes from the settings.

    Args:
        text: URLs of their agents, separated by commas.
        token: What all of them ask for.

    Raises:
        InputError: One is no URL, one stands there twice, or there is no token.
    """
    given = [part.strip() for part in text.split(",") if part.strip()]
    for url in given:
        parsed = _parsed(url)
        if parsed is None or parsed.scheme not in {"http", "https"} or not parsed.host or parsed.path != "/":
            # A password in it is not to be shown.
            raise InputError(
                f"DELIVERY_NODES: {url.rpartition('@')[2]!r} is not allowed; allowed: http(s)://host:port of each "
                "node's agent, separated by commas"
            )
        if parsed.userinfo or parsed.query:
            raise InputError(f"DELIVERY_NODES: {parsed.host} has a login or a query; the token is DELIVERY_NODE_TOKEN")
    urls = [url.rstrip("/") for url in given]
    twice = sorted({url for url in urls if urls.count(url) > 1})
    if twice:
        raise InputError(f"DELIVERY_NODES: {twice[0]} stands there twice; name each node once")
    if token is None:
        raise InputError("DELIVERY_NODES is set and DELIVERY_NODE_TOKEN is not; give the token of the nodes' agents")
    return tuple(RemoteNode(url, token) for url in urls)


def _parsed(url: str) -> httpx.URL | None:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL:
        return None
