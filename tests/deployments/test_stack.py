"""A whole stack: one a folder, on record while it runs, ended from inside, from outside and after a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.stack import stack as stack_module
from deployments.stack.services import DEFAULT_PORTS, Layout, Ports, Service, choose_ports
from deployments.stack.stack import Record, read_record, running_stack, stop
from deployments.stack.sweep import marked
from tasks.errors import StackError

WAITS = "print('up', flush=True); import time; time.sleep(600)"
PYTHON = (sys.executable, "-I", "-S", "-c")

Start = Callable[..., subprocess.Popen[str]]


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def record_of(process: subprocess.Popen[str], mark: str, **changes: Any) -> Record:
    values = {"pid": process.pid, "started": psutil.Process(process.pid).create_time(), "mark": mark, "state": "/s"}
    return Record(**{**values, "ports": Ports(prefect=1, mlflow=2, data=3), **changes})


def write_record(state: Path, record: Record) -> None:
    (state / "stack.json").write_text(json.dumps(asdict(record)), encoding="utf-8")


# --- the record of a stack ---


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    ports = Ports(prefect=4200, mlflow=5000, data=8080)
    own = Record(pid=os.getpid(), started=psutil.Process().create_time(), mark="m", state=str(tmp_path), ports=ports)
    write_record(tmp_path, own)
    assert read_record(tmp_path) == own
    assert own.is_running
    assert own.layout.variables()["DELIVERY_DATA_URL"] == "http://127.0.0.1:8080"


WHOLE = {"pid": 7, "started": 1.0, "mark": "m", "state": "/s", "ports": {"prefect": 1, "mlflow": 2, "data": 3}}


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"null", b"[]", b"7", b'"x"', b"{}", b"\xff\xfe", b"{" * 9999),
        json.dumps({name: value for name, value in WHOLE.items() if name != "mark"}).encode(),
        *(json.dumps(WHOLE | {"mark": mark}).encode() for mark in (None, "", 7)),
        *(json.dumps(WHOLE | {"pid": pid}).encode() for pid in (None, 0, -1, 2**40, "x")),
        *(json.dumps(WHOLE | {"started": started}).encode() for started in (None, "yesterday")),
        *(json.dumps(WHOLE | {"ports": ports}).encode() for ports in (None, 7, [], {}, {"prefect": 1})),
    ],
)
def test_a_record_that_cannot_be_trusted_is_none_and_nothing_is_ended_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    (tmp_path / "stack.json").write_bytes(text)
    monkeypatch.setattr("deployments.stack.stack.sweep", lambda mark: pytest.fail(f"swept {mark!r}"))
    assert read_record(tmp_path) is None
    assert not stop(tmp_path)


@pytest.mark.stack
def test_a_stack_runs_as_long_as_the_process_that_started_it(start: Start, mark: str) -> None:
    process = start(mark)
    record = record_of(process, mark)
    assert record.is_running
    assert not record_of(process, mark, started=record.started - 100).is_running  # its number was given away
    process.kill()
    process.wait()
    assert not record.is_running


# --- ending it from outside ---


def test_where_nothing_runs_there_is_nothing_to_stop(tmp_path: Path) -> None:
    assert not stop(tmp_path)
    assert not stop(tmp_path / "nope")


@pytest.mark.stack
def test_stop_ends_the_holder_and_what_it_left(tmp_path: Path, start: Start, mark: str) -> None:
    holder, left = start(uuid.uuid4().hex), start(mark, WAITS)
    assert (said(holder), said(left)) == ("up", "up")
    write_record(tmp_path, record_of(holder, mark))
    assert stop(tmp_path)
    assert holder.wait(timeout=30) in (-signal.SIGTERM, 0)  # psutil may have asked for the code first
    assert marked(mark) == []
    assert not (tmp_path / "stack.json").exists()
    assert not stop(tmp_path)


@pytest.mark.stack
def test_stop_after_a_crash_ends_what_is_left_but_no_stranger_with_the_same_number(
    tmp_path: Path, start: Start, mark: str
) -> None:
    stranger, left = start(uuid.uuid4().hex), start(mark)
    write_record(tmp_path, record_of(stranger, mark, started=1.0))
    assert stop(tmp_path)
    assert marked(mark) == []
    assert left.wait(timeout=30) in (-signal.SIGTERM, 0)
    assert stranger.poll() is None
    assert not (tmp_path / "stack.json").exists()


# --- a whole stack, of small servers ---


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what a stack consists of."""

    def small_service(name: str) -> Callable[..., Service]:
        return lambda layout, *_: Service(name=name, command=(*PYTHON, WAITS), folder=layout.state)

    for name in ("mlflow", "prefect", "haproxy", "worker"):
        monkeypatch.setattr(stack_module, f"{name}_service", small_service(name))
    monkeypatch.setattr(stack_module, "_deploy", lambda _: None)


@contextmanager
def running(state: Path, lines: list[str] | None = None) -> Iterator[Layout]:
    with running_stack(state, Ports.free(), say=(lines if lines is not None else []).append) as layout:
        yield layout


@pytest.mark.stack
@pytest.mark.usefixtures("small")
def test_a_stack_is_on_record_while_it_runs_and_only_one_runs_in_a_folder(tmp_path: Path) -> None:
    state, lines = tmp_path / "state", list[str]()
    with running(state, lines) as layout:
        record = read_record(state)
        assert record is not None
        assert record.is_running
        assert record.layout == layout
        assert [line.split()[0] for line in lines] == ["mlflow", "prefect", "haproxy", "every", "nursery", "worker"]
        assert (state.stat().st_mode & 0o777, (state / "stack.json").stat().st_mode & 0o777) == (0o700, 0o600)
        with pytest.raises(StackError, match=rf"or end it with: delivery down --state {state}$"):
            running(state).__enter__()
        assert read_record(state) == record
        assert marked(layout.mark)
    assert read_record(state) is None
    assert marked(layout.mark) == []


@pytest.mark.stack
@pytest.mark.usefixtures("small")
def test_a_stack_ends_whatever_ends_its_block_and_the_next_one_sweeps_what_a_crash_left(
    tmp_path: Path, start: Start
) -> None:
    left = uuid.uuid4().hex
    old = {"pid": 2**30, "started": 1.0, "mark": left, "state": str(tmp_path), "ports": DEFAULT_PORTS}
    (tmp_path / "stack.json").write_text(json.dumps(old), encoding="utf-8")
    orphan, layouts = start(left), []

    def interrupted() -> None:
        with running(tmp_path) as layout:
            layouts.append(layout)
            assert orphan.poll() is not None
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        interrupted()
    assert marked(layouts[0].mark) == []
    assert read_record(tmp_path) is None


@pytest.mark.stack
@pytest.mark.usefixtures("small")
def test_a_stack_that_cannot_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = []

    def fail(layout: Layout) -> None:
        marks.append(layout.mark)
        raise StackError("prefect deploy failed")

    monkeypatch.setattr(stack_module, "_deploy", fail)
    with pytest.raises(StackError, match="prefect deploy failed"), running(tmp_path):
        pytest.fail("it started")
    assert marked(marks[0]) == []
    assert read_record(tmp_path) is None


# --- ports ---


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DEFAULT_PORTS:
        monkeypatch.delenv(f"DELIVERY_{name.upper()}_PORT", raising=False)


@pytest.mark.usefixtures("no_variables")
def test_ports_are_the_well_known_ones_or_free_ones_or_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose_ports(fixed=True) == Ports(prefect=4200, mlflow=5000, data=8080)
    free = choose_ports(fixed=False)
    assert len({free.prefect, free.mlflow, free.data}) == 3
    monkeypatch.setenv("DELIVERY_MLFLOW_PORT", "5999")
    assert choose_ports(fixed=True) == Ports(prefect=4200, mlflow=5999, data=8080)
    assert choose_ports(fixed=False).mlflow == 5999


@pytest.mark.usefixtures("no_variables")
@pytest.mark.parametrize("name", ["PREFECT", "MLFLOW", "DATA"])
@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "http", "80.5", " 80", "0x50", "99999999999"])
def test_a_port_that_is_none_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"DELIVERY_{name}_PORT", text)
    with pytest.raises(StackError, match=rf"^DELIVERY_{name}_PORT='{text}' is no port; give a number from 1 to 65535$"):
        choose_ports(fixed=True)


@pytest.mark.usefixtures("no_variables")
def test_two_servers_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY_MLFLOW_PORT", "8080")
    with pytest.raises(StackError, match=r"cannot share a port: .*DELIVERY_MLFLOW_PORT=8080, DELIVERY_DATA_PORT=8080"):
        choose_ports(fixed=True)
