from __future__ import annotations

import fcntl
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.interactions.redaction import make_redactor
from tasks.interactions.schema import Interaction, parse_line
from tasks.serving import log as log_module
from tasks.serving.backends import Capture
from tasks.serving.log import Call, Caller, InteractionLog
from tasks.tracking.records import Kept

ALL = {
    "x-request-id": "r-1",
    "x-unit": "user-17",
    "x-unit-kind": "user",
    "x-bucket": "999",
    "x-plan-revision": "12",
}
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def a_call(headers: dict[str, str] | None = None, **changes: object) -> Call:
    fields = {
        "caller": Caller.of(ALL if headers is None else headers),
        "time": STARTED,
        "question": "Who?",
        "capture": Capture(context_text="Bob.", input_tokens=2, output_tokens=1, pieces=["B", "ob"]),
        "latency_ms": 1.5,
        "status": 200,
    }
    return Call(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_data_path_says_who_asked():
    assert Caller.of(ALL) == Caller("r-1", "user-17", "user", 999, 12, is_smoke=False)
    assert Caller.of({**ALL, "x-purpose": "smoke"}).is_smoke


@pytest.mark.parametrize(
    ("header", "value", "attribute"),
    [
        ("x-unit", "", "unit"),
        ("x-unit", "u" * 201, "unit"),
        ("x-unit", "a\tb", "unit"),
        ("x-unit", "\xff", "unit"),
        ("x-unit-kind", "robot", "unit_kind"),
        ("x-unit-kind", "USER", "unit_kind"),
        ("x-bucket", "1000", "bucket"),
        ("x-bucket", "-1", "bucket"),
        ("x-bucket", "1_0", "bucket"),
        ("x-bucket", "²", "bucket"),
        ("x-plan-revision", "0", "plan_revision"),
        ("x-plan-revision", str(2**53 + 1), "plan_revision"),
        ("x-plan-revision", "9" * 17, "plan_revision"),
    ],
)
def test_what_is_invalid_is_unknown(header: str, value: str, attribute: str):
    caller = Caller.of({**ALL, header: value})

    named = {name for name in ("unit", "unit_kind", "bucket", "plan_revision") if getattr(caller, name) is None}
    assert named == {attribute}


def test_a_name_in_utf8_stays_what_the_data_path_hashed():
    assert Caller.of({"x-unit": "zoë-漢".encode().decode("latin-1")}).unit == "zoë-漢"


@pytest.mark.parametrize("value", ["", "a b", "x" * 201, "ä", "a\n"])
def test_an_unusable_request_id_is_replaced(value: str):
    assert re.fullmatch("[0-9a-f]{32}", Caller.of({"x-request-id": value}).interaction_id)


@given(st.dictionaries(st.sampled_from(sorted(ALL)), st.text(st.characters(max_codepoint=255))))
def test_any_headers_are_values_the_log_accepts(headers: dict[str, str]):
    caller = Caller.of(headers)

    Interaction(
        interaction_id=caller.interaction_id,
        application="faq",
        time=STARTED,
        unit=caller.unit,
        unit_kind=caller.unit_kind,
        bucket=caller.bucket,
        plan_revision=caller.plan_revision,
        status=200,
    )


def test_a_line_is_read_back(tmp_path: Path, release_of):
    release = release_of()
    log = InteractionLog(tmp_path, release, STARTED)
    log.write(a_call())
    log.write(a_call({}, status=500, capture=Capture(error_type="ValueError")))
    log.close()

    (path,) = tmp_path.rglob("*.jsonl")
    today = datetime.now(UTC).date().isoformat()
    assert path.parent == tmp_path / "faq" / today
    assert path.name == f"{release.digest[:12]}-{os.getpid()}-20260102T030405000000Z.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    first, second = (parse_line(line) for line in path.read_bytes().splitlines())
    assert isinstance(first, Interaction)
    assert isinstance(second, Interaction)
    assert first == log.interaction(a_call())
    assert (first.unit, first.bucket, first.plan_revision) == ("user-17", 999, 12)
    assert (first.input_text, first.context_text, first.output_text) == ("Who?", "Bob.", "Bob")
    assert (first.prompt_name, first.prompt_version, first.release_digest) == ("faq-answer", 7, release.digest)
    assert (second.status, second.error_type, second.output_text) == (500, "ValueError", None)
    assert (second.input_tokens, second.unit, second.bucket) == (None, None, None)


def test_content_can_be_left_out(tmp_path: Path, release_of):
    line = InteractionLog(tmp_path, release_of(), STARTED, log_content=False).interaction(a_call())

    assert (line.input_text, line.context_text, line.output_text) == (None, None, None)
    assert (line.input_tokens, line.output_tokens) == (2, 1)


def test_a_probe_is_not_logged(tmp_path: Path, release_of):
    log = InteractionLog(tmp_path, release_of(), STARTED)

    log.write(a_call({"x-purpose": "smoke"}))

    assert list(tmp_path.rglob("*")) == []


def test_a_new_day_is_a_new_file(tmp_path: Path, release_of):
    log = InteractionLog(tmp_path, release_of(), STARTED)

    first, again = log._open(datetime(2026, 1, 2, 23, 59, 59, tzinfo=UTC)), log._open(datetime(2026, 1, 2, tzinfo=UTC))
    last = log._open(datetime(2026, 1, 3, tzinfo=UTC))
    assert fcntl.fcntl(last, fcntl.F_GETFL) & os.O_APPEND
    log.close()
    log.close()

    assert first == again
    assert sorted(path.parent.name for path in tmp_path.rglob("*.jsonl")) == ["2026-01-02", "2026-01-03"]


def test_what_the_disk_takes_in_parts_is_still_one_line(
    tmp_path: Path, release_of, log_lines, monkeypatch: pytest.MonkeyPatch
):
    log, write = InteractionLog(tmp_path, release_of(), STARTED), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))

    log.write(a_call())
    monkeypatch.undo()
    log.close()

    assert len(log_lines(tmp_path)) == 1


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"capture": Capture(error_type="a\tb", pieces=["Bob"])}, "error_type"),
        ({"capture": Capture(error_type="e" * 201)}, "error_type"),
        ({"capture": Capture(finish_reason="f\x00")}, "finish_reason"),
        ({"capture": Capture(input_tokens=-1)}, "input_tokens"),
        ({"question": "half a pair \ud800"}, "no UTF-8"),
        ({"status": 700}, "status"),
        ({"latency_ms": float("inf")}, "latency_ms"),
    ],
)
def test_a_call_that_makes_no_line_is_not_lost(  # noqa: PLR0917 - pytest passes them by name
    tmp_path: Path, release_of, log_lines, caplog: pytest.LogCaptureFixture, changes: dict[str, object], place: str
):
    release = release_of()
    log = InteractionLog(tmp_path, release, STARTED)

    log.write(a_call(**{"status": 503, **changes}))
    log.write(a_call())
    log.close()

    line, whole = log_lines(tmp_path)
    assert (line.interaction_id, line.application, line.release_digest) == ("r-1", "faq", release.digest)
    assert (line.time, line.error_type) == (STARTED, "Unloggable")
    assert line.status == (500 if "status" in changes else 503)
    assert (line.unit, line.unit_kind, line.bucket, line.plan_revision) == ("user-17", "user", 999, 12)
    assert (line.input_text, line.output_text) == (None, None)
    assert whole.error_type is None
    assert f"interaction r-1 is logged without its values: {place}" in caplog.text
    assert "Who?" not in caplog.text
    assert "Bob" not in caplog.text


def test_a_line_that_a_full_disk_does_not_take_waits_and_is_told_without_content(
    tmp_path: Path, release_of, log_lines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(_: int, __: bytes) -> int:
        raise OSError(28, "No space left on device")

    log = InteractionLog(tmp_path, release_of(), STARTED)
    monkeypatch.setattr(os, "write", full)

    log.write(a_call())
    monkeypatch.undo()
    log.close()

    assert "interaction r-1 waits to be logged, one of 1: " in caplog.text
    assert "No space left" in caplog.text
    assert "Who?" not in caplog.text
    assert len(log_lines(tmp_path)) == 1


def test_what_a_full_disk_took_of_a_line_is_gone_on_with_in_the_same_file(
    tmp_path: Path, release_of, log_lines, monkeypatch: pytest.MonkeyPatch
):
    log, write = InteractionLog(tmp_path, release_of(), STARTED, rotate_bytes=100), os.write
    taken: list[int] = []

    def fill(descriptor: int, data: bytes) -> int:
        if taken:
            raise OSError(28, "No space left on device")
        taken.append(write(descriptor, bytes(data)[:100]))
        return taken[0]

    monkeypatch.setattr(os, "write", fill)
    log.write(a_call())
    log.write(a_call())
    monkeypatch.undo()
    log.write(a_call())
    log.close()

    assert len(list(tmp_path.rglob("*.jsonl"))) == 3
    assert len(log_lines(tmp_path)) == 3


def test_what_waits_has_a_limit_and_what_is_lost_is_told(
    tmp_path: Path, release_of, log_lines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(_: int, __: bytes) -> int:
        raise OSError(28, "No space left on device")

    log = InteractionLog(tmp_path, release_of(), STARTED)
    monkeypatch.setattr(log_module, "MAX_WAITING_BYTES", 1500)
    monkeypatch.setattr(os, "write", full)
    for _ in range(5):
        log.write(a_call())
    lost = caplog.text.count("interaction r-1 is not logged: ")
    log.close()
    assert f"{5 - lost} interactions are not logged: " in caplog.text
    monkeypatch.undo()
    log.close()
    assert 0 < lost < 5
    assert len(log_lines(tmp_path)) == 5 - lost


def test_a_file_that_is_full_is_followed_by_another(tmp_path: Path, release_of, log_lines):
    log = InteractionLog(tmp_path, release_of(), STARTED, rotate_bytes=1500)

    for _ in range(12):
        log.write(a_call())
    log.close()

    paths = sorted(tmp_path.rglob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    assert len(paths) > 2
    assert max(path.stat().st_size for path in paths) < 1500 + 1000
    assert len(log_lines(tmp_path)) == 12
    assert all(path.parent.stat().st_mode & 0o777 == 0o700 for path in paths)


@pytest.mark.parametrize(
    ("policy", "redact", "text"), [("hash", False, None), ("off", False, None), ("full", True, "Mail to [email].")]
)
def test_what_may_not_be_kept_is_not_on_the_disk_before_ingestion_either(  # noqa: PLR0917 - pytest passes them by name
    tmp_path: Path, release_of, log_lines, policy: str, redact: bool, text: str | None
):
    kept = Kept.of(policy, make_redactor() if redact else None)
    log = InteractionLog(tmp_path, release_of(), STARTED, kept=kept)

    log.write(a_call({"x-request-id": "r-1", "x-unit": "ann@example.org"}, question="Mail to ann@example.org."))
    log.close()

    (line,) = log_lines(tmp_path)
    assert line.input_text == text
    assert (line.input_sha256 is not None) is (policy == "hash")
    (path,) = tmp_path.rglob("*.jsonl")
    assert ("ann@example.org." in path.read_text()) is False
    assert (line.unit == "ann@example.org") is not redact


def test_a_text_too_long_for_a_line_costs_only_the_text(tmp_path: Path, release_of, log_lines):
    log = InteractionLog(tmp_path, release_of(), STARTED)

    log.write(a_call(capture=Capture(input_tokens=2, output_tokens=9, pieces=["x" * 2**20] * 5)))
    log.close()

    (line,) = log_lines(tmp_path)
    assert (line.input_text, line.output_text, line.output_tokens) == (None, None, 9)
    assert line.output_sha256 is not None
