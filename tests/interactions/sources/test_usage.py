"""Usage as the vectors of genai-prices have it, and what its arithmetic cannot settle."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InputError
from tasks.interactions.sources.usage import all_input, usage_fields

SHARED = Path(__file__).parents[4] / "shared" / "data"
READ = {
    ("openai", "chat"): "usage",
    ("openai", "responses"): "usage",
    ("openai", "embeddings"): "usage",
    ("anthropic", "default"): "usage",
    ("aws", "default"): "usage",
    ("google", "default"): "usageMetadata",
    ("cohere", "default"): "usage",
    ("cohere", "tokens"): "usage",
    ("cohere", "embeddings"): "meta",
}
COLUMNS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cached_input_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "output_reasoning_tokens": "reasoning_tokens",
    "input_audio_tokens": "audio_input_tokens",
    "cache_audio_read_tokens": "cached_audio_input_tokens",
    "output_audio_tokens": "audio_output_tokens",
}


def test_usage_is_extracted_as_the_vectors_say() -> None:
    place = SHARED / "conformance" / "genai_prices_usages.json.gz"
    if not place.exists():
        pytest.skip(f"no shared data at {SHARED}")
    bodies = json.loads(gzip.decompress(place.read_bytes()))
    checked: Counter[tuple[str, str]] = Counter()
    covered: set[int] = set()
    for number, body in enumerate(bodies):
        for vector in body["extracted"]:
            for extractor in vector["extractors"]:
                flavor = (extractor["provider_id"], extractor["api_flavor"])
                if flavor in READ:
                    root = READ[flavor]
                    assert _shown(usage_fields(body["body"][root], *flavor, root)) == _wanted(vector["usage"]), number
                    checked[flavor] += 1
                    covered.add(number)
    assert len(bodies) == len(covered) == 1114
    assert checked == {
        ("anthropic", "default"): 349,
        ("openai", "responses"): 349,
        ("google", "default"): 316,
        ("openai", "embeddings"): 280,
        ("openai", "chat"): 278,
        ("aws", "default"): 155,
        ("cohere", "tokens"): 16,
        ("cohere", "default"): 11,
        ("cohere", "embeddings"): 3,
    }


def _shown(fields: dict[str, Any]) -> dict[str, Any]:
    other = fields.pop("other_usage", {})
    return {name: value for name, value in (fields | other).items() if value}


def _wanted(usage: dict[str, Any]) -> dict[str, Any]:
    named = {COLUMNS.get(unit, unit): value for unit, value in usage.items()}
    return {name: value for name, value in named.items() if name in {*COLUMNS.values(), "web_searches"}}


def test_a_known_zero_stays_zero_and_an_unknown_count_stays_unknown() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0}}

    assert usage_fields(usage, "openai", "chat") == {"input_tokens": 5, "output_tokens": 0, "cached_input_tokens": 0}


def test_an_answer_that_broke_off_keeps_what_it_knows() -> None:
    assert usage_fields({"input_tokens": 9, "cache_read_input_tokens": 90}, "anthropic", "default") == {
        "input_tokens": 99,
        "cached_input_tokens": 90,
    }
    assert usage_fields({"completion_tokens": 4}, "openai", "chat") == {"output_tokens": 4}
    assert usage_fields(None, "openai", "chat") == {}
    assert usage_fields({"prompt_tokens": None}, "openai", "chat") == {}


@pytest.mark.parametrize("count", ["7", 1.5, True, -1, [], {}])
def test_a_count_that_is_none_is_refused_without_its_value(count: object) -> None:
    with pytest.raises(InputError, match=r"^usage: a count in it is no whole number from 0$"):
        usage_fields({"prompt_tokens": count, "completion_tokens": 1}, "openai", "chat")


@pytest.mark.parametrize(
    ("counts", "whole"),
    [
        ((10, None, None, None, None), 10),
        ((None, 5, 0, 1, 6), None),
        ((110, 100, 0, 1, 111), 110),
        ((10, 100, 20, 1, 131), 130),
        ((50, 30, 0, 5, 85), 80),
        ((50, 30, 0, 5, 55), 50),
        ((50, 30, 0, None, None), 50),
    ],
)
def test_the_sources_own_sum_tells_whether_its_input_counts_the_cache(
    counts: tuple[int | None, int | None, int | None, int | None, int | None], whole: int | None
) -> None:
    assert all_input(*counts) == whole
