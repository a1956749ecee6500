"""Lines of OpenAI's chat that are alike: one parse by DuckDB gives their values, and the line itself proves them.

One good line is a template: what stands between its values is fixed. DuckDB takes the values out of every line, they
are put into the template, and a line is proved good where that gives the very line. Of the answer, which may be
written in many ways, it is enough that it is the only text where the answer belongs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

import pyarrow as pa

from tasks.interactions.columns import SCHEMA

_CREATED, _CONTENT = "created", "choices[1].message.content"
_NAME: Final = r"strlen({0}) <= 200 AND regexp_full_match({0}, '[!#-\[\]-~]+')"
"""A word that is written as it is."""
_TEXTS: Final = {
    "id": _NAME,
    "model": _NAME,
    "service_tier": "{0} IN ('default', 'standard', 'flex', 'priority', 'batch', 'auto')",
    "system_fingerprint": r"NOT contains({0}, '\') AND NOT contains({0}, '" + '"' + "')",
    "choices[1].finish_reason": "{0} IN ('stop', 'length', 'tool_calls', 'content_filter', 'function_call')",
}
"""By path: what must hold of a text, besides that it is written as it is."""
_NUMBERS: Final = {
    "usage.prompt_tokens": "input_tokens",
    "usage.completion_tokens": "output_tokens",
    "usage.prompt_tokens_details.cached_tokens": "cached_input_tokens",
    "usage.prompt_tokens_details.audio_tokens": "audio_input_tokens",
    "usage.completion_tokens_details.reasoning_tokens": "reasoning_tokens",
    "usage.completion_tokens_details.audio_tokens": "audio_output_tokens",
}
_BESIDE: Final = (
    "usage.total_tokens", "usage.completion_tokens_details.accepted_prediction_tokens",
    "usage.completion_tokens_details.rejected_prediction_tokens",
)  # fmt: skip
_COUNTS: Final = frozenset((_CREATED, *_NUMBERS, *_BESIDE))
_NEEDED: Final = frozenset(("id", "model", _CREATED, _CONTENT, "usage.prompt_tokens", "usage.completion_tokens"))
_WORDS: Final = {
    "id": "id", "model": "model", "tier": "service_tier", "ended": "choices[1].finish_reason", "content": _CONTENT,
}  # fmt: skip
_TYPES: Final = {"string": "VARCHAR", "int64": "BIGINT", "double": "DOUBLE", "int32": "INTEGER", "bool": "BOOLEAN"}
_LARGEST: Final = 2**53
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+|[{}\[\],:]|\s+')
_COUNT: Final = re.compile("[0-9]+")


def chat_template(line: str, holds: Sequence[str], columns: dict[str, str]) -> str | None:
    """Return the SQL that reads lines like this one.

    Args:
        line: A line that is good, with its end.
        holds: What else must hold of ``moment``.
        columns: SQL of columns of the log, from ``moment``, ``id``, ``model``, ``tier``, ``ended``, ``content`` and
            the names of the counts.

    Returns:
        A query of ``lines`` (``line``) for ``held``, whether a line is proved good, ``pattern``, which of its values
        are NULL, and the columns of the log that are not all NULL, each with all its names; None where lines like
        this one are not read this way.
    """
    parts = [(path if _varies(path, text) else "", text) for path, text in _tokens(line)]
    paths = [path for path, _ in parts if path]
    if _NEEDED - set(paths) or len(set(paths)) < len(paths):
        return None
    at = [path for path, _ in parts].index(_CONTENT)
    head = _filled([*_pieces(parts[:at]), (False, _around("'null'"))])
    tail = _filled([(False, _around("''")), *_pieces(parts[at + 1 :])])
    values = [
        *(f"{_sql(path) if path in paths else 'NULL::VARCHAR'} AS {name}" for name, path in _WORDS.items()),
        *(f"{_sql(path) if path in paths else 'NULL::BIGINT'} AS {name}" for path, name in _NUMBERS.items()),
        f"make_timestamptz(1000000 * coalesce(TRY_CAST({_sql(_CREATED)} AS UINTEGER), 0)::BIGINT) AS moment",
    ]
    found = ", ".join(f"{_place(path)} AS {_sql(path)}" for path in paths)
    return (
        f"SELECT coalesce({' AND '.join([*_proof(paths), *holds])}, false) AS held, {_pattern(paths)} AS pattern, "  # noqa: S608 -- ours
        f"{_shown(columns)} FROM (SELECT *, {', '.join(values)}, {head} AS head, {tail} AS tail FROM ("
        # Each step once: DuckDB copies what it takes out of a list.
        f"SELECT line, {found} FROM (SELECT line, s, s.choices[1] AS c FROM ("
        f"SELECT line, TRY(json_transform(line, '{_structure(paths)}')) AS s FROM lines))))"
    )


def _tokens(line: str) -> Iterator[tuple[str, str]]:
    """Yield the pieces of a line, each value with its path, and all else without one; items count from 1 as in SQL."""
    inside: list[str | int] = []
    for text in _TOKEN.findall(line):
        path = ""
        if text in "{[":
            inside.append("" if text == "{" else 1)
        elif text in "}]":
            inside.pop()
        elif text == ",":
            last = inside.pop()
            inside.append(last + 1 if isinstance(last, int) else "")
        elif text != ":" and not text.isspace():
            if inside[-1:] == [""]:  # a key, of which the value is still to come
                inside[-1] = text[1:-1]
            else:
                path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in inside).lstrip(".")
        yield path, text


def _varies(path: str, text: str) -> bool:
    if path in _COUNTS:
        return _COUNT.fullmatch(text) is not None
    return (path in _TEXTS or path == _CONTENT) and text.startswith('"')


def _filled(pieces: Iterable[tuple[bool, str]]) -> str:
    """Return the SQL of a part of the template with the values of a line in it."""
    filled = []
    for fixed, some in groupby(pieces, lambda piece: piece[0]):
        texts = [text for _, text in some]
        filled += [_literal("".join(texts))] if fixed else texts
    return f"concat({', '.join(filled)})"


def _pieces(parts: Sequence[tuple[str, str]]) -> Iterator[tuple[bool, str]]:
    """Yield what is fixed, as text, and what is not, as SQL."""
    for path, text in parts:
        if not path:
            yield True, text
        elif path in _COUNTS:  # that of NULL is an empty text, which no line has there
            yield False, _sql(path)
        elif path in _NEEDED:
            yield from ((True, '"'), (False, _sql(path)), (True, '"'))
        else:
            yield False, f"coalesce('\"' || {_sql(path)} || '\"', 'null')"


def _proof(paths: Sequence[str]) -> list[str]:
    content = f"coalesce({_sql(_CONTENT)}, '')"
    rest = f"strlen(line) - strlen(head) - strlen(tail) - strlen({content})"
    quotes = " = ".join(
        " + ".join(f"strlen({text}) - strlen(replace({text}, '\"', ''))" for text in side)
        for side in (("line",), ("head", "tail", content))
    )
    # Where something is escaped, the answer is shorter than it is written; a quotation mark in it is one, though, and
    # any other one would end it too soon.
    answered = (
        rf"CASE WHEN contains(line, '\') THEN {rest} >= 0 AND {quotes} "
        rf"AND NOT contains(line, '\u0022') AND NOT contains(line, '\u0000') ELSE {rest} = 0 END"
    )
    return [
        *("starts_with(line, head)", "ends_with(line, tail)", answered),
        *(f"({_sql(path)} IS NULL OR ({_TEXTS[path].format(_sql(path))}))" for path in paths if path in _TEXTS),
        *(f"{_sql(path)} IS NOT NULL" for path in paths if path in _COUNTS or path in _NEEDED - {_CONTENT}),
        *(f"{_sql(path)} BETWEEN 0 AND {_LARGEST}" for path in paths if path in _COUNTS),
    ]


def _pattern(paths: Sequence[str]) -> str:
    nullable = [path for path in paths if path == _CONTENT or (path in _TEXTS and path not in _NEEDED)]
    return " + ".join(f"(({_sql(path)} IS NULL)::INT << {at})" for at, path in enumerate(nullable))


def _shown(columns: dict[str, str]) -> str:
    named: dict[str, list[str]] = {}
    for field in SCHEMA:
        if (value := columns.get(field.name, "NULL")) != "NULL":
            named.setdefault(_typed(value, field), []).append(field.name)
    return ", ".join(f'{value} AS "{" ".join(names)}"' for value, names in named.items())


def _structure(paths: Sequence[str]) -> str:
    """Return the structure of what is taken out of a line, as DuckDB has it."""
    root: dict[str, object] = {}
    for path in paths:
        *steps, last = path.split(".")
        held = root
        for step in steps:
            held = held.setdefault(step, {})  # type: ignore[assignment]
        held[last] = "BIGINT" if path in _COUNTS else "VARCHAR"
    return _as_json(root)


def _as_json(held: object) -> str:
    if not isinstance(held, dict):
        return f'"{held}"'
    inner = (
        f'"{key.removesuffix("[1]")}":{f"[{_as_json(value)}]" if key.endswith("[1]") else _as_json(value)}'
        for key, value in held.items()
    )
    return "{" + ",".join(inner) + "}"


def _around(missing: str) -> str:
    return f"CASE WHEN {_sql(_CONTENT)} IS NULL THEN {missing} ELSE '\"' END"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sql(path: str) -> str:
    return f'"{path}"'


def _place(path: str) -> str:
    inner = path.removeprefix("choices[1]")
    return f"c{inner}" if inner != path else f"s.{path}"


def _typed(sql: str, field: pa.Field) -> str:
    kind = _TYPES.get(str(field.type))
    return f"({sql})::{kind}" if kind else sql
