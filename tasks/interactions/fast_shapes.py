"""What is known of a format's lines: which shapes can be proved good, and the SQL that makes rows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.interactions.columns import SCHEMA, SCHEMA_VERSION
from tasks.interactions.fast_chat import chat_template
from tasks.interactions.schema import EARLIEST, LATEST

_NAMES: Final = (
    "interaction_id", "application", "unit", "provider", "model", "prompt_name", "error_type", "finish_reason",
    "source", "trace_id", "session_id", "team", "route", "environment", "language", "request_model", "response_id",
    "service_tier",
)  # fmt: skip
_DIGESTS: Final = ("release_digest", "user_hash", "input_sha256", "output_sha256")
_TEXTS: Final = ("input_text", "context_text", "output_text")
_COUNTS: Final = (
    "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens",
    "reasoning_tokens", "audio_input_tokens", "cached_audio_input_tokens", "audio_output_tokens",
)  # fmt: skip
_ORDINALS: Final = ("plan_revision", "prompt_version")
_DURATIONS: Final = ("latency_ms", "ttft_ms")
_REQUIRED: Final = ("interaction_id", "application", "time", "status")
_OWN: Final = ("tags", "other_usage")
"""Lists and objects: a line that has one is read the exact way."""
_LONGEST_MS: Final = 86_400_000
_TIME: Final = r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-](0\d|1[0-4]):[0-5]\d)"

Template = Callable[[str], str | None]
"""Takes a line that is proved good; returns the SQL that reads lines like it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is known of one format.

    Attributes:
        types: SQL of the types of all values that matter, from a column ``line``.
        keys: SQL of the keys of all objects that matter.
        is_provable: Whether lines of such types and keys can be proved good.
        values: SQL of the values as texts, in a column ``v``.
        holds: SQL of what must hold of the values.
        columns: SQL of each column of the log.
        template: Makes the SQL that reads lines that are alike; None: they are read by their shapes only.
    """

    types: str
    keys: str
    is_provable: Callable[[Sequence[str | None], Sequence[Sequence[str] | None]], bool]
    values: str
    holds: str
    columns: dict[str, str]
    template: Template | None = None


def _list(paths: Sequence[str]) -> str:
    return "[" + ", ".join(f"'{path}'" for path in paths) + "]"


def _extracted(paths: Sequence[str]) -> str:
    return f"SELECT line, json_extract_string(line, {_list(paths)}) AS v FROM lines"  # noqa: S608 -- ours


def _is_name(value: str) -> str:
    prints = f"length({value}) BETWEEN 1 AND 200 AND NOT regexp_matches({value}, '[\\x01-\\x1f\\x7f]')"
    return f"({value} IS NULL OR ({prints}))"


def _in(value: str, low: int, high: int, kind: str = "UBIGINT") -> str:
    return f"({value} IS NULL OR coalesce(TRY_CAST({value} AS {kind}) BETWEEN {low} AND {high}, false))"


def _time_holds(value: str) -> str:
    return f"({value} >= TIMESTAMPTZ '{EARLIEST.isoformat()}' AND {value} < TIMESTAMPTZ '{LATEST.isoformat()}')"


def _plain_line() -> list[str]:
    # DuckDB takes a comma before a bracket, which is no JSON, and a text may end at a zero byte.
    return [r"NOT regexp_matches(line, ',\s*[}\]]')", r"NOT contains(line, '\u0000')"]


_FIELDS: Final = (
    *_NAMES, *_DIGESTS, *_TEXTS, *_COUNTS, *_ORDINALS, *_DURATIONS,
    "time", "unit_kind", "bucket", "status", "tokens_estimated", "reported_cost_pusd",
)  # fmt: skip
_V: Final = {name: f"v[{place}]" for place, name in enumerate(_FIELDS, start=1)}
_KIND: Final = (
    dict.fromkeys((*_NAMES, *_DIGESTS, *_TEXTS, "time", "unit_kind"), ("VARCHAR",))
    | dict.fromkeys((*_COUNTS, *_ORDINALS, "bucket", "status"), ("UBIGINT",))
    | dict.fromkeys(_DURATIONS, ("UBIGINT", "DOUBLE"))
    | {"tokens_estimated": ("BOOLEAN",), "reported_cost_pusd": ("UBIGINT", "BIGINT")}
)


def _native_is_provable(types: Sequence[str | None], keys: Sequence[Sequence[str] | None]) -> bool:
    found, present = dict(zip(_FIELDS, types, strict=True)), keys[0] or ()
    return (
        len(set(present)) == len(present)
        and set(present) <= set(_FIELDS)
        and all(found[name] in _KIND[name] for name in _REQUIRED)
        and all(kind in (None, "NULL", *_KIND[name]) for name, kind in found.items())
    )


def _native() -> Shape:
    paths = [f"$.{name}" for name in _FIELDS]
    time = f"CASE WHEN regexp_full_match({_V['time']}, '{_TIME}') THEN TRY_CAST({_V['time']} AS TIMESTAMPTZ) END"
    holds = [
        *_plain_line(),
        *(_is_name(_V[name]) for name in _NAMES),
        *(f"({_V[name]} IS NULL OR regexp_full_match({_V[name]}, '[0-9a-f]{{64}}'))" for name in _DIGESTS),
        *(_in(_V[name], 0, 2**53) for name in _COUNTS),
        *(_in(_V[name], 1, 2**53) for name in _ORDINALS),
        *(_in(_V[name], 0, _LONGEST_MS, "DOUBLE") for name in _DURATIONS),
        *(_in(_V["bucket"], 0, 999), _in(_V["status"], 100, 599)),
        *(_in(_V["reported_cost_pusd"], -(2**63), 2**63 - 1, "HUGEINT"), _time_holds("moment")),
        f"({_V['unit_kind']} IS NULL OR {_V['unit_kind']} IN ('user', 'session', 'request'))",
    ]
    plain = {field.name: _V[field.name] for field in SCHEMA if field.name in _V}
    casts = {
        **{name: f"TRY_CAST({_V[name]} AS BIGINT)" for name in (*_COUNTS, *_ORDINALS, "reported_cost_pusd")},
        **{name: f"TRY_CAST({_V[name]} AS DOUBLE)" for name in _DURATIONS},
        **{name: f"TRY_CAST({_V[name]} AS INTEGER)" for name in ("bucket", "status")},
        "tokens_estimated": f"TRY_CAST({_V['tokens_estimated']} AS BOOLEAN)",
    }
    return Shape(
        types=f"json_type(line, {_list(paths)})",
        keys="json_keys(line, ['$'])",
        is_provable=_native_is_provable,
        values=f"SELECT *, {time} AS moment FROM ({_extracted(paths)})",  # noqa: S608 -- ours
        holds=" AND ".join(holds),
        columns=_derived("moment") | plain | casts | dict.fromkeys(_OWN, "NULL"),
    )


def _derived(moment: str) -> dict[str, str]:
    return dict.fromkeys(SCHEMA.names, "NULL") | {
        "time_utc": moment,
        "date_utc": f"CAST({moment} AS DATE)",
        "schema_version": str(SCHEMA_VERSION),
    }


_CHAT: Final = (
    "id", "model", "created", "object", "service_tier", "choices[0].finish_reason", "choices[0].message.content",
    "usage.prompt_tokens", "usage.completion_tokens", "usage.prompt_tokens_details.cached_tokens",
    "usage.prompt_tokens_details.audio_tokens", "usage.completion_tokens_details.reasoning_tokens",
    "usage.completion_tokens_details.audio_tokens",
)  # fmt: skip
"""What is read of an answer of OpenAI's chat."""
_CHAT_BESIDE: Final = (
    "system_fingerprint", "choices[0].index", "choices[0].logprobs", "choices[0].message.role",
    "choices[0].message.refusal", "choices[0].message.annotations", "choices[1]", "usage.total_tokens",
    "usage.completion_tokens_details.accepted_prediction_tokens",
    "usage.completion_tokens_details.rejected_prediction_tokens",
    "usage.prompt_tokens_details", "usage.completion_tokens_details", "choices",
)  # fmt: skip
_CHAT_COUNTS: Final = {
    "input_tokens": "usage.prompt_tokens",
    "output_tokens": "usage.completion_tokens",
    "cached_input_tokens": "usage.prompt_tokens_details.cached_tokens",
    "audio_input_tokens": "usage.prompt_tokens_details.audio_tokens",
    "reasoning_tokens": "usage.completion_tokens_details.reasoning_tokens",
    "audio_output_tokens": "usage.completion_tokens_details.audio_tokens",
}
_CHAT_OBJECTS: Final = (
    "", "choices[0]", "choices[0].message", "usage", "usage.prompt_tokens_details", "usage.completion_tokens_details",
)  # fmt: skip
_CHAT_TEXTS: Final = frozenset((*_CHAT[:2], *_CHAT[3:7], *_CHAT_BESIDE[:1], *_CHAT_BESIDE[3:5]))
_CHAT_NEEDS: Final = {
    "id": "VARCHAR", "model": "VARCHAR", "created": "UBIGINT", "object": "VARCHAR", "choices": "ARRAY",
    "usage.prompt_tokens": "UBIGINT", "usage.completion_tokens": "UBIGINT",
}  # fmt: skip


def _chat_is_provable(types: Sequence[str | None], keys: Sequence[Sequence[str] | None]) -> bool:
    found = dict(zip((*_CHAT, *_CHAT_BESIDE), types, strict=True))
    known = dict.fromkeys((*_CHAT, *_CHAT_BESIDE))
    for place, held in zip(_CHAT_OBJECTS, keys, strict=True):
        paths = [f"{place}.{key}" if place else key for key in held or ()]
        # An object of its own stands where its own keys are looked at.
        if len(set(paths)) != len(paths) or not set(paths) <= {*known, *_CHAT_OBJECTS}:
            return False
    kinds: dict[str, tuple[str, ...]] = {path: ("VARCHAR",) if path in _CHAT_TEXTS else ("UBIGINT",) for path in known}
    kinds |= {"choices": ("ARRAY",), "choices[1]": (), "choices[0].logprobs": (), "choices[0].message.annotations": ()}
    kinds |= dict.fromkeys(("usage.prompt_tokens_details", "usage.completion_tokens_details"), ("OBJECT",))
    return all(found[path] == kind for path, kind in _CHAT_NEEDS.items()) and all(
        kind in (None, "NULL", *kinds[path]) for path, kind in found.items() if path != "choices[1]" or kind is not None
    )


def _chat_columns(tier: str, ended: str, content: str, name: str, model: str) -> dict[str, str]:
    return {
        "interaction_id": name,
        "response_id": name,
        "model": model,
        "application": "$application",
        "provider": "'openai'",
        "source": "'openai'",
        "status": "200",
        "service_tier": f"CASE {tier} WHEN 'auto' THEN NULL WHEN 'default' THEN 'standard' ELSE {tier} END",
        "finish_reason": ended,
        "output_text": f"nullif({content}, '')",
    }


def _chat_holds(kind: str, tier: str, ended: str, name: str, model: str) -> list[str]:
    return [
        *_plain_line(),
        *(_is_name(value) for value in (name, model)),
        f"{kind} = 'chat.completion'",
        f"({tier} IS NULL OR {tier} IN ('default', 'standard', 'flex', 'priority', 'batch', 'auto'))",
        f"({ended} IS NULL OR regexp_full_match({ended}, '[!-~]{{1,200}}'))",
        _time_holds("moment"),
        "$application IS NOT NULL",
    ]


def _chat_alike(line: str) -> str | None:
    columns = _derived("moment") | _chat_columns("tier", "ended", "content", "id", "model")
    counts = {name: name for name in _CHAT_COUNTS}
    return chat_template(line, [_time_holds("moment")], columns | counts)


def _openai() -> Shape:
    v = {path: f"v[{place}]" for place, path in enumerate(_CHAT, start=1)}
    tier, ended, content = v["service_tier"], v["choices[0].finish_reason"], v["choices[0].message.content"]
    counts = {name: v[path] for name, path in _CHAT_COUNTS.items()}
    holds = [
        *_chat_holds(v["object"], tier, ended, v["id"], v["model"]),
        *(_in(value, 0, 2**53) for value in counts.values()),
    ]
    return Shape(
        types=f"json_type(line, {_list([f'$.{path}' for path in (*_CHAT, *_CHAT_BESIDE)])})",
        keys=f"json_keys(line, {_list([f'$.{path}' if path else '$' for path in _CHAT_OBJECTS])})",
        is_provable=_chat_is_provable,
        values=(
            "SELECT *, make_timestamptz(1000000 * coalesce(TRY_CAST(v[3] AS UINTEGER), 0)::BIGINT) AS moment "  # noqa: S608 -- ours
            f"FROM ({_extracted([f'$.{path}' for path in _CHAT])})"
        ),
        holds=" AND ".join(holds),
        columns=_derived("moment")
        | {name: f"TRY_CAST({value} AS BIGINT)" for name, value in counts.items()}
        | _chat_columns(tier, ended, content, v["id"], v["model"]),
        template=_chat_alike,
    )


SHAPES: Final = {"native": _native(), "openai": _openai()}
"""By format: what is known of it; other formats are read the exact way only."""
