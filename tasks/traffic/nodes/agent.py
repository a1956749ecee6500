"""The agent of a node: the local data path, for flows of other machines.

A thin shell: it checks who asks and what is asked, calls the local driver, and carries its errors over. What it is
asked and what it answers stand in no log.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tasks.errors import DeliveryError, InputError, ServingError, UnreachableError
from tasks.release.model import Autoscaling, Release
from tasks.traffic.driver import Answer, Driver, Question, Routed
from tasks.traffic.nodes.following import Follower
from tasks.traffic.nodes.messages import REQUESTS, AnyRequest, Trouble
from tasks.traffic.plan import Plan

MAX_BODY_BYTES: Final = 4 * 2**20
LEAST_TOKEN: Final = 16
TOKEN_VARIABLE: Final = "DELIVERY_NODE_TOKEN"  # noqa: S105 - the name of a variable
_HEALTH_S = 2.0
_CLIENT_LEFT = 499
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalDriver:
    """The data path of this node, which may be down, and knows from the ledger what it was not told.

    Args:
        follower: Of the data path.
    """

    follower: Follower

    def ensure(self, release: Release) -> None:
        """Have a release run."""
        self._driver.ensure(release)

    def probe(self, release: Release, question: Question, timeout_s: float) -> Answer:
        """Ask a release past the plan."""
        return self._driver.probe(release, question, timeout_s)

    def apply(self, plan: Plan) -> None:
        """Put a plan into effect; a release that was deployed while this node was away is deployed first."""
        if set(plan.counts()) - set(self._driver.running(plan.application)):
            self.follower.deploy(plan)
        self._driver.apply(plan)

    def observe(self, application: str) -> tuple[str, ...] | None:
        """Read the plan in effect."""
        return self._driver.observe(application)

    def ask(self, application: str, unit: str, question: Question, timeout_s: float) -> Answer:
        """Ask through the data path.

        Raises:
            ServingError: Nobody listens there, so nobody was asked.
        """
        answer = self._driver.ask(application, unit, question, timeout_s)
        if answer.error == "ConnectError":
            raise ServingError("nobody listens on the address of the data path")
        return answer

    def scale(self, release: Release, spec: Autoscaling) -> None:
        """Set the limits of a release's replicas."""
        self._driver.scale(release, spec)

    def stand_by(self, application: str, proven: Sequence[str]) -> None:
        """Say who may answer for whom."""
        self._driver.stand_by(application, proven)

    def routed(self, digest: str) -> Routed:
        """Read the counters of a release."""
        return self._driver.routed(digest)

    def running(self, application: str) -> tuple[str, ...]:
        """Name the releases that run."""
        return self._driver.running(application)

    def retire(self, application: str, digest: str) -> None:
        """Stop a release."""
        self._driver.retire(application, digest)

    @property
    def _driver(self) -> Driver:
        return self.follower.driver


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def create_agent(driver: Driver, token: str, data_url: str) -> Starlette:
    """Return the agent.

    Args:
        driver: The data path of this machine.
        token: Asked of every request but ``/health``, at least 16 characters.
        data_url: Where the data path listens; whether it does tells a failure from an absence.

    Raises:
        InputError: There is no such token.
    """
    check_token(token)
    agent = _Agent(driver, f"Bearer {token}".encode(), data_url)
    routes = [Route(f"/v1/{name}", agent.endpoint(kind), methods=["POST"]) for name, kind in REQUESTS.items()]
    return Starlette(routes=[*routes, Route("/health", _health)])


def check_token(token: str | None) -> None:
    """See that there is a token that nobody guesses.

    Raises:
        InputError: There is none, or it is too short.
    """
    if not token:
        raise InputError(f"{TOKEN_VARIABLE} is not set: whoever reaches a node's agent says who serves its users")
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"{TOKEN_VARIABLE} has {len(token)} characters; give at least {LEAST_TOKEN} of ASCII without spaces, "
            f"such as: openssl rand -hex 32"
        )


@dataclass(frozen=True, slots=True)
class _Agent:
    driver: Driver
    expected: bytes
    data_url: str

    def endpoint(self, kind: type[AnyRequest]) -> Callable[[Request], Awaitable[Response]]:
        """Return what answers one kind of request."""

        async def answer(request: Request) -> Response:
            try:
                self._check(request)
                read = _parse(kind, await _body(request))
            except _RefusedError as refused:
                return _trouble(refused.status, InputError(str(refused)))
            except ClientDisconnect:
                return Response(status_code=_CLIENT_LEFT)
            return await run_in_threadpool(self._run, read)

        return answer

    def _check(self, request: Request) -> None:
        shown = request.headers.get("authorization", "").encode("latin-1", errors="replace")
        if not hmac.compare_digest(shown, self.expected):
            raise _RefusedError(401, f"the token is missing or wrong; give the flows the {TOKEN_VARIABLE} of the node")

    def _run(self, request: AnyRequest) -> Response:
        try:
            return Response(to_json(request.run(self.driver)), media_type="application/json")
        except ServingError as error:
            if _is_up(self.data_url):
                return _trouble(409, error)
            return _trouble(503, UnreachableError(f"its data path is down: {error}"))
        except DeliveryError as error:
            return _trouble(409, error)
        except Exception as error:  # noqa: BLE001 - the text of a defect may hold what was asked; its type does not
            what = f"{type(error).__name__} {getattr(error, 'strerror', None) or ''}".strip()
            _LOGGER.error("%s failed: %s", type(request).__name__, what)  # noqa: TRY400 - as above
            return _trouble(500, ServingError(f"{type(request).__name__} failed: {what}; see the log of its agent"))


def _is_up(data_url: str) -> bool:
    try:
        # Plain HTTP of this machine: no certificates to load.
        return httpx.get(f"{data_url}/health", timeout=_HEALTH_S, trust_env=False, verify=False).is_success  # noqa: S501
    except httpx.HTTPError:
        return False


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise _RefusedError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _parse(kind: type[AnyRequest], body: bytes) -> AnyRequest:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        # Not what was given: it may be a prompt or a question.
        found = [f"{'.'.join(map(str, item['loc'])) or 'the body'}: {item['type']}" for item in error.errors()[:5]]
        raise _RefusedError(422, f"{kind.__name__}: {'; '.join(found)}; is the node of another version?") from None


def _trouble(status: int, error: DeliveryError) -> JSONResponse:
    return JSONResponse(Trouble.of(error).model_dump(), status_code=status)


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})
