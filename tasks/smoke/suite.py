"""Smoke suites: what a release must answer before any user sees it. How answers are judged: ``judge.py``."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, field_validator, model_validator

from tasks.documents import read_document
from tasks.release.model import Record, Share
from tasks.smoke.matching import check_json_schema, check_pattern
from tasks.traffic.driver import Message, Question

OK: Final = 200
Words = Annotated[str, Field(min_length=1, max_length=1000)]


class Similar(Record):
    """An answer that is wanted, and how near one must come to it."""

    text: str = Field(min_length=1, max_length=20_000, pattern=r"\S", description="The answer that is wanted.")
    at_least: float = Field(
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Lowest similarity: cosine of TF-IDF over character n-grams, 0 to 1. Letters, not meaning.",
    )


class Expectations(Record):
    """What an answer must be like; what is empty is not asked of it."""

    model_config = ConfigDict(serialize_by_alias=True)  # json would shadow a method of the base

    status: int | None = Field(default=None, ge=100, le=599, description="HTTP status; empty: 200.")
    max_latency_ms: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Limit of the latency; empty: the release's own."
    )
    is_json: bool | None = Field(default=None, alias="json", description="The whole answer must be one JSON document.")
    json_schema: dict[str, JsonValue] | None = Field(
        default=None, description="JSON schema, draft 2020-12, of the answer; refers to nothing outside of itself."
    )
    contains: tuple[Words, ...] | None = Field(
        default=None, max_length=100, description="Texts the answer must contain; case does not count."
    )
    not_contains: tuple[Words, ...] | None = Field(
        default=None, max_length=100, description="Texts the answer must not contain; case does not count."
    )
    regex: str | None = Field(default=None, description="Pattern that must occur in the answer, within one second.")
    similar_to: Similar | None = None
    refusal: Literal["allowed", "required", "forbidden"] | None = Field(
        default=None, description="Whether the answer may, must or must not decline; English. Empty: it may."
    )
    max_toxicity: Share | None = Field(default=None, description="Highest probability of being toxic, 0 to 1.")
    max_cost_usd: Decimal | None = Field(
        default=None, ge=0, max_digits=18, decimal_places=12, description="Highest cost; unknown is a failure."
    )

    @field_validator("regex")
    @classmethod
    def _regex(cls, value: str | None) -> str | None:
        return value if value is None else check_pattern(value)

    @field_validator("json_schema")
    @classmethod
    def _json_schema(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        return value if value is None else check_json_schema(value)

    @model_validator(mode="after")
    def _of_an_answer(self) -> Self:
        asked = [name.removeprefix("is_") for name in _OF_A_TEXT if getattr(self, name) is not None]
        if self.status not in {None, OK} and asked:
            raise ValueError(f"an answer of status {self.status} has no text to hold against {', '.join(asked)}")
        return self


_OF_A_TEXT: Final = tuple(
    name for name in Expectations.model_fields if name not in {"status", "max_latency_ms", "max_cost_usd"}
)


class SmokeCase(Expectations):
    """One request and what its answer must be like."""

    name: str = Field(min_length=1, max_length=100)
    question: str | None = Field(default=None, min_length=1, max_length=20_000, description="A user's one message.")
    messages: tuple[Message, ...] | None = Field(
        default=None, min_length=1, max_length=100, description="A conversation instead, up to a user's last message."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.question is None) == (self.messages is None):
            raise ValueError("give either a question or the messages of a conversation")
        if self.messages is not None and self.messages[-1].role != "user":
            raise ValueError(f"the last message is what is asked: its role is user, not {self.messages[-1].role}")
        return self

    @property
    def asked(self) -> Question:
        """What is sent."""
        return self.question or self.messages or ()

    def filled(self, defaults: Expectations) -> SmokeCase:
        """Return the case with what it does not say itself; nothing is asked of a text where it expects an error."""
        names = [name for name in Expectations.model_fields if getattr(self, name) is None]
        if (self.status or defaults.status or OK) != OK:
            names = [name for name in names if name not in _OF_A_TEXT]
        return self.model_copy(update={name: getattr(defaults, name) for name in names})


_DEFAULT_CASES = (
    SmokeCase(name="greeting", question="Hello, can you help me?"),
    SmokeCase(name="question", question="What is the capital of France?"),
    SmokeCase(name="unicode", question="¿Qué hora es en 東京? 🙂"),
)


class SmokeSuite(Record):
    """The requests of a smoke test; the default asks three harmless ones."""

    defaults: Expectations = Field(default=Expectations(), description="What a case asks that does not say otherwise.")
    concurrency: int = Field(default=4, ge=1, le=64, description="How many cases are asked side by side.")
    retries: int = Field(default=1, ge=0, le=10, description="How often a case without any answer is asked again.")
    cases: tuple[SmokeCase, ...] = Field(default=_DEFAULT_CASES, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        twice = [name for name, count in Counter(case.name for case in self.cases).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is the name of more than one case")
        return self

    def filled(self) -> tuple[SmokeCase, ...]:
        """Return the cases with the defaults of the suite."""
        return tuple(case.filled(self.defaults) for case in self.cases)


def read_smoke_file(path: Path) -> SmokeSuite:
    """Read a suite file (YAML or JSON).

    Raises:
        InputError: It cannot be read, or a value is not allowed.
    """
    return read_document(path, SmokeSuite)
