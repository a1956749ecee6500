"""The check of drivers: the reference passes it, the example of the documentation too, and worse ones do not."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from sample_release import release_of

from tasks.release.model import Autoscaling, Release
from tasks.settings import Settings
from tasks.traffic.conformance import Finding, check_driver
from tasks.traffic.driver import Driver
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.plan import Plan
from tasks.traffic.servers import Server, free_port, write_server

DOCUMENT = Path(__file__).parents[2] / "docs" / "drivers.md"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
A, B = release_of(1), release_of(2)


def example() -> Any:
    """Run the code of the documentation and return what it defines."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    code = next(block for block in blocks if "class MemoryDriver" in block)
    scope: dict[str, Any] = {"__name__": "our_driver"}
    exec(compile(code, str(DOCUMENT), "exec"), scope)  # noqa: S102 - it is our own document
    return scope


def test_the_example_of_the_documentation_keeps_everything() -> None:
    driver: Driver = example()["make"](Settings())
    assert check_driver(driver, (A, B), NOW) == [
        Finding("scale", "a MemoryDriver runs one replica of bot 1; set max_replicas to 1", breaks=False),
        Finding("stand_by", "a MemoryDriver has nobody who answers in place of a release of faq", breaks=False),
    ]
    assert driver.running("faq") == (B.digest,)


def _forgets_the_fence(driver: Any) -> None:
    driver._check = lambda _plan: None


def _retires_anything(driver: Any) -> None:
    driver.retire = lambda _application, digest: driver._releases.pop(digest, None)


def _says_the_wrong_plan(driver: Any) -> None:
    driver.observe = lambda _application: (A.digest,) * 1000


def _counts_nothing(driver: Any) -> None:
    driver._asked.clear()
    driver._count = lambda _digest: None


def _answers_as_another(driver: Any) -> None:
    driver.probe = lambda _release, question, timeout_s: driver.ask("faq", "user", question, timeout_s)


def _takes_every_number_of_replicas_and_then_fails(driver: Any) -> None:
    def scale(release: Release, spec: Autoscaling) -> None:
        raise ValueError(f"{release.label} {spec.max_replicas}")

    driver.scale = scale


@pytest.mark.parametrize(
    ("harm", "method", "statement"),
    [
        (_forgets_the_fence, "apply", "took revision 1 after revision 2"),
        (_forgets_the_fence, "apply", "gave users to a release that nobody ensured"),
        (_retires_anything, "retire", "stopped a release that has users"),
        (_says_the_wrong_plan, "observe", "does not return the plan that shares the users"),
        (_counts_nothing, "routed", "3 requests were answered; it saw 0, 0 of them failed"),
        (_answers_as_another, "ensure", "raised KeyError: 'faq'"),
        (_takes_every_number_of_replicas_and_then_fails, "scale", "raised ValueError: bot 1 1"),
    ],
)
def test_a_driver_that_keeps_less_is_found_out(harm: Callable[[Any], None], method: str, statement: str) -> None:
    driver = example()["make"](Settings())
    harm(driver)
    assert Finding(method, statement) in check_driver(driver, (A, B), NOW)


class _Says(BaseHTTPRequestHandler):
    digest = ""

    def do_GET(self) -> None:
        self._send(f'{{"digest": "{self.digest}"}}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send('{"choices": [{"message": {"content": "yes"}}]}')

    def _send(self, text: str) -> None:
        self.send_response(200)
        self.send_header("X-Release", self.digest)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(digest: str) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Says", (_Says,), {"digest": digest}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.stack
def test_haproxy_keeps_what_a_rollout_relies_on(tmp_path: Path) -> None:
    driver = HaproxyDriver(tmp_path / "haproxy", tmp_path / "servers", f"http://127.0.0.1:{free_port()}")
    with answering(A.digest) as first, answering(B.digest) as second:
        for each, port in ((A, first), (B, second)):
            wish = Server(application="faq", registry_version=each.registry_version, digest=each.digest, port=port)
            write_server(driver.servers, wish)
        process = subprocess.Popen(driver.prepare(), cwd=driver.folder, stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                with suppress(httpx.HTTPError):
                    if httpx.get(f"{driver.url}/health", trust_env=False).is_success:
                        break
                time.sleep(0.05)
            findings = check_driver(driver, (A, B), NOW)
        finally:
            process.terminate()
            process.wait(timeout=10)
    assert [finding for finding in findings if finding.method != "scale"] == []


def test_the_plans_of_the_check_are_ordinary_ones() -> None:
    seen = list[Plan]()
    driver = example()["make"](Settings())
    taken = driver.apply

    def apply(plan: Plan) -> None:
        seen.append(plan)
        taken(plan)

    driver.apply = apply
    check_driver(driver, (A, B), NOW, revision=41)
    assert [plan.revision for plan in seen] == [41, 41, 42, 41, 43, 44, 45]
    assert {plan.author for plan in seen} == {"conformance"}
