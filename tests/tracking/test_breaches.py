"""Limits that single calls break become one alert each, whoever saw them, and it ends by itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tasks.evaluation.summary import caller_errors
from tasks.interactions.ingest import ingest_folder
from tasks.interactions.schema import CALLER_ERRORS, Interaction
from tasks.monitors.alerts import AlertState, News, Turn
from tasks.monitors.notices import AlertPolicy, route_by
from tasks.receiver.app import create_app
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.ledger import Ledger
from tasks.tracking import Monitors, Tracker
from tasks.tracking.breaches import MOST, QUIET, Breach, BreachLog, Broken, find_signals, parse_breach, read_breaches
from tasks.tracking.spool import Spool

NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)
DIGEST = "ab" * 32
SECRET = "a secret of somebody"  # noqa: S105 - of this test
SLOW = Monitors(max_latency_ms=1000)
ROUTE = route_by(AlertPolicy())
Serve = Callable[[Starlette], str]


def breach(at: datetime = NOW, application: str = "faq") -> Breach:
    return Breach(
        application=application, release_digest=DIGEST, monitor="latency", time=at, value=4200.0, limit=1000.0, calls=1
    )


def track(folder: Path, at: datetime, *, calls: int = 1, url: str | None = None, latency_ms: float = 4200) -> None:
    with Tracker(
        folder, application="faq", monitors=SLOW, on_breach=lambda *_: None, clock=lambda: at, url=url
    ) as tracker:
        for _ in range(calls):
            tracker.track_interaction(
                input_text=SECRET, output_text=SECRET, user=SECRET, latency_ms=latency_ms, release_digest=DIGEST
            )


def look(logs: Path, ledger: Ledger, at: datetime) -> list[tuple[str, News]]:
    """Do what the flow does every five minutes, and return what is told."""
    signals = find_signals(read_breaches(logs, at), ledger.alerts(), at)
    return [(alert.reason, news) for alert, news in ledger.signal_alerts(signals, ROUTE, at)]


def test_a_breach_is_one_alert_that_counts_and_ends_by_itself(tmp_path: Path) -> None:
    logs, ledger = tmp_path / "logs", Ledger(Settings(state_dir=tmp_path).ledger)
    track(logs, NOW, calls=30)
    assert look(logs, ledger, NOW) == [("latency 4200 ms > limit 1000 ms (30 calls in 6 h)", News.OPENED)]
    (alert,) = ledger.alerts("faq")
    assert (alert.monitor, alert.release_digest, alert.failures) == ("call:latency", DIGEST, 1)
    # Looked at again, nothing is new, and nothing more is on record.
    assert look(logs, ledger, NOW + timedelta(minutes=5)) == []
    assert len(ledger.alert_history(alert.alert_id)) == 1
    track(logs, NOW + timedelta(hours=1))
    assert look(logs, ledger, NOW + timedelta(hours=1)) == []
    (alert,) = ledger.alerts("faq")
    assert (alert.failures, alert.reason) == (2, "latency 4200 ms > limit 1000 ms (31 calls in 6 h)")
    assert look(logs, ledger, NOW + timedelta(hours=7)) == [("no call broke the limit for 6 h", News.RESOLVED)]
    assert ledger.alerts("faq") == []
    assert look(logs, ledger, NOW + timedelta(hours=8)) == []
    track(logs, NOW + timedelta(hours=9))
    assert [news for _, news in look(logs, ledger, NOW + timedelta(hours=9))] == [News.REOPENED]


def test_alerts_of_nights_are_not_ended_by_it(tmp_path: Path) -> None:
    ledger = Ledger(Settings(state_dir=tmp_path).ledger)
    night = find_signals(read_breaches(tmp_path, NOW), [], NOW)
    assert night == ()
    (signal,) = find_signals(_broken(tmp_path, breach()), [], NOW)
    ledger.signal_alerts([signal], ROUTE, NOW)
    (alert,) = ledger.alerts()
    assert find_signals(read_breaches(tmp_path / "none", NOW), [replace(alert, monitor="latency")], NOW) == ()


def _broken(folder: Path, *breaches: Breach) -> Broken:
    path = folder / "faq" / NOW.date().isoformat() / "tracked-1.breaches"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(one.model_dump_json() + "\n" for one in breaches))
    return read_breaches(folder, NOW)


def test_what_a_person_resolved_stays_so_until_a_later_call(tmp_path: Path) -> None:
    logs, ledger = tmp_path / "logs", Ledger(Settings(state_dir=tmp_path).ledger)
    track(logs, NOW)
    look(logs, ledger, NOW)
    (alert,) = ledger.alerts()
    ledger.turn_alert(alert.alert_id, Turn.RESOLVE, ROUTE, NOW, who="Ada", reason="known")
    assert look(logs, ledger, NOW + timedelta(minutes=5)) == []
    assert ledger.alerts(every=True)[0].state is AlertState.RESOLVED


def test_the_files_hold_no_text_and_are_no_part_of_the_log(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    track(logs, NOW)
    (path,) = logs.rglob("*.breaches")
    assert SECRET not in path.read_text()
    assert set(json.loads(path.read_text())) == {
        *("application", "release_digest", "monitor", "time", "value", "limit", "calls")
    }
    assert path.stat().st_mode & 0o777 == 0o600
    lake = Lake(tmp_path / "lake")
    ingest_folder(lake, logs, NOW)
    day = (NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    assert len(lake.window("faq", *day, ["interaction_id"])) == 1


def test_an_outage_writes_a_line_a_minute_and_no_call_is_uncounted() -> None:
    log, written = BreachLog(), []
    for second in range(150):
        due = log.add(breach(NOW + timedelta(seconds=second)))
        written += [due] if due else []
    assert [(one.time - NOW, one.calls) for one in written] == [
        (timedelta(seconds=0), 1),
        (timedelta(seconds=60), 60),
        (timedelta(seconds=120), 60),
    ]
    assert [one.calls for one in log.rest()] == [29]
    assert log.rest() == ()
    # A clock that is set back silences nobody.
    assert log.add(breach(NOW - timedelta(days=1))) is not None


def test_names_that_are_made_up_fill_neither_memory_nor_the_alerts(tmp_path: Path) -> None:
    log = BreachLog()
    written = [log.add(breach(application=f"made-up-{number}")) for number in range(MOST + 50)]
    assert sum(one is not None for one in written) == MOST
    many = _broken(tmp_path, *(breach(application=f"made-up-{number}") for number in range(MOST + 50)))
    assert (len(many.latest), many.left_out) == (MOST, 50)


def test_lines_that_make_no_sense_are_passed_over_and_say_nothing(tmp_path: Path) -> None:
    good = breach().model_dump_json()
    for changes in ({"monitor": SECRET}, {"text": SECRET}, {"calls": 0}, {"value": "1"}, {"application": "x" * 65}):
        line = json.dumps(json.loads(good) | changes)
        reason = parse_breach(line.encode())
        assert isinstance(reason, str)
        assert SECRET not in reason
    path = tmp_path / "faq" / NOW.date().isoformat() / "tracked-1.breaches"
    path.parent.mkdir(parents=True)
    path.write_text(f"nonsense\n\xff\n{good}\n{good}")  # the last is half a line yet
    assert [one.calls for one in read_breaches(tmp_path, NOW).latest.values()] == [1]


def test_old_and_future_breaches_wait_or_are_over(tmp_path: Path) -> None:
    late = [breach(NOW - QUIET), breach(NOW + timedelta(seconds=1))]
    assert _broken(tmp_path, *late).latest == {}


def test_a_forked_process_writes_none_of_its_parents() -> None:
    log = BreachLog()
    log.add(breach())
    log.add(breach(NOW + timedelta(seconds=1)))
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, str(len(log.rest())).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"0"
    os.close(reader)
    os.close(writer)
    assert len(log.rest()) == 1


# --- through a receiver ---


def test_breaches_of_a_tracker_elsewhere_reach_the_alerts(tmp_path: Path, serve: Serve) -> None:
    logs = tmp_path / "logs"
    url = serve(create_app(Spool(logs, "received", lambda: datetime.now(UTC))))
    ahead = datetime.now(UTC) + timedelta(days=2)
    track(tmp_path / "outbox", ahead, calls=3, url=url)
    now = datetime.now(UTC)
    (found,) = read_breaches(logs, now).latest.values()
    # Its clock is two days ahead: what it saw counts from when it was told.
    assert (found.calls, found.release_digest) == (3, DIGEST)
    assert now - timedelta(minutes=1) < found.time <= now


def test_a_receiver_says_which_lines_it_does_not_take_and_keeps_none_of_them(tmp_path: Path, serve: Serve) -> None:
    logs = tmp_path / "logs"
    url = serve(create_app(Spool(logs, "received", lambda: NOW)))
    body = f'{breach().model_dump_json()}\n{{"application":"faq","note":"{SECRET}"}}\n'
    headers = {"Content-Type": "application/x-ndjson"}
    answer = httpx.post(f"{url}/v1/breaches", content=body, headers=headers, trust_env=False).json()
    assert (answer["accepted"], answer["rejected"]) == (1, 1)
    assert [reason["line"] for reason in answer["reasons"]] == [2]
    assert SECRET not in json.dumps(answer)
    assert all(SECRET not in path.read_text() for path in logs.rglob("*") if path.is_file())


def test_calls_do_not_wait_behind_breaches_that_an_older_receiver_does_not_know(tmp_path: Path, serve: Serve) -> None:
    taken: list[str] = []

    async def take(request: Request) -> Response:
        taken.append(request.url.path)
        return Response()

    url = serve(Starlette(routes=[Route("/v1/interactions", take, methods=["POST"])]))
    track(tmp_path / "outbox", NOW, url=url)
    track(tmp_path / "outbox", NOW, url=url, latency_ms=1)
    assert set(taken) == {"/v1/interactions"}
    left = [path for path in (tmp_path / "outbox").iterdir() if path.is_file() and path.name != "lock"]
    assert left == []
    assert len(list((tmp_path / "outbox" / "refused").iterdir())) == 1


# --- whose errors ---


@pytest.mark.parametrize(
    ("status", "kind"), [*product((200, 302, 400, 404, 429, 499, 500, 503), (None, *CALLER_ERRORS, "upstream_broke"))]
)
def test_an_error_is_a_breach_where_evaluations_count_it(status: int, kind: str | None) -> None:
    call = Interaction(interaction_id="i", application="faq", time=NOW, status=status, error_type=kind)
    table = pa.table({"status": pa.array([status], pa.int32()), "error_type": pa.array([kind], pa.string())})
    failed = status >= 400 or kind is not None
    expected = failed and not caller_errors(table)[0].as_py()
    assert bool(Monitors().breaches(call)) is expected
