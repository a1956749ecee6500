from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tasks.errors import InputError, NotFoundError
from tasks.interactions.columns import SCHEMA
from tasks.interactions.counts import Cared
from tasks.interactions.feedback import Feedback, feedback_table
from tasks.interactions.schema import REJECTED_SCHEMA, Interaction, as_table, rejected_table
from tasks.stores.lake import Appended, Lake
from tasks.stores.lake_care import compact, retain, vacuum
from tasks.stores.lake_forget import forget_user, hash_user
from tasks.stores.lake_side import SetAside, aside_id

DAY = datetime(2024, 3, 1, tzinfo=UTC)
LAST = DAY + timedelta(days=400)
NOTHING = REJECTED_SCHEMA.empty_table()
USER = "alice@example.com"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def call(name: str, time: datetime = DAY, application: str = "support", **values: Any) -> Interaction:
    return Interaction(interaction_id=name, application=application, time=time, status=200, **values)


def said(name: str, interaction: str, time: datetime = DAY, **values: Any) -> Feedback:
    return Feedback(feedback_id=name, interaction_id=interaction, application="support", time=time, **values)


def store(
    lake: Lake,
    *calls: Interaction,
    source: str = "a",
    rejected: pa.Table = NOTHING,
    feedback: tuple[Feedback, ...] = (),
    aside: SetAside | None = None,
) -> Appended | None:
    at = lake.offset(source)
    return lake.append(
        source,
        expected=at,
        offset=at + 10,
        interactions=as_table(calls),
        rejected=rejected,
        feedback=feedback_table(feedback),
        aside=aside,
    )


def put_aside(lake: Lake, *calls: Interaction, source: str = "b") -> str:
    name = aside_id(source, 0, 10, as_table(calls))
    held = SetAside(
        aside_id=name,
        file=source,
        start_byte=0,
        end_byte=10,
        rows=len(calls),
        reasons=("rejected_share 1 > limit 0.2",),
        report=None,
        seen=DAY,
    )
    assert store(lake, *calls, source=source, aside=held) == Appended(0, 0, len(calls), len(calls))
    assert lake.set_aside() == (held,)
    return name


def everything(lake: Lake) -> pa.Table:
    return lake.window("support", DAY - timedelta(days=400), LAST, SCHEMA.names)


def bytes_on_disk(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def test_an_id_on_another_day_is_the_same_call_and_the_first_one_stands(lake: Lake) -> None:
    store(lake, call("1", model="first"), call("2"))
    for days in (1, 40, -40, 365):
        assert store(lake, call("1", DAY + timedelta(days=days), model="later")) == Appended(0, 1, 0)
    assert everything(lake).select(["interaction_id", "model"]).to_pylist() == [
        {"interaction_id": "1", "model": "first"},
        {"interaction_id": "2", "model": None},
    ]


def test_a_day_token_changes_with_the_rows_of_its_day_and_application_only(lake: Lake) -> None:
    day, other = DAY.date(), DAY.date() + timedelta(days=1)
    assert (lake.day_token(day), lake.days()) == (None, ())
    store(lake, call("1"))
    first = lake.day_token(day)
    assert first is not None
    assert (lake.day_token(day, "support"), lake.day_token(day, "search"), lake.day_token(other)) == (first, None, None)
    store(lake, call("2", DAY + timedelta(days=1)), call("3", DAY + timedelta(days=1), "search"))
    assert (lake.day_token(day), lake.days()) == (first, (day, other))
    assert store(lake, call("1")) == Appended(0, 1, 0)
    assert lake.day_token(day) == first
    for number in range(4, 10):
        store(lake, call(str(number)))
    late = lake.day_token(day)
    assert late not in {first, None}
    compact(lake.root, dry_run=False)
    vacuum(lake.root, hours=0, dry_run=False)
    DeltaTable(lake.root / "interactions").create_checkpoint()
    assert lake.day_token(day) == late
    assert lake.day_token(other, "search") == lake.day_token(other)


def test_compaction_keeps_rows_and_offsets_and_fewer_files(lake: Lake) -> None:
    for number in range(12):
        store(
            lake,
            call(f"{number}", DAY + timedelta(days=number % 2), input_text=f"text {number}"),
            rejected=rejected_table("a", [(number, "no", b"x")], DAY),
        )
    before = everything(lake)
    planned = compact(lake.root, dry_run=True)
    assert planned == (
        Cared(table="rejected", files_before=12, files_after=1),
        Cared(table="interactions", files_before=6, files_after=1),
        Cared(table="interactions", files_before=6, files_after=1),
    )
    assert compact(lake.root, dry_run=False) == planned
    assert compact(lake.root, dry_run=False) == ()
    assert everything(lake) == before
    assert lake.offset("a") == 120
    assert store(lake, call("3"), call("new")) == Appended(1, 1, 0)
    assert vacuum(lake.root, hours=0, dry_run=True) == 24
    assert vacuum(lake.root, hours=1, dry_run=False) == 0
    assert vacuum(lake.root, hours=0, dry_run=False) == 24
    assert len(list(lake.root.rglob("*.parquet"))) - len(list(lake.root.rglob("_delta_log/*.parquet"))) == 4
    assert everything(lake).num_rows == 13


def test_a_commit_between_look_and_rewrite_is_kept(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.stores import lake_care

    store(lake, call("1"), call("2", DAY + timedelta(days=9)))
    real = lake_care.read_file
    raced: list[bool] = []

    def read_file(file: str, table: DeltaTable) -> pa.Table:
        if not raced:
            raced.append(True)
            store(lake, call("late", DAY))
        return real(file, table)

    monkeypatch.setattr(lake_care, "read_file", read_file)
    done = retain(lake.root, date(2024, 3, 10), keep_days=3, text_days=None, dry_run=False)
    assert done == (Cared(table="interactions", files_before=2, files_after=0, rows=2),)
    assert everything(lake)["interaction_id"].to_pylist() == ["2"]


def test_retention_drops_days_and_empties_texts(lake: Lake) -> None:
    for days in range(5):
        time = DAY + timedelta(days=days)
        store(
            lake,
            call(f"{days}", time, input_text="question", output_text="answer"),
            rejected=rejected_table("a", [(days, "no", b"secret")], time),
            feedback=(said(f"f{days}", f"{days}", time, comment="good"),),
        )
    tokens = [lake.day_token(DAY.date() + timedelta(days=days)) for days in range(5)]
    dry = retain(lake.root, date(2024, 3, 5), keep_days=3, text_days=1, dry_run=True)
    assert [(one.table, one.rows) for one in dry] == [
        ("feedback", 1),
        ("feedback", 3),
        ("rejected", 1),
        ("rejected", 3),
        ("interactions", 1),
        ("interactions", 3),
    ]
    assert everything(lake).num_rows == 5
    retain(lake.root, date(2024, 3, 5), keep_days=3, text_days=1, dry_run=False)
    assert everything(lake).select(["interaction_id", "input_text", "output_text"]).to_pylist() == [
        {"interaction_id": "1", "input_text": None, "output_text": None},
        {"interaction_id": "2", "input_text": None, "output_text": None},
        {"interaction_id": "3", "input_text": "question", "output_text": "answer"},
        {"interaction_id": "4", "input_text": "question", "output_text": "answer"},
    ]
    assert lake.rejected()["line_number"].to_pylist() == [3, 4]
    assert lake.feedback(DAY, LAST)["comment"].to_pylist() == [None, None, "good", "good"]
    changed = [lake.day_token(DAY.date() + timedelta(days=days)) != tokens[days] for days in range(5)]
    assert changed == [True, True, True, False, False]
    assert retain(lake.root, date(2024, 3, 5), keep_days=3, text_days=1, dry_run=False) == ()
    assert store(lake, call("9", DAY + timedelta(days=4))) == Appended(1, 0, 0)


def test_a_users_data_is_gone_from_every_table_and_from_the_disk(lake: Lake) -> None:
    digest = hash_user(USER)
    assert digest == hashlib.sha256(USER.encode()).hexdigest()
    other = hash_user("bob")
    rejects = [
        (1, "no", f'{{"user": "{USER}", "x'.encode()),
        (2, "no", b'{"interaction_id": "hers-1", '),
        (3, "no", f'{{"user_hash": "{digest}"'.encode()),
        (4, "no", b'{"user": "bob"'),
        (5, "no", f"12,{USER},3".encode()),
    ]
    store(
        lake,
        call("hers-1", user_hash=digest, input_text="HERS one", tags=("a=b",)),
        call("hers-2", DAY + timedelta(days=3), unit=USER, unit_kind="user", output_text="HERS two"),
        call("his", user_hash=other, input_text="his own", unit="bob"),
        call("nobody's", input_text="unknown"),
        rejected=rejected_table("a", rejects, DAY),
        feedback=(said("f1", "hers-1", comment="HERS too"), said("f2", "his", comment="fine")),
    )
    name = put_aside(lake, call("hers-3", user_hash=digest, input_text="HERS three"), call("his-2", user_hash=other))
    scores = pa.table({"interaction_id": ["hers-1", "his"], "reason": ["HERS four", "ok"]})
    lake.replace("scores", {}, scores)
    for needle in (USER.encode(), digest.encode(), b"HERS"):
        assert needle in bytes_on_disk(lake.root)
    kept = lake.day_token(date(2024, 3, 4))
    dry = forget_user(lake.root, digest, dry_run=True)
    assert {(one.table, one.rows) for one in dry} == {
        *{("feedback", 1), ("rejected", 4), ("scores", 1), ("set_aside", 1), ("interactions", 2)},
        ("interactions", 2),
    }
    assert everything(lake).num_rows == 4
    assert forget_user(lake.root, digest, dry_run=False)[-1].rows == 2
    for needle in (USER.encode(), digest.encode(), b"HERS"):
        assert needle not in bytes_on_disk(lake.root)
    assert everything(lake)["interaction_id"].to_pylist() == ["his", "nobody's"]
    assert everything(lake)["input_text"].to_pylist() == ["his own", "unknown"]
    assert lake.rejected()["line_number"].to_pylist() == [4]
    assert lake.feedback(DAY, LAST)["comment"].to_pylist() == ["fine"]
    scored = lake.read("scores")
    assert scored is not None
    assert scored["interaction_id"].to_pylist() == ["his"]
    assert lake.day_token(date(2024, 3, 4)) != kept
    assert lake.release_set_aside(name) == Appended(1, 0, 0)
    assert forget_user(lake.root, digest, dry_run=False) == ()
    assert (lake.offset("a"), lake.offset("b")) == (10, 10)


def test_forgetting_refuses_what_is_no_hash(lake: Lake) -> None:
    with pytest.raises(InputError, match="64 hex digits, the SHA-256 of the user's id"):
        forget_user(lake.root, USER, dry_run=False)


def test_a_batch_set_aside_is_released_once_and_is_not_lost_meanwhile(lake: Lake) -> None:
    store(lake, call("1"))
    name = put_aside(lake, call("1"), call("2", input_text="x"), call("3", DAY + timedelta(days=1)))
    token = lake.day_token(DAY.date() + timedelta(days=1))
    assert (lake.offset("b"), everything(lake).num_rows, token) == (10, 1, None)
    with pytest.raises(NotFoundError, match=f"nothing: no such batch was set aside; those that wait: {name}"):
        lake.release_set_aside("nothing")
    assert lake.release_set_aside(name) == Appended(2, 1, 0)
    assert (lake.release_set_aside(name), lake.set_aside()) == (Appended(0, 0, 0), ())
    assert everything(lake)["interaction_id"].to_pylist() == ["1", "2", "3"]
    assert lake.day_token(DAY.date() + timedelta(days=1)) is not None


def test_a_kill_before_the_offset_leaves_no_batch_set_aside_twice(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.stores import lake as lake_module

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lake_module, "commit_rows", kill)
        with pytest.raises(KeyboardInterrupt):
            put_aside(lake, call("1"))
    assert (lake.set_aside(), lake.offset("b")) == ((), 0)
    put_aside(lake, call("1"))
    assert DeltaTable(lake.root / "set_aside").to_pyarrow_table().num_rows == 1


def test_feedback_is_stored_once_waits_for_its_call_and_joins_it(lake: Lake) -> None:
    words = (said("f1", "1", value=1.0, kind="thumbs"), said("f1", "1", value=0.0), said("f2", "2", label="resolved"))
    assert store(lake, feedback=words) == Appended(2, 1, 0)
    assert lake.feedback(DAY, LAST).num_rows == 0
    assert store(lake, call("1"), feedback=words[2:], source="b") == Appended(1, 1, 0)
    (found,) = lake.feedback(DAY, LAST, "support").to_pylist()
    assert (found["feedback_id"], found["value"], found["kind"]) == ("f1", 1.0, "thumbs")
    store(lake, call("2", DAY + timedelta(days=2)), call("1", DAY, "search"))
    assert lake.feedback(DAY, LAST)["feedback_id"].to_pylist() == ["f1", "f2"]
    assert lake.feedback(DAY, DAY + timedelta(days=1))["feedback_id"].to_pylist() == ["f1"]
