"""Files that people wrote are read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from tasks.documents import read_document
from tasks.errors import InputError


class Box(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: float
    inner: dict[str, str] = {}


def test_a_key_that_stands_twice_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "box.yaml"
    for text in ("size: 1\nsize: 2\n", "size: 1\ninner:\n  a: x\n  a: y\n", '{"size": 1, "size": 2}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"box\.yaml: cannot be read: the key '\w+' stands twice .*line \d"):
            read_document(path, Box)


def test_texts_stay_texts_until_the_record_parses_them(tmp_path: Path) -> None:
    path = tmp_path / "box.yaml"
    path.write_text("size: 010\ninner: {a: 1.10, b: no}\n")
    assert read_document(path, Box, texts=True) == Box(size=10, inner={"a": "1.10", "b": "no"})


def test_every_bad_field_is_named_and_a_key_in_an_address_is_masked(tmp_path: Path) -> None:
    path = tmp_path / "box.yaml"
    path.write_text("size: https://user:secret@host/\nodd: 1\n")
    with pytest.raises(InputError, match=r"box\.yaml: size: .*; odd: Extra inputs are not permitted") as caught:
        read_document(path, Box)
    assert "secret" not in str(caught.value)
