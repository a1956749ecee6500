"""What a release is: an immutable record whose identity is the digest of its canonical form.

The record is a file, a form in the Prefect UI and a row in the registry, so it is one frozen Pydantic model
rather than a dataclass with a twin for the edge.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from tasks.documents import read_document, shown

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""What the registry, the data path and the file system all accept as a name."""
ENDPOINT_PATTERN = re.compile(r"https?://[^\s/?#]+[^\s?#]*|models:/[A-Za-z0-9_.-]+/[1-9][0-9]{0,17}")
_MOVABLE_PATTERN = re.compile(r"models:/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+|@[A-Za-z0-9_.-]+)?")
RESERVED_PARAMETERS = {
    "messages": "the messages are the caller's, and the prompt leads them",
    "model": "the model is the release's model_id",
    "stream": "the caller says whether the answer is streamed",
    "stream_options": "the caller says what a stream holds",
    "user": "it names who calls, and a release is nobody",
    "n": "a release gives one answer to a call",
}
"""Parameters a release cannot have, and why: they would mangle the request that is sent to the endpoint."""


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Record(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptRef(Record):
    """The prompt of a release: a new text, or a version that the prompt registry already holds."""

    name: Name
    text: str | None = Field(default=None, min_length=1, max_length=100_000, description="A new text to register.")
    version: int | None = Field(default=None, ge=1, description="A version the prompt registry holds already.")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            name, at, version = value.rpartition("@")
            if not at or not version.isdecimal():
                raise ValueError(f"{value!r} is not a prompt; write name@version, or a name and a text")
            return {"name": name, "version": int(version)}
        return value

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.text is None) == (self.version is None):
            raise ValueError("give either the text of the prompt or the version of a registered one")
        return self


class Monitors(Record):
    """The limits a release lives under; the defaults are those of the design."""

    latency_ms: float = Field(default=1000.0, gt=0, allow_inf_nan=False, description="95th percentile, milliseconds.")
    quality: Share = Field(default=0.7, description="Lowest mean quality, 0 to 1.")
    toxicity: Share = Field(default=0.1, description="Highest share of toxic answers, 0 to 1.")
    errors: Share = Field(default=0.05, description="Highest share of failed calls, 0 to 1.")
    drift: Share = Field(default=0.2, description="Largest distance to the baseline's distribution, 0 to 1.")
    cost_usd_per_day: float = Field(default=100.0, gt=0, allow_inf_nan=False, description="Budget of a UTC day, USD.")


class Autoscaling(Record):
    """How many replicas a release may have."""

    min_replicas: int = Field(default=1, ge=1, le=1000)
    max_replicas: int = Field(default=1, ge=1, le=1000)
    target_ongoing_requests: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    upscale_delay_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    downscale_delay_s: float = Field(default=600.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}")
        return self


class AbTest(Record):
    """The experiment that a release must come through before it is rolled out over another one."""

    name: Name
    share: Share = Field(default=0.5, description="Share of users that see this release.")


class Price(Record):
    """What the endpoint costs where the price book does not know its model."""

    input_usd_per_mtok: Decimal = Field(ge=0, max_digits=18, decimal_places=6)
    output_usd_per_mtok: Decimal = Field(ge=0, max_digits=18, decimal_places=6)

    @field_validator("*")
    @classmethod
    def _shortest(cls, value: Decimal) -> Decimal:
        return Decimal(f"{value.normalize():f}")  # 3, 3.0 and "3.00" are one price, and one release


class ReleaseSpec(Record):
    """A release as a team writes it down, before the registry has seen it."""

    application: Name = Field(description="What users call; it has one traffic plan.")
    model_id: Name = Field(description="The model, as the price book and the logs name it.")
    version: str = Field(pattern=NAME_PATTERN, description="The team's own name for this release.")
    endpoint: str = Field(description="An OpenAI-compatible base URL, or models:/name/number from the registry.")
    endpoint_key_env: str | None = Field(
        default=None,
        pattern=r"^[A-Z][A-Z0-9_]{0,63}$",
        description="Environment variable of the data path that holds the endpoint's key; never the key itself.",
    )
    provider: Name = Field(default="internal", description="Who is paid; the price book is looked up by it.")
    prompt: PromptRef
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="What the endpoint gets beside the messages, any JSON; it wins over the caller.",
    )
    tools: tuple[str, ...] = Field(
        default=(),
        description=(
            "Names of the tools the application gives the model: part of what the release is, and sent to nobody. "
            "Definitions the endpoint shall get stand in parameters: {tools: [...]}."
        ),
    )
    monitors: Monitors = Monitors()
    autoscaling: Autoscaling = Autoscaling()
    ab_test: AbTest | None = None
    baseline: str | None = Field(
        default=None,
        description=(
            "A named baseline, else the version whose summary drift is measured against; empty: its own ramp, else "
            "its predecessor."
        ),
    )
    price: Price | None = None
    judge_version: Literal["support-1"] = Field(default="support-1", description="The quality judge, pinned.")
    owner: str = Field(default="", max_length=200)

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        if not ENDPOINT_PATTERN.fullmatch(value) or "@" in value.split("://", 1)[-1].split("/", 1)[0]:
            if _MOVABLE_PATTERN.fullmatch(value):
                raise ValueError(
                    f"{shown(value)} names no fixed version: an alias or a stage can be moved to another model; "
                    "write models:/name/number"
                )
            raise ValueError(
                f"{shown(value)} is no endpoint; write http(s)://host/path without a key, or models:/name/number"
            )
        return value

    @field_validator("parameters")
    @classmethod
    def _parameters(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name, reason in RESERVED_PARAMETERS.items():
            if name in value:
                raise ValueError(f"{name} is not a parameter of a release: {reason}; remove it")
        return {_text(name, name): _plain(name, item) for name, item in value.items()}

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.prompt.name == self.application:
            raise ValueError(
                f"prompt {self.prompt.name!r} is named like its application, and the registry keeps both in one "
                f"namespace; name it {self.application}-prompt, for instance"
            )
        return self

    @field_validator("version", "baseline", mode="before")
    @classmethod
    def _version(cls, value: Any) -> Any:
        if isinstance(value, float):
            raise ValueError("a version is a text; write it in quotes, because the number 1.10 is 1.1")  # noqa: TRY004
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def deployment_id(self, now: datetime) -> str:
        """Return the name of one act of deploying this release: ``{model_id}-{version}-{UTC ISO time}``."""
        return f"{self.model_id}-{self.version}-{now.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"


class Prompt(Record):
    """A prompt pinned to the version and the bytes that were registered."""

    name: Name
    version: int
    text: str
    sha256: str


class Release(Record):
    """A registered release: the spec, its pinned prompt, and where the registry keeps it."""

    spec: ReleaseSpec
    prompt: Prompt
    registry_version: int = Field(ge=1)

    @property
    def application(self) -> str:
        """What users call."""
        return self.spec.application

    @property
    def digest(self) -> str:
        """The identity of the release: 64 hexadecimal digits."""
        return release_digest(self.spec, self.prompt.sha256)

    @property
    def short(self) -> str:
        """The first twelve digits of the digest, as servers and artifacts name the release."""
        return self.digest[:12]

    @property
    def label(self) -> str:
        """The release for people: ``model_id version``."""
        return f"{self.spec.model_id} {self.spec.version}"


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def release_digest(spec: ReleaseSpec, prompt_sha256: str) -> str:
    """Return the digest of the canonical form: sorted keys, no spaces, the prompt by its bytes.

    The prompt counts by content, so the same text given as text or as ``name@version`` is the same release.
    """
    document = spec.model_dump(mode="json")
    document["prompt"] = {"name": spec.prompt.name, "sha256": prompt_sha256}
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text_sha256(canonical)


def read_release_file(path: Path) -> ReleaseSpec:
    """Read a release file (YAML or JSON).

    Raises:
        InputError: It cannot be read, or a value is not allowed; every bad field is named.
    """
    return read_document(path, ReleaseSpec)


def _plain(place: str, value: JsonValue) -> JsonValue:
    """Return a JSON value in its one spelling: a form cannot tell 1.0 from 1, so a release does not either."""
    if isinstance(value, dict):
        return {_text(place, name): _plain(f"{place}.{name}", item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(f"{place}.{at}", item) for at, item in enumerate(value)]
    if isinstance(value, str):
        return _text(place, value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{place} {value} is not a finite number")
        return int(value) if value.is_integer() else value
    return value


def _text(place: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place!a} holds half of a surrogate pair, which is no text") from error
    return value
