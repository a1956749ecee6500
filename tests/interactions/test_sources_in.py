"""Files of every kind on their way into the lake."""

from __future__ import annotations

import gzip
import hashlib
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InputError
from tasks.interactions.content import apply
from tasks.interactions.counts import Content, SourceCount
from tasks.interactions.ingest import Job, find_logs, ingest_file, ingest_folder
from tasks.interactions.keeping import keep_rows
from tasks.interactions.recipes import Recipe
from tasks.interactions.redaction import Redactor, make_redactor
from tasks.interactions.schema import Interaction, as_table
from tasks.interactions.sources.mapping import Mapping
from tasks.stores.lake import Lake

NOW = datetime(2024, 3, 5, tzinfo=UTC)
START, END = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 5, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def native(name: object, **values: object) -> str:
    return json.dumps(
        {"interaction_id": f"{name}", "application": "a", "time": START.isoformat(), "status": 200} | values
    )


def chat(name: object) -> str:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    message = {"role": "assistant", "content": "hello"}
    return json.dumps(
        {
            "id": f"{name}",
            "object": "chat.completion",
            "created": 1709251200,
            "model": "gpt-4o",
            "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
    )


def ids(lake: Lake, application: str = "a") -> list[str]:
    return sorted(lake.window(application, START, END, ["interaction_id"])["interaction_id"].to_pylist())


def test_lines_of_several_formats_in_one_file_are_told_apart(lake: Lake, tmp_path: Path) -> None:
    log = tmp_path / "x.jsonl"
    content = [native(1), chat("c1"), "{}", json.dumps({"feedback_id": "f", "interaction_id": "1"})]
    word = {"feedback_id": "g", "interaction_id": "1", "application": "a", "time": START.isoformat(), "comment": "x"}
    log.write_text("\n".join([*content, json.dumps(word)]) + "\n")
    done = ingest_file(lake, log, NOW, job=Job(recipe=Recipe("auto", "a")))
    assert (done.read, done.stored, done.duplicates, done.rejected) == (5, 3, 0, 2)
    assert ids(lake) == ["1", "c1"]
    assert lake.rejected()["line_number"].to_pylist() == [3, 4]
    assert lake.rejected()["reason"].to_pylist()[1] == "application: Field required"
    assert lake.feedback(START, END)["comment"].to_pylist() == ["x"]


def test_the_same_lines_packed_rotated_and_copied_are_duplicates(lake: Lake, tmp_path: Path) -> None:
    content = "".join(native(number) + "\n" for number in range(150))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.jsonl").write_text(content)
    assert ingest_folder(lake, tmp_path / "logs", NOW).stored == 150
    (tmp_path / "logs" / "a.jsonl").rename(tmp_path / "logs" / "a.jsonl.1")
    (tmp_path / "logs" / "a.jsonl.2.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "logs" / "a.jsonl").write_text(native("new") + "\n")
    (tmp_path / "logs" / "a.txt").write_text(native("not") + "\n")
    done = ingest_folder(lake, tmp_path / "logs", NOW)
    assert [source.path.name for source in done.sources] == ["a.jsonl", "a.jsonl.1", "a.jsonl.2.gz"]
    assert (done.read, done.stored, done.duplicates) == (301, 1, 300)
    assert ingest_folder(lake, tmp_path / "logs", NOW).read == 0


def test_a_packed_file_is_read_on_where_it_was(lake: Lake, tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl.gz"
    log.write_bytes(gzip.compress((native(1) + "\n").encode()))
    assert ingest_file(lake, log, NOW).stored == 1
    log.write_bytes(gzip.compress("\n".join([native(1), native(2), native(3)]).encode()))
    assert (ingest_file(lake, log, NOW), ids(lake)) == (SourceCount(log, 2, 2), ["1", "2", "3"])


def test_a_closed_file_needs_no_end_of_its_last_line(lake: Lake, tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    log.write_text(native(1) + "\n" + native(2))
    assert ingest_file(lake, log, NOW).stored == 1
    assert ingest_file(lake, log, NOW, job=Job(final=True)).stored == 1


def test_exports_are_read_by_their_mapping_and_a_new_export_adds_what_is_new(lake: Lake, tmp_path: Path) -> None:
    table = tmp_path / "usage.json"
    mapping = Mapping.model_validate(
        {"columns": {"time": "when", "interaction_id": "call", "input_tokens": "in"}, "constants": {"application": "a"}}
    )
    job = Job(recipe=Recipe("mapped", mapping=mapping))
    rows = [
        {"when": "2024-03-01T00:00:00Z", "call": "x", "in": 3},
        {"when": "2024-03-01T00:00:01Z", "call": "y", "in": "many"},
    ]
    table.write_text(json.dumps(rows))
    assert ingest_file(lake, table, NOW, job=job) == SourceCount(table, 2, 1, 0, 1)
    assert ingest_file(lake, table, NOW, job=job).read == 0
    table.write_text(json.dumps([rows[0], {"when": "2024-03-02T00:00:01Z", "call": "z", "in": 4}]))
    assert ingest_file(lake, table, NOW, job=job) == SourceCount(table, 2, 1, 1, 0)
    assert ids(lake) == ["x", "z"]
    with pytest.raises(InputError, match="format mapped: give the mapping file"):
        Recipe("mapped")
    with pytest.raises(InputError, match="format: 'opnai' is not allowed; allowed: auto, native, openai"):
        Recipe("opnai")


def test_a_dry_run_stores_nothing_and_shows_what_it_would(lake: Lake, tmp_path: Path) -> None:
    log, late = tmp_path / "a.jsonl", "2024-03-02T00:00:00Z"
    log.write_text("\n".join([native(1, model="m"), native(1), native(2, time=late), "broken", native(3)]) + "\n")
    dry = ingest_file(lake, log, NOW, job=Job(dry_run=True))
    assert (dry.read, dry.stored, dry.duplicates, dry.rejected) == (5, 3, 1, 1)
    assert dry.contents == (
        Content(date(2024, 3, 1), "a", None, 1),
        Content(date(2024, 3, 1), "a", "m", 1),
        Content(date(2024, 3, 2), "a", None, 1),
    )
    assert (lake.days(), lake.rejected().num_rows, lake.offsets([])) == ((), 0, {})
    done = ingest_file(lake, log, NOW)
    assert (done.stored, done.duplicates, done.rejected) == (3, 1, 1)
    assert ingest_file(lake, log, NOW, job=Job(dry_run=True)).read == 0


@pytest.mark.parametrize("policy", ["off", "hash", "full"])
@pytest.mark.parametrize("redactor", [None, make_redactor()])
def test_tables_are_kept_as_single_interactions_are(policy: str, redactor: Redactor | None) -> None:
    usual: dict[str, Any] = {"application": "a", "time": START, "status": 200}
    rows = [
        Interaction(
            interaction_id="1", input_text="write to me@example.com", context_text="c", unit="me@example.com", **usual
        ),
        Interaction(interaction_id="2", output_text="fine", tags=("mail=me@example.com", "x=1"), unit="u", **usual),
        Interaction(interaction_id="3", error_type="me@example.com", input_sha256="a" * 64, route="r", **usual),
    ]
    one_by_one = [apply(row, policy, redactor or make_redactor(rules=())) for row in rows]  # type: ignore[arg-type]
    assert keep_rows(as_table(rows), policy, redactor).equals(as_table(one_by_one))  # type: ignore[arg-type]


def test_what_must_not_be_kept_reaches_no_table(lake: Lake, tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    word = {"feedback_id": "g", "interaction_id": "1", "application": "a", "time": START.isoformat()}
    calls = [native(number, input_text="SECRET question") for number in range(100)]
    log.write_text("\n".join([*calls, "SECRET broken", json.dumps(word | {"comment": "SECRET"})]) + "\n")
    done = ingest_file(lake, log, NOW, job=Job(recipe=Recipe(content="hash")))
    assert (done.stored, done.rejected) == (101, 1)
    assert not [path for path in lake.root.rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]
    digest = hashlib.sha256(b"SECRET question").hexdigest()
    assert set(lake.window("a", START, END, ["input_sha256"])["input_sha256"].to_pylist()) == {digest}
    assert find_logs(log) == (log,)
