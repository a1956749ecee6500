"""Models on machines of one's own: hours are paid for, tokens share them, and idle hours are shown apart.

The day's price is split twice. The busy share of it goes to the tokens: each weighted token costs the same, so a call's
cost is the rate times its tokens, rounded as any other. All the rest is idle: hours times price, less what the calls
cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.costs.rates import PUSD_PER_USD, SECONDS_A_DAY, Layer, Rate, entry_sha256
from tasks.release.model import Name

HOURS_A_DAY: Final = 24
Weight = Annotated[int, Field(ge=0, le=1000)]


class GpuHours(BaseModel):
    """What a self-hosted model costs over a range of UTC days.

    Attributes:
        provider, model: As the interaction log names them.
        from_utc: The first day.
        until_utc: The first day after it; None where it holds on.
        gpus: How many are paid for, day and night.
        usd_per_gpu_hour: What an hour of one costs.
        input_weight, output_weight: How much of the machine a token takes, relative to the others.
        capacity_tokens_per_s: Weighted tokens a second of all GPUs together at full load.
        concurrency: Calls at a time at full load; in the place of a capacity, the latencies then tell what is busy.
        source: Where the price was read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Name
    model: str = Field(min_length=1, max_length=200)
    from_utc: date
    until_utc: date | None = None
    gpus: int = Field(ge=1, le=100_000)
    usd_per_gpu_hour: Decimal = Field(ge=0, max_digits=18, decimal_places=6, allow_inf_nan=False)
    input_weight: Weight = 1
    output_weight: Annotated[int, Field(ge=1, le=1000)] = 4
    capacity_tokens_per_s: Decimal | None = Field(default=None, gt=0, max_digits=18, decimal_places=6)
    concurrency: int | None = Field(default=None, ge=1)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if self.until_utc is not None and self.until_utc <= self.from_utc:
            raise ValueError(f"until_utc {self.until_utc} is not after from_utc {self.from_utc}")
        if (self.capacity_tokens_per_s is None) == (self.concurrency is None):
            raise ValueError("give either capacity_tokens_per_s or concurrency")
        return self

    def covers(self, provider: str | None, model: str | None, day: date) -> bool:
        """Return whether this is the price of a model on a UTC day."""
        begun = self.from_utc <= day and (self.until_utc is None or day < self.until_utc)
        return begun and (self.provider, self.model) == (provider, model)

    @property
    def day_pusd(self) -> int:
        """What one UTC day costs, pico-USD."""
        return int(self.usd_per_gpu_hour * PUSD_PER_USD) * self.gpus * HOURS_A_DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedUsage:
    """What one self-hosted model did on one UTC day, over all applications.

    Attributes:
        calls: Those whose tokens are all known.
        input_tokens, output_tokens: Of these calls.
        busy_ms: Sum of the known latencies, whole milliseconds.
    """

    calls: int
    input_tokens: int
    output_tokens: int
    busy_ms: int


def busy_share(entry: GpuHours, usage: HostedUsage) -> Fraction:
    """Return which share of the machines' day was busy, 0 to 1."""
    if entry.concurrency is not None:
        return min(Fraction(1), Fraction(usage.busy_ms, entry.concurrency * SECONDS_A_DAY * 1000))
    capacity = Fraction(entry.capacity_tokens_per_s or 1) * SECONDS_A_DAY
    return min(Fraction(1), weighted_tokens(entry, usage) / capacity)


def weighted_tokens(entry: GpuHours, usage: HostedUsage) -> int:
    """Return the tokens times their weights."""
    return usage.input_tokens * entry.input_weight + usage.output_tokens * entry.output_weight


def hosted_rates(entry: GpuHours, usage: HostedUsage, day: date) -> tuple[Rate, ...]:
    """Return what the tokens of a UTC day cost; none where no token is known.

    A call is rounded to whole pico-USD, up by half of one at most, so one pico-USD a call is kept back: what all calls
    cost is never more than the day.
    """
    weighted = weighted_tokens(entry, usage)
    if weighted == 0:
        return ()
    share = max(0, int(entry.day_pusd * busy_share(entry, usage)) - usage.calls)
    per_token = Fraction(share, weighted)
    return (
        Rate(
            provider=entry.provider,
            model=entry.model,
            day=day,
            input_pusd_per_unit=per_token.numerator * entry.input_weight,
            cached_input_pusd_per_unit=None,
            output_pusd_per_unit=per_token.numerator * entry.output_weight,
            unit_tokens=per_token.denominator,
            layer=Layer.GPU_HOURS,
            sha256=entry_sha256(entry.model_dump(exclude_defaults=True)),
        ),
    )
