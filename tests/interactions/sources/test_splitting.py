"""Files cut into documents, and nothing lost in the cutting."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.interactions.sources import split
from tasks.interactions.sources.splitting import MAX_LINE_BYTES


def cut(folder: Path, name: str, content: bytes) -> list[tuple[int, bytes]]:
    (folder / name).write_bytes(content)
    return list(split(folder / name))


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    assert cut(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a":1}\r\n\n{"a":2}') == [(1, b'{"a":1}'), (3, b'{"a":2}')]
    assert cut(tmp_path, "a.log.gz", gzip.compress(b"1\n2\n")) == [(1, b"1"), (2, b"2")]


def test_a_line_that_is_too_long_is_one_document_and_the_next_follows(tmp_path: Path) -> None:
    found = cut(tmp_path, "a.jsonl", b"x" * (3 * MAX_LINE_BYTES) + b"\n{}\n")

    assert [(number, len(document)) for number, document in found] == [(1, MAX_LINE_BYTES + 1), (2, 2)]


def test_the_values_of_a_json_file_keep_their_text(tmp_path: Path) -> None:
    assert cut(tmp_path, "a.json", b' [ {"cost": 0.10}, 2 ]\n{"b":\n3}') == [
        (1, b'{"cost": 0.10}'),
        (2, b"2"),
        (3, b'{"b":\n3}'),
    ]
    assert cut(tmp_path, "b.json", b"[1, {oops, 2]") == [(1, b"1"), (2, b"{oops, 2]")]
    assert cut(tmp_path, "c.json", b"\xff") == [(1, b"\xff")]
    assert cut(tmp_path, "d.json", b"[]") == []


def test_a_row_with_other_cells_than_the_header_is_a_list(tmp_path: Path) -> None:
    assert cut(tmp_path, "a.csv", b'a,b\n1,"x,\ny"\n\n2\n3,4,5\n') == [
        (1, b'{"a": "1", "b": "x,\\ny"}'),
        (2, b'["2"]'),
        (3, b'["3", "4", "5"]'),
    ]


def test_what_is_no_parquet_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.parquet: is no Parquet file that can be read"):
        cut(tmp_path, "a.parquet", b"PAR1")
