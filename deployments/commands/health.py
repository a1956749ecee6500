"""Is everything well? Look at every part at once, say one line each, and what to do about it.

The parts are asked side by side and none is waited for longer than a few seconds, so that a look never hangs. Prefect
is asked over HTTP, because importing its client would take longer than the whole look.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from tasks.errors import DeliveryError
from tasks.settings import Settings

PATIENCE_S = 8.0
_REQUEST_S = 4.0


class Level(IntEnum):
    """How a part is; the worst of all is the exit code."""

    OK = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One line about one part.

    Attributes:
        part: What was looked at.
        level: How it is.
        text: What was seen.
        todo: What to do; empty where all is well.
    """

    part: str
    level: Level
    text: str
    todo: str = ""

    @property
    def line(self) -> str:
        """The finding for people."""
        return f"{self.level.name:<4} {self.part:<15} {self.text}" + (f"; {self.todo}" if self.todo else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the checks look with.

    Args:
        where: The settings.
        environment: How Prefect and MLflow are reached: their own variables.
        now: The time, UTC.
    """

    where: Settings
    environment: Mapping[str, str]
    now: datetime

    @property
    def pool(self) -> str:
        """The work pool of the deployments."""
        return self.environment.get("DELIVERY_WORK_POOL") or "local"

    def prefect(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Ask the Prefect server.

        Raises:
            DeliveryError: No server is known, it does not answer, or it refuses.
        """
        url = self.environment.get("PREFECT_API_URL", "")
        if not url:
            raise DeliveryError("no server is known here; set PREFECT_API_URL, or start the stack: make up")
        auth, headers = None, {}
        if login := self.environment.get("PREFECT_API_AUTH_STRING"):
            name, _, password = login.partition(":")
            auth = httpx.BasicAuth(name, password)
        elif key := self.environment.get("PREFECT_API_KEY"):
            headers = {"Authorization": f"Bearer {key}"}
        return fetch(method, url.rstrip("/") + path, "PREFECT_API_AUTH_STRING", body=body, auth=auth, headers=headers)

    def mlflow(self, path: str) -> httpx.Response:
        """Ask the MLflow server.

        Raises:
            DeliveryError: It does not answer, or it refuses.
        """
        user = self.environment.get("MLFLOW_TRACKING_USERNAME")
        auth = httpx.BasicAuth(user, self.environment.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
        variables = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return fetch("GET", self.where.mlflow_url.rstrip("/") + path, variables, auth=auth)


def fetch(
    method: str,
    url: str,
    login: str,
    *,
    body: Any = None,
    auth: httpx.Auth | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """Make one request and return its answer, which is a success.

    Args:
        method: Of HTTP.
        url: Without a password in it.
        login: The variables that hold the login, for the message.
        body: Sent as JSON.
        auth: The login.
        headers: More headers.

    Raises:
        DeliveryError: There is no answer, or it is no success.
    """
    try:
        answer = httpx.request(
            method,
            url,
            json=body,
            auth=auth,
            headers=dict(headers or {}),
            timeout=_REQUEST_S,
            trust_env=False,
            verify=_certificates() if url.startswith("https") else False,
        )
    except httpx.HTTPError as error:
        raise DeliveryError(f"{url} does not answer ({type(error).__name__}); start it, or look into its log") from None
    if answer.status_code in {401, 403}:
        raise DeliveryError(f"{url} asks for a login (HTTP {answer.status_code}); set {login}")
    if not answer.is_success:
        raise DeliveryError(f"{url} answers HTTP {answer.status_code}; look into its log")
    return answer


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()  # 20 ms each time, were it not kept


Check = Callable[[Look], Finding]


def look_at(look: Look, checks: Sequence[tuple[str, Check]], patience_s: float = PATIENCE_S) -> list[Finding]:
    """Run the checks side by side and return their findings, in the order of the checks.

    Args:
        look: What they look with.
        checks: Each with the name of its part, for a check that ends with an error or not at all.
        patience_s: For all of them together, seconds.
    """
    found: dict[int, Finding] = {}

    def run(number: int, part: str, check: Check) -> None:
        try:
            found[number] = check(look)
        except DeliveryError as error:
            found[number] = Finding(part, Level.FAIL, str(error))
        except Exception as error:  # noqa: BLE001 - a part that breaks its check must not hide the others
            found[number] = Finding(
                part, Level.FAIL, f"the look at it failed: {type(error).__name__}", "look at its log"
            )

    # Daemons: one that hangs does not keep the command from ending.
    threads = [threading.Thread(target=run, args=(number, *check), daemon=True) for number, check in enumerate(checks)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + patience_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = f"did not answer within {patience_s:g} s"
    return [
        found.get(number) or Finding(part, Level.FAIL, late, "look whether it hangs; start it again")
        for number, (part, _) in enumerate(checks)
    ]


def check_health(where: Settings, environment: Mapping[str, str], patience_s: float = PATIENCE_S) -> list[Finding]:
    """Look at every part of a delivery and return one finding each.

    Args:
        where: The settings.
        environment: The variables of this process.
        patience_s: How long the whole look may take, seconds.
    """
    from deployments.commands.health_parts import CHECKS

    return look_at(Look(where=where, environment=environment, now=datetime.now(UTC)), CHECKS, patience_s)


def as_json(findings: Sequence[Finding]) -> str:
    """Return findings for programs."""
    parts = [{"part": f.part, "level": f.level.name, "text": f.text, "todo": f.todo} for f in findings]
    return json.dumps({"level": worst(findings).name, "parts": parts}, indent=1)


def worst(findings: Sequence[Finding]) -> Level:
    """Return the worst level; its number is the exit code."""
    return max((finding.level for finding in findings), default=Level.FAIL)


PREFECT_FILE = Path(__file__).parents[1] / "prefect.yaml"
"""What ought to be deployed."""
