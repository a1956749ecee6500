"""From a failed verdict on record to the last wrong answer, by the automation and by a direct call of the flow.

Run it with ``python tests/bench/bench_rollback.py [cycles]``; it starts a stack of its own. Each cycle promotes the
demo's second release, writes a failed verdict about it and watches, at fifty questions a second, until the first one
answers again. The verdict of a cycle is announced by its event, and Prefect's automation starts the flow; after every
fifth comes a cycle whose flow is called in this process, which is as fast as the flow itself can be. Every cycle is
printed as it ends, so that a run that was cut short has said what it saw.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import httpx

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = "faq"
RATE = 50.0
DIRECT_EVERY = 5
Way = Callable[[str, str], None]
PATIENCE_S = 60.0
TARGET_S, WORST_S = 5.0, 15.0


@dataclass(slots=True)
class Client:
    """Asks all the time and remembers who answered when."""

    url: str
    seen: list[tuple[float, str, int]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        body = {"messages": [{"role": "user", "content": "How do I reset my password?"}]}
        headers = {"X-User-Id": f"bench-{number}"}
        with httpx.Client(trust_env=False, timeout=30) as client:
            due = time.monotonic()
            while not self.stop.is_set():
                due += 4 / RATE
                time.sleep(max(0.0, due - time.monotonic()))
                asked = time.monotonic()
                try:
                    answer = client.post(f"{self.url}/{APPLICATION}/v1/chat/completions", json=body, headers=headers)
                    self.seen.append((asked, answer.headers.get("X-Release", ""), answer.status_code))
                except httpx.HTTPError:
                    self.seen.append((asked, "", 0))

    @contextmanager
    def asking(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(4)]
        for thread in threads:
            thread.start()
        yield
        self.stop.set()
        for thread in threads:
            thread.join()

    def last_wrong(self, digest: str, since: float) -> float:
        """Return how long after a moment the last answer of a release was asked for, once it answers no more."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            later = [entry for entry in list(self.seen) if entry[0] > since]
            wrong = [asked for asked, release, _ in later if release == digest]
            quiet_since = max([since, *wrong])
            if wrong and later and later[-1][0] - quiet_since > 2.0:
                return max(wrong) - since
            time.sleep(0.05)
        raise SystemExit(f"release {digest[:12]} still answers after {PATIENCE_S:.0f} s")


def promote(release_file: Path) -> str:
    """Give every user to a release, whatever was said of it before, and return its digest."""
    from flows.rollout import rollout
    from tasks.release.model import read_release_file
    from tasks.release.ramp import RampPolicy

    state = rollout(
        read_release_file(release_file), RampPolicy(enabled=False), override_reason="bench", return_state=True
    )
    if state.name != "Promoted":
        raise SystemExit(f"{release_file.name}: {state.name}: {state.message}")
    return str(state.data.result if hasattr(state.data, "result") else state.data)


def fail(digest: str) -> tuple[str, float]:
    """Write a failed verdict, and return its reason and the moment it was written."""
    from tasks.monitors.verdict import Check, Outcome, Verdict
    from tasks.settings import settings
    from tasks.stores.ledger import Ledger

    now = datetime.now(UTC)
    check = Check(monitor="quality", outcome=Outcome.FAIL, statement="quality 0.31 < 0.7", value=0.31, limit=0.7, n=900)
    verdict = Verdict(
        application=APPLICATION,
        release_digest=digest,
        window_start=now - timedelta(days=1),
        window_end=now,
        checks=(check,),
    )
    Ledger(settings().ledger).record_verdict(verdict, kind="evaluation")
    return verdict.reason, time.monotonic()


def by_event(digest: str, reason: str) -> None:
    """Announce a verdict as the evaluation does."""
    from prefect.events import emit_event

    from tasks.events import event_resource

    payload = {"application": APPLICATION, "release_digest": digest, "reason": reason}
    emit_event("delivery.verdict.fail", resource=event_resource(APPLICATION, digest), payload=payload)


def by_call(digest: str, reason: str) -> None:
    """Call the flow."""
    from flows.rollback import rollback

    rollback(APPLICATION, reason, release=digest, return_state=True)


def main(cycles: int) -> int:
    """Print the times; return 1 where they are too long or a request failed."""
    from deployments.stack.services import choose_ports
    from deployments.stack.stack import running_stack

    with (
        tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as folder,
        running_stack(Path(folder) / "s", choose_ports(fixed=False), lambda _: None) as layout,
    ):
        os.environ.update(layout.variables())
        from deployments.demo.bot import register_models
        from tasks.stores.registry import Registry

        register_models(Registry(layout.mlflow_url))
        releases = ROOT / "deployments" / "demo" / "releases"
        promote(releases / "v1.yaml")
        client, times = Client(layout.data_url), dict[Way, list[float]]({by_event: [], by_call: []})
        with client.asking():
            for way in _ways(cycles):
                bad = promote(releases / "v2.yaml")
                time.sleep(1.0)
                reason, since = fail(bad)
                way(bad, reason)
                times[way].append(client.last_wrong(bad, since))
                print(f"{way.__name__} {len(times[way])}: {times[way][-1]:.2f} s", flush=True)  # noqa: T201
                _settle()
    failed = sum(1 for _, _, status in client.seen if status != httpx.codes.OK)
    print(f"{len(client.seen)} requests at {RATE:g} a second, {failed} failed")  # noqa: T201
    for way, found in times.items():
        ordered = sorted(found)
        p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
        spread = f"median {median(ordered):.2f} s, 99 % {p99:.2f} s, max {ordered[-1]:.2f} s"
        print(f"{way.__name__}: n={len(ordered)} {spread}")  # noqa: T201
    ratio = median(times[by_event]) / median(times[by_call])
    good = median(times[by_event]) <= TARGET_S and max(times[by_event]) <= WORST_S and not failed
    print(f"by event / by call: {ratio:.1f}; {'PASS' if good else 'FAIL'}")  # noqa: T201
    return int(not good)


def _ways(cycles: int) -> Iterator[Way]:
    """Yield how each cycle's flow is started: all by event, and one direct call after every fifth and the last."""
    for cycle in range(1, cycles + 1):
        yield by_event
        if cycle % DIRECT_EVERY == 0 or cycle == cycles:
            yield by_call


def _settle() -> None:
    """Wait until nobody changes the application any more."""
    from tasks.settings import settings
    from tasks.stores.ledger import Ledger

    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        expiry = Ledger(settings().ledger).lease_expiry(APPLICATION)
        rollouts = Ledger(settings().ledger).rollouts(APPLICATION)
        if all(found.is_finished for found in rollouts) and (expiry is None or expiry < datetime.now(UTC)):
            return
        time.sleep(0.2)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
