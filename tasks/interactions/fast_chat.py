"""Lines of OpenAI's chat that are alike: one parse by DuckDB gives their rows and proves them good.

The objects of one good line make a template. DuckDB fills it from every line and refuses one that lacks a key or has
one twice. What it lets pass shows in the quotation marks of the line: there are two of each key of the template, two
of each text, and those within the texts, unless there is another key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from tasks.interactions.columns import SCHEMA

_CREATED, _CONTENT = "created", "choices[1].message.content"
_NAME: Final = "strlen({0}) <= 200 AND regexp_full_match({0}, '[A-Za-z][#-~]*[-0-9_][#-~]*')"
"""A word that is no number, truth or object, and has no quotation mark in it."""
_TEXTS: Final = {
    "id": _NAME,
    "object": "{0} = 'chat.completion'",
    "model": _NAME,
    "service_tier": "{0} IN ('default', 'standard', 'flex', 'priority', 'batch', 'auto')",
    "system_fingerprint": "starts_with({0}, 'fp_') AND NOT contains({0}, '\"')",
    "choices[1].message.role": "{0} = 'assistant'",
    "choices[1].finish_reason": "{0} IN ('stop', 'length', 'tool_calls', 'content_filter', 'function_call')",
    # What DuckDB shows of a value that is no text begins in one of these ways. An answer may well begin so; a text
    # within another one has its quotation marks escaped.
    _CONTENT: (
        r"CASE WHEN strlen({0}) > 8 AND ({0} >= ']' AND {0} < '{{' OR {0} >= 'A' AND {0} < '[') THEN true ELSE "
        r"NOT regexp_matches({0}, '^(?:[-+0-9{{\[]|(?i:true|false|nan|inf|infinity)$)') "
        """OR contains(line, '"content":"') OR contains(line, '"content": "') END"""
    ),
}
"""By path: what must hold of the text besides the keys and the quotation marks; it proves that it is a text."""
_NOTHING: Final = ("choices[1].logprobs", "choices[1].message.refusal", "choices[1].message.annotations")
"""A line in which one of these is something is not read this way."""
_NUMBERS: Final = {
    "usage.prompt_tokens": "input_tokens",
    "usage.completion_tokens": "output_tokens",
    "usage.prompt_tokens_details.cached_tokens": "cached_input_tokens",
    "usage.prompt_tokens_details.audio_tokens": "audio_input_tokens",
    "usage.completion_tokens_details.reasoning_tokens": "reasoning_tokens",
    "usage.completion_tokens_details.audio_tokens": "audio_output_tokens",
}
_BESIDE: Final = (
    "choices[1].index", "usage.total_tokens", "usage.completion_tokens_details.accepted_prediction_tokens",
    "usage.completion_tokens_details.rejected_prediction_tokens",
)  # fmt: skip
_NEEDED: Final = ("id", "object", "model", _CREATED, "usage.prompt_tokens", "usage.completion_tokens")
_WORDS: Final = {
    "id": "id", "model": "model", "tier": "service_tier", "ended": "choices[1].finish_reason", "content": _CONTENT,
}  # fmt: skip
_TYPES: Final = {"string": "VARCHAR", "int64": "BIGINT", "double": "DOUBLE", "int32": "INTEGER", "bool": "BOOLEAN"}
_LARGEST: Final = 2**53


def chat_template(objects: Mapping[str, Sequence[str]], holds: Sequence[str], columns: Mapping[str, str]) -> str | None:
    """Return the SQL that reads lines like one whose objects have these keys.

    Args:
        objects: The keys of each object of a line that can be proved good, by its path; ``""`` is the line.
        holds: What else must hold of ``line`` and ``moment``.
        columns: SQL of columns of the log, from ``moment``, ``id``, ``model``, ``tier``, ``ended``, ``content`` and
            the names of the counts.

    Returns:
        A query of ``lines`` (``line``, and in ``quotes`` how many quotation marks it has) for ``held``, whether a line
        is proved good, ``pattern``, which of its values are NULL, and the columns of the log that are not all NULL,
        each with all its names; None where lines like this one are not read this way.
    """
    leaves = [path for path in _paths(objects, "") if path not in objects]
    numbers = [path for path in leaves if path in {_CREATED, *_NUMBERS, *_BESIDE}]
    texts = [path for path in leaves if path in _TEXTS]
    if set(leaves) - {*numbers, *texts, *_NOTHING} or {*_NEEDED, _CONTENT} - set(leaves):
        return None
    proof = [
        "shaped",
        *(f"{_sql(path)} IS NOT NULL" for path in _NEEDED),
        *(f"{_sql(path)} IS NULL" for path in leaves if path in _NOTHING),
        f"regexp_full_match(concat_ws(' ', {', '.join(map(_sql, numbers))}), '(?:[0-9]{{1,16}}(?: |$))*')",
        *(f"({_sql(path)} IS NULL OR ({_TEXTS[path].format(_sql(path))}))" for path in texts),
        _quotes(sum(map(len, objects.values())), texts),
    ]
    pattern = " + ".join(f"(({_sql(path)} IS NULL)::INT << {at})" for at, path in enumerate((*texts, *numbers)))
    values = [
        *(f"{_sql(_WORDS[name]) if _WORDS[name] in leaves else 'NULL::VARCHAR'} AS {name}" for name in _WORDS),
        *(f"{_cast(path) if path in leaves else 'NULL::BIGINT'} AS {name}" for path, name in _NUMBERS.items()),
        f"make_timestamptz(1000000 * coalesce(TRY_CAST({_sql(_CREATED)} AS UINTEGER), 0)::BIGINT) AS moment",
    ]
    ranges = [f"({name} IS NULL OR {name} <= {_LARGEST})" for name in _NUMBERS.values()]
    named: dict[str, list[str]] = {}
    for field in SCHEMA:
        if (value := columns.get(field.name, "NULL")) != "NULL":
            named.setdefault(_typed(value, field), []).append(field.name)
    shown = ", ".join(f'{value} AS "{" ".join(names)}"' for value, names in named.items())
    shaped = " AND ".join(
        ["s IS NOT NULL", "len(s.choices) = 1", *(f"{_place(path)} IS NOT NULL" for path in objects if path)]
    )
    found = ", ".join(f"{_place(path)} AS {_sql(path)}" for path in leaves)
    filled = f"TRY(json_transform_strict(line, '{_structure(objects, '')}'))"
    return (
        f"SELECT coalesce({' AND '.join(['proof', *ranges, *holds])}, false) AS held, pattern, {shown} FROM ("  # noqa: S608 -- ours
        f"SELECT line, {' AND '.join(proof)} AS proof, {pattern} AS pattern, {', '.join(values)} FROM ("
        f"SELECT line, quotes, {shaped} AS shaped, {found} FROM ("
        # Each step once: DuckDB copies what it takes out of a list.
        f"SELECT *, s.choices[1] AS c FROM (SELECT line, quotes, {filled} AS s FROM lines))))"
    )


def _sql(path: str) -> str:
    return f'"{path}"'


def _cast(path: str) -> str:
    return f"TRY_CAST({_sql(path)} AS BIGINT)"


def _place(path: str) -> str:
    inner = path.removeprefix("choices[1]")
    return f"c{inner}" if inner != path else f"s.{path}"


def _quotes(keys: int, texts: Sequence[str]) -> str:
    present = " + ".join(f"({_sql(path)} IS NOT NULL)::INT" for path in texts)
    content = _sql(_CONTENT)
    within = (
        f"CASE WHEN contains({content}, '\"') THEN strlen({content}) - strlen(replace({content}, '\"', '')) ELSE 0 END"
    )
    return rf"quotes = 2 * ({keys} + {present}) + {within} AND NOT contains(line, '\u0022')"


def _typed(sql: str, field: pa.Field) -> str:
    kind = _TYPES.get(str(field.type))
    return f"({sql})::{kind}" if kind else sql


def _paths(objects: Mapping[str, Sequence[str]], place: str) -> list[str]:
    """Return the paths of all values, of the items of ``choices`` the first one."""
    found = []
    for key in objects[place]:
        path = f"{place}.{key}" if place else key
        path = "choices[1]" if path == "choices" else path
        found += [path, *(_paths(objects, path) if path in objects else ())]
    return found


def _structure(objects: Mapping[str, Sequence[str]], place: str) -> str:
    parts = []
    for key in objects[place]:
        path = f"{place}.{key}" if place else key
        if path == "choices":
            parts.append(f'"{key}":[{_structure(objects, "choices[1]")}]')
        elif path in objects:
            parts.append(f'"{key}":{_structure(objects, path)}')
        else:
            parts.append(f'"{key}":"{"VARCHAR" if path in _TEXTS else "JSON"}"')
    return "{" + ",".join(parts) + "}"
