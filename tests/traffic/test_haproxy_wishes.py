"""The wish for the replicas of a release: read strictly, limited, and followed one safe step at a time."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from sample_release import release_of

from tasks.errors import DeliveryError, InputError, UnsupportedError
from tasks.release.model import Autoscaling
from tasks.traffic.autoscaling import Load
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.haproxy.statistics import Backend, Slot
from tasks.traffic.replicas import followed, replica_limit
from tasks.traffic.servers import Server, read_servers, write_server

QUICK = Autoscaling(max_replicas=3, target_ongoing_requests=2, upscale_delay_s=2, downscale_delay_s=3)
A = release_of(1, autoscaling=QUICK)


def test_more_replicas_than_the_machine_may_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = HaproxyDriver(tmp_path / "haproxy", tmp_path / "servers", "http://127.0.0.1:1")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(UnsupportedError, match=r"^autoscaling of bot 1: max_replicas 9 > 8, the most replicas of one "):
        driver.scale(A, Autoscaling(max_replicas=9))
    assert read_servers(driver.servers) == []
    monkeypatch.setenv("DELIVERY_MAX_REPLICAS", "9")
    driver.scale(A, Autoscaling(max_replicas=9))
    assert len(read_servers(driver.servers)[0].ports) == 9
    with pytest.raises(UnsupportedError, match=r"max_replicas 10 > 9, .* \(4 a CPU unless DELIVERY_MAX_REPLICAS says"):
        driver.scale(A, Autoscaling(max_replicas=10))
    for text in ("0", "many", "-1", "1.5", ""):
        monkeypatch.setenv("DELIVERY_MAX_REPLICAS", text)
        with pytest.raises(InputError, match=f"DELIVERY_MAX_REPLICAS: '{text}' is not allowed; allowed: a whole"):
            replica_limit()


OLD = {"application": "faq", "registry_version": 1, "digest": "a" * 64, "port": 8001}


def test_a_wish_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OLD), encoding="utf-8")
    (server,) = read_servers(tmp_path)
    assert (server.ports, server.replicas, server.serving, server.autoscaling) == ((8001,), 1, 1, Autoscaling())
    (tmp_path / "a.json").unlink()
    write_server(tmp_path, replace(server, more_ports=(8002,), replicas=2))
    assert read_servers(tmp_path) == [replace(server, more_ports=(8002,), replicas=2)]


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (OLD | {"colour": "red"}, "colour Unexpected keyword argument"),
        (OLD | {"port": "8001"}, "port Input should be a valid integer"),
        (OLD | {"port": 0}, "port Input should be greater than 0"),
        (OLD | {"serving": 2}, "Value error, serving 2, replicas 1 and 1 ports must not decrease from 1"),
        (OLD | {"replicas": 2}, "Value error, serving 1, replicas 2 and 1 ports"),
        (OLD | {"autoscaling": {"max_replicas": 0}}, "autoscaling.max_replicas Input should be greater than or"),
    ],
)
def test_a_wish_that_is_none_is_refused_by_its_name(tmp_path: Path, wish: dict[str, object], said: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(wish), encoding="utf-8")
    with pytest.raises(DeliveryError, match=rf"a\.json is not the wish for a release server \({re.escape(said)}"):
        read_servers(tmp_path)


def wish_of(replicas: int, serving: int) -> Server:
    ports = (9001, 9002, 9003)
    return Server(
        application="faq",
        registry_version=1,
        digest=A.digest,
        port=ports[0],
        more_ports=ports[1:],
        replicas=replicas,
        serving=serving,
        autoscaling=QUICK,
    )


@pytest.mark.parametrize(
    ("now", "on", "sessions", "is_settled", "wanted", "answering", "then"),
    [
        ((1, 1), "100", (4, 0, 0), True, 3, 1, (3, 1)),  # two processes more
        ((3, 1), "100", (4, 0, 0), True, 3, 1, (3, 1)),  # they do not answer yet
        ((3, 1), "100", (4, 0, 0), True, 3, 2, (3, 2)),  # one does
        ((3, 2), "110", (4, 0, 0), True, 3, 3, (3, 3)),
        ((3, 3), "111", (1, 0, 1), True, 1, 3, (3, 1)),  # two are too many: switched off first
        ((3, 1), "111", (1, 0, 0), True, 1, 1, (3, 1)),  # not switched off yet
        ((3, 1), "100", (1, 0, 1), True, 1, 1, (3, 1)),  # one has a call
        ((3, 1), "100", (1, 0, 0), False, 1, 1, (3, 1)),  # a worker of before a reload may still give it one
        ((3, 1), "100", (1, 0, 0), True, 1, 1, (1, 1)),  # now they may end
        ((3, 1), "100", (9, 0, 1), True, 3, 3, (3, 3)),  # wanted again before they ended
        ((3, 1), "100", (9, 0, 0), True, 2, 2, (2, 2)),
    ],
)
def test_a_replica_serves_once_it_answers_and_ends_once_it_is_idle(  # noqa: PLR0917 - pytest passes them by name
    now: tuple[int, int],
    on: str,
    sessions: tuple[int, ...],
    is_settled: bool,
    wanted: int,
    answering: int,
    then: tuple[int, int],
) -> None:
    slots = tuple(
        Slot(name=f"s{number}", port=9000 + number, sessions=calls, is_on=flag == "1")
        for number, (calls, flag) in enumerate(zip(sessions, on, strict=True), 1)
    )
    backend = Backend(slots=slots, load=Load(sessions=sum(sessions), queued=0), is_settled=is_settled)
    after = followed(wish_of(*now), backend, wanted, answering)
    assert (after.replicas, after.serving) == then
