from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.interactions import reading
from tasks.interactions.lines import MAX_LINE_BYTES
from tasks.interactions.reading import count_lines, file_identity, read_batches


def good(name: object) -> bytes:
    return b'{"interaction_id":"%s","application":"a","time":"2024-03-01T00:00:00Z","status":200}' % str(name).encode()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs") / "a.jsonl"


def test_line_numbers_hold_after_resuming_anywhere(log: Path) -> None:
    log.write_bytes(b"\n".join([good(1), b"bad2", b"", good(4), b"\xff5", good(6), b"bad7", b"  \r", b"bad9"]) + b"\n")
    whole = list(read_batches(log))
    assert [(number, line) for batch in whole for number, _, line in batch.rejects] == [
        (2, b"bad2"),
        (5, b"\xff5"),
        (7, b"bad7"),
        (9, b"bad9"),
    ]
    assert (len(whole), whole[0].read, whole[0].end) == (1, 7, log.stat().st_size)
    for size in (1, 2, 3):
        batches = list(read_batches(log, batch_lines=size))
        for first in batches:
            resumed = list(read_batches(log, first.start, batch_lines=size))
            assert resumed == batches[batches.index(first) :]


def test_a_line_without_an_end_is_left_until_it_has_one(log: Path) -> None:
    log.write_bytes(good(1) + b"\n" + good(2)[:20])
    (batch,) = read_batches(log)
    assert (len(batch.interactions), batch.end) == (1, len(good(1)) + 1)
    assert list(read_batches(log, batch.end)) == []
    (last,) = read_batches(log, batch.end, final=True)
    assert last.rejects[0][0] == 2
    log.write_bytes(good(1) + b"\n" + good(2) + b"\n")
    (rest,) = read_batches(log, batch.end)
    assert rest.interactions["interaction_id"].to_pylist() == ["2"]


@pytest.mark.parametrize("ended", [True, False])
def test_a_line_that_is_too_long_is_rejected_without_being_held(
    log: Path, monkeypatch: pytest.MonkeyPatch, *, ended: bool
) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", MAX_LINE_BYTES)
    with log.open("wb") as handle:
        handle.write(good(1) + b"\n")
        for _ in range(40):
            handle.write(b"x" * 2**20)
        handle.write(b"\n" + good(3) + b"\n" if ended else b"")
    tracemalloc.start()
    batches = list(read_batches(log))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MAX_LINE_BYTES
    if not ended:
        assert (batches[0].end, batches[0].rejects) == (len(good(1)) + 1, ())
        return
    (number, reason, kept), *_ = [reject for batch in batches for reject in batch.rejects]
    assert (number, reason) == (2, f"line: {40 * 2**20 + 1} bytes > limit {MAX_LINE_BYTES} bytes")
    assert len(kept) == 4096
    assert [name for batch in batches for name in batch.interactions["interaction_id"].to_pylist()] == ["1", "3"]


def test_a_byte_order_mark_and_carriage_returns_are_accepted(log: Path) -> None:
    log.write_bytes(b"\xef\xbb\xbf" + good(1) + b"\r\n" + good(2) + b"\r\n")
    (batch,) = read_batches(log)
    assert (len(batch.interactions), batch.rejects) == (2, ())


@given(content=st.lists(st.binary(max_size=30) | st.just(good(1)), max_size=8).map(b"\n".join), size=st.integers(1, 4))
def test_batches_follow_each_other_and_count_every_line(log: Path, content: bytes, size: int) -> None:
    log.write_bytes(content)
    batches = list(read_batches(log, final=True, batch_lines=size))
    assert [batch.start for batch in batches] == [0, *(batch.end for batch in batches)][: len(batches)]
    assert (batches[-1].end if batches else 0) == len(content)
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert sum(batch.read for batch in batches) == sum(1 for line in lines if line.strip())
    for batch in batches:
        for number, _, line in batch.rejects:
            assert lines[number - 1].rstrip(b"\r\n") == line


def test_a_file_begun_anew_is_another_source(log: Path) -> None:
    log.write_bytes(good(1) + b"\n")
    before = file_identity(log)
    log.write_bytes(good(1) + b"\n" + good(2) + b"\n")
    assert file_identity(log) == before
    log.write_bytes(good(2) + b"\n")
    assert file_identity(log) != before
    assert count_lines(log, 10**6) == 1
