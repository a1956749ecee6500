"""What tests of the flows of evaluation put on stage: releases, plans, calls and their log."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prefect.client.orchestration import get_client
from sample_release import URL, spec_of

from flows.forget import forget
from flows.maintenance import maintenance
from tasks import settings as settings_module
from tasks.interactions.schema import Interaction, as_table, rejected_table
from tasks.monitors.verdict import Verdict
from tasks.release.model import PromptRef, Release
from tasks.stores.example_pages import PAGES
from tasks.stores.lake import Lake
from tasks.stores.lake_forget import hash_user
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry
from tasks.traffic.plan import Plan

START = datetime(2026, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)
CITIES = ["Delhi", "Lisbon", "Hanoi", "Quito", "Accra", "Oslo", "Lima", "Tunis", "Minsk", "Dhaka", "Seoul"]
N = 150
PRICE = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 10}


class Webhook:
    """A server on the loopback that takes notices, or refuses them.

    Attributes:
        status: What it answers.
        seen: Path and body of every request.
    """

    def __init__(self) -> None:
        self.status = 200
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Webhook]:
        """Run one until the block ends."""
        hook = cls()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the name is the library's
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if hook.status == 200:
                    hook.seen.append((self.path, body))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        hook.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hook
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def register(config: settings_module.Settings, application: str, version: str, **more: Any) -> Release:
    """Register a release, with a price unless one is given."""
    prompt = PromptRef(name=f"{application}-prompt", text="Answer from the context.")
    spec = spec_of(version, **{"application": application, "endpoint": URL, "prompt": prompt, "price": PRICE, **more})
    return Registry(config.mlflow_url).register(spec)[0]


def serve(config: settings_module.Settings, *plans: tuple[Release, ...]) -> None:
    """Put plans on record, one after the other; the users are shared out equally."""
    with closing(Ledger(config.ledger)) as ledger:
        application = plans[0][0].application
        lease = ledger.acquire(application, "test", datetime.now(UTC))
        for revision, releases in enumerate(plans, start=1):
            buckets = tuple(releases[at % len(releases)].digest for at in range(1000))
            plan = Plan(
                application=application,
                revision=revision,
                salt="s",
                buckets=buckets,
                author="test",
                reason="test",
                time=START,
            )
            if revision > 1:
                ledger.begin_rollout(lease, releases[-1].digest, "by the test", START)
            ledger.write_plan(plan, lease)


def call(release: Release, at: int, day: datetime, *, wrong: bool = False, **more: Any) -> Interaction:
    """Return a call of a minute of a day."""
    city, other = CITIES[at % len(CITIES)], CITIES[(at + 1) % len(CITIES)]
    plain = Interaction(
        interaction_id=f"{release.short}-{day:%d}-{at}",
        application=release.application,
        release_digest=release.digest,
        time=day + timedelta(minutes=at),
        model="bot",
        input_text=f"In what city does company {at} have its head office?",
        context_text=f"Company {at} is a hotel company with its head office in {city}.",
        output_text=other if wrong else city,
        input_tokens=12,
        output_tokens=2,
        latency_ms=100.0 + at,
        status=200,
        finish_reason="stop",
    )
    return plain.model_copy(update=more)


def log(config: settings_module.Settings, calls: list[Interaction]) -> None:
    """Put calls into the lake."""
    Lake(config.lake_dir).append(
        calls[0].interaction_id,
        expected=0,
        offset=1,
        interactions=as_table(calls),
        rejected=rejected_table("none", [], START),
    )


def spread(release: Release, day: datetime, hours: range, each: int = 25) -> list[Interaction]:
    """Return calls in every one of some hours of a day."""
    return [
        call(release, hour * each + at, day, time=day + timedelta(hours=hour, minutes=at))
        for hour in hours
        for at in range(each)
    ]


def spoken(release: Release, at: int, night: datetime, more: str) -> Interaction:
    """Return a call of a known user whose answer ends with more words."""
    plain = call(release, at, night, unit=f"u{at}", unit_kind="user", route="chat", language="en")
    return plain.model_copy(update={"output_text": f"{plain.output_text}.{more}"})


def check_what_moved(config: settings_module.Settings, verdict: Verdict) -> None:
    """Assert who is shown what: the report has terms, the file of examples texts, artifact and run neither."""
    folder = config.state_dir / "reports" / "wordy"
    (report,) = [path for path in folder.glob("*.html") if "examples" not in path.name]
    html = report.read_text(encoding="utf-8")
    assert "“Anything else” went from 0% to 100% of users or sessions" in html
    assert "answer text: interactions that look newest: " in html
    assert not any(city in html for city in CITIES)
    (examples,) = folder.glob("*-examples.html")
    assert "Anything else?" in examples.read_text(encoding="utf-8")
    assert examples.stat().st_mode & 0o777 == 0o600
    with get_client(sync_client=True) as client:
        (shown,) = [str(item.data) for item in client.read_artifacts() if item.key == "evaluation-wordy"]
    assert "What moved, bot 1:" in shown
    assert "Anything" not in shown
    assert f"interactions that look newest: {verdict.release_digest[:12]}-" in shown
    from mlflow import MlflowClient

    client_of_runs = MlflowClient(config.mlflow_url)
    runs = client_of_runs.search_runs(
        [one.experiment_id for one in client_of_runs.search_experiments()],
        f"tags.`delivery.digest` = '{verdict.release_digest}'",
    )
    assert runs[0].data.metrics["drift.answer_text"] == 1.0
    assert not [file.path for file in client_of_runs.list_artifacts(runs[0].info.run_id) if "examples" in file.path]


def check_pages_are_cared_for(config: settings_module.Settings, again: Callable[[], object]) -> None:
    """Assert that the deletion of a user, and retention, reach the file of examples."""
    folder = config.state_dir / "reports" / "wordy"
    (page,) = folder.glob("*-examples.html")
    shown = page.read_text(encoding="utf-8")
    name = shown.split("<td>answer text</td><td>")[1].split("<")[0]
    user = f"u{name.split('-')[-1]}"
    forget(hash_user(user), dry_run=True)
    assert page.exists()
    assert forget(hash_user(user))[0].table == PAGES
    assert not page.exists(), "the page showed a call of the user who is forgotten"
    again()
    assert name not in page.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").count("<tr><td>") == shown.count("<tr><td>")
    assert maintenance(text_days=1)[0].table == PAGES
    assert not page.exists(), "the texts of its window are emptied"
    assert len(list(folder.glob("*.html"))) == 1, "the report, which has no text, stays"
