"""The content policy over whole tables: what ``content.apply`` does to one interaction, column by column."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from tasks.interactions.content import Policy
from tasks.interactions.redaction import Redactor
from tasks.interactions.sources.values import text_sha256

_TEXTS = ("input_text", "context_text", "output_text")
_DIGESTS = {"input_text": "input_sha256", "output_text": "output_sha256"}
_WORDS = ("error_type", "finish_reason", "route")
_LONGEST_WORD = 200


def keep_rows(rows: pa.Table, policy: Policy, redactor: Redactor | None) -> pa.Table:
    """Return rows as they may be stored.

    Args:
        rows: Rows of the log's columns.
        policy: ``off`` keeps no text, ``hash`` the digests of question and answer, ``full`` the texts.
        redactor: What is taken out first; None takes out nothing.
    """
    if redactor is not None:
        rows = _redacted(rows, redactor, () if policy == "off" else _TEXTS)
    if policy == "hash":
        for name, digest in _DIGESTS.items():
            rows = _set(rows, digest, _digests(rows[name], rows[digest]))
    if policy != "full":
        for name in _TEXTS:
            rows = _set(rows, name, pa.nulls(rows.num_rows, pa.string()))
    return rows


def _redacted(rows: pa.Table, redactor: Redactor, texts: tuple[str, ...]) -> pa.Table:
    known: dict[str, str] = {}

    def redact(text: str) -> str:
        if text not in known:
            known[text] = redactor.redact(text).text
        return known[text]

    for name in texts:
        found = [None if text is None else redactor.redact(text).text for text in rows[name].to_pylist()]
        rows = _set(rows, name, pa.array(found, pa.string()))
    for name in _WORDS:
        words = [None if word is None else redact(word)[:_LONGEST_WORD] or None for word in rows[name].to_pylist()]
        rows = _set(rows, name, pa.array(words, pa.string()))
    tags = [
        None
        if held is None
        else sorted({tag for tag in (redact(word)[:_LONGEST_WORD] for word in held) if tag}) or None
        for held in rows["tags"].to_pylist()
    ]
    units = [None if unit is None or redact(unit) == unit else text_sha256(unit) for unit in rows["unit"].to_pylist()]
    kept = [new if new is not None else old for new, old in zip(units, rows["unit"].to_pylist(), strict=True)]
    rows = _set(rows, "tags", pa.array(tags, pa.list_(pa.string())))
    return _set(rows, "unit", pa.array(kept, pa.string()))


def _digests(texts: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.ChunkedArray:
    with duckdb.connect(":memory:", config={"autoload_known_extensions": False}) as connection:
        connection.register("held", pa.table({"text": texts, "known": known}))
        return connection.sql("SELECT coalesce(sha256(text), known) AS d FROM held").to_arrow_table()["d"]


def _set(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    place = rows.column_names.index(name)
    return rows.set_column(place, rows.schema.field(place), values)
