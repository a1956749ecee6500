from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.interactions.columns import SCHEMA
from tasks.interactions.schema import Interaction, as_table, parse_line

GOOD = {"interaction_id": "1", "application": "support", "time": "2024-03-01T01:00:00+02:00", "status": 200}


def line(**values: object) -> bytes:
    return json.dumps({**GOOD, **values}).encode()


def json_values() -> st.SearchStrategy[object]:
    numbers = st.integers() | st.floats() | st.sampled_from([2**53 + 1, 2**63, 10**400, float("nan"), float("inf")])
    texts = st.text(st.characters()) | st.sampled_from(["\ud800", "\x00", "0001-01-01T00:00:00+14:00", "9999-12-31"])
    leaves = st.none() | st.booleans() | numbers | texts
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4)


@given(st.binary())
def test_no_bytes_make_it_raise(content: bytes) -> None:
    assert isinstance(parse_line(content), str)


@given(st.dictionaries(st.sampled_from(sorted(Interaction.model_fields)) | st.text(), json_values(), max_size=3))
def test_no_value_makes_it_raise_and_what_it_accepts_can_be_stored(values: dict[str, object]) -> None:
    read = parse_line(line(**values))
    if isinstance(read, str):
        read.encode()
    else:
        assert as_table([read]).validate(full=True) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"time": "0001-01-01T00:00:00+14:00"}, "time: Input should be greater than or equal to"),
        ({"time": "9999-12-31T23:59:59-14:00"}, "time: Input should be less than"),
        ({"time": "2024-03-01T00:00:00"}, "time: Input should have timezone info"),
        ({"time": 1700000000}, "time: Input should be a valid datetime (was '1700000000')"),
        ({"plan_revision": 10**30}, "plan_revision: Input should be less than or equal to 9007199254740992"),
        ({"input_tokens": True}, "input_tokens: Input should be a valid integer (was 'True')"),
        ({"input_tokens": -1}, "input_tokens: Input should be greater than or equal to 0 (was '-1')"),
        ({"latency_ms": float("nan")}, "latency_ms: Input should be a finite number (was 'nan')"),
        ({"input_text": "\ud800"}, "line: Invalid JSON"),
        ({"interaction_id": "a\x00"}, "interaction_id: String should match pattern"),
        ({"status": "200"}, "status: Input should be a valid integer (was '200')"),
    ],
)
def test_a_reason_names_the_field_and_the_value(values: dict[str, object], reason: str) -> None:
    assert str(parse_line(line(**values))).startswith(reason)


@pytest.mark.parametrize(
    "content",
    [
        line(input_text={"say": "my secret"}),
        line(surprise="my secret"),
        line(unit="my secret" * 50),
        b'{"my secret',
        b'"my secret"',
    ],
)
def test_a_reason_does_not_repeat_what_a_user_wrote(content: bytes) -> None:
    assert "secret" not in str(parse_line(content))


def test_a_row_is_stored_in_utc_and_unknown_stays_null() -> None:
    read = parse_line(line(input_text="é\x00"))
    assert isinstance(read, Interaction)
    table = as_table([read])
    assert table.schema == SCHEMA
    row = table.to_pylist()[0]
    assert (row["time_utc"].isoformat(), row["date_utc"].isoformat()) == ("2024-02-29T23:00:00+00:00", "2024-02-29")
    assert (row["input_text"], row["input_tokens"], row["latency_ms"]) == ("é\x00", None, None)
    assert read.row() == row
    assert as_table([]).schema == SCHEMA
