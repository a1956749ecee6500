"""What judges may cost: money and tokens are set aside before every call, so that no call can go beyond.

Before a call its largest possible use is set aside: no tokenizer makes more tokens than there are bytes, and an answer
has at most as many as the request allows. After it, what the server counted takes its place; where it did not count,
the whole amount stays spent. A purse that is a file keeps this over runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from tasks.costs.rates import PUSD_PER_USD, Rate
from tasks.errors import InputError
from tasks.judging.purse import Purse, Used
from tasks.release.model import Record
from tasks.scoring.pool import NotRunError

OVERHEAD_TOKENS: Final = 64
"""What a server may add around the messages of a request."""


class BudgetSpec(Record):
    """What a judge may use in one window of one application; at least one of the two.

    Attributes:
        usd: USD; it needs a model whose price is known.
        tokens: Tokens, input and output together.
    """

    usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    tokens: Annotated[int, Field(ge=0, le=10**15)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was used.

    Attributes:
        calls: Calls that may have been billed.
        tokens: Input and output; of calls that were not counted, the most they can have used.
        pusd: Their cost, pico-USD; None where the price is not known.
        uncounted: Calls whose use the server did not say.
    """

    calls: int
    tokens: int
    pusd: int | None
    uncounted: int

    @property
    def usd(self) -> float | None:
        """The cost in USD; None where the price is not known."""
        return None if self.pusd is None else self.pusd / PUSD_PER_USD


@dataclass(frozen=True, slots=True)
class Reserved:
    """What is set aside for one call."""

    input_tokens: int
    output_tokens: int
    pusd: int


class Budget:
    """The money and tokens that are left; threads may share it.

    Args:
        spec: What may be used.
        rates: The prices of the judge's model today; none is unpriced, never free.
        purse: Where what was used is kept; None forgets it with the budget.
        key: What it is kept under; budgets of one key share what is left.

    Raises:
        InputError: Nothing is limited, or money is the only limit and the price is not known.
    """

    def __init__(self, spec: BudgetSpec, rates: Sequence[Rate], purse: Purse | None = None, key: str = "") -> None:
        if spec.usd is None and spec.tokens is None:
            raise InputError.of("budget", "nothing", "usd, tokens or both; judges are never asked without a limit")
        if not rates and spec.tokens is None:
            raise InputError("budget: the judge's model has no price, so usd cannot be kept; give tokens as well")
        self._rates = tuple(rates)
        self._tokens = spec.tokens
        self._pusd = None if spec.usd is None or not rates else round(spec.usd * PUSD_PER_USD)
        self._purse = Purse() if purse is None else purse
        self._key = key

    @property
    def spent(self) -> Spent:
        """What was used so far, with what is set aside for calls under way."""
        used = self._purse.used(self._key)
        pusd = used.pusd if self._rates else None
        return Spent(calls=used.calls, tokens=used.tokens, pusd=pusd, uncounted=used.uncounted)

    def reserve(self, text_bytes: int, output_tokens: int) -> Reserved:
        """Set aside what a call may use at most.

        Args:
            text_bytes: UTF-8 bytes of all that is sent.
            output_tokens: The longest answer the request allows.

        Raises:
            NotRunError: It is more than what is left.
        """
        inputs = text_bytes + OVERHEAD_TOKENS
        pusd = max((_cost_pusd(rate, inputs, output_tokens) for rate in self._rates), default=0)

        def take(used: Used) -> Used:
            if self._tokens is not None and used.tokens + inputs + output_tokens > self._tokens:
                raise NotRunError(f"the token budget of {self._tokens} is spent")
            if self._pusd is not None and used.pusd + pusd > self._pusd:
                raise NotRunError(f"the budget of {self._pusd / PUSD_PER_USD:g} USD is spent")
            return used.plus(calls=1, tokens=inputs + output_tokens, pusd=pusd)

        self._purse.change(self._key, take)
        return Reserved(inputs, output_tokens, pusd)

    def settle(self, reserved: Reserved, input_tokens: int | None, output_tokens: int | None) -> None:
        """Put what a call used in the place of what was set aside; None is unknown and stays set aside."""
        counted = input_tokens is not None and output_tokens is not None
        inputs, outputs = (input_tokens, output_tokens) if counted else (reserved.input_tokens, reserved.output_tokens)
        rate = next((rate for rate in self._rates if rate.holds(inputs or 0)), None)
        pusd = reserved.pusd if rate is None or not counted else _cost_pusd(rate, inputs or 0, outputs or 0)
        tokens = (inputs or 0) + (outputs or 0) - reserved.input_tokens - reserved.output_tokens
        more = {"tokens": tokens, "pusd": pusd - reserved.pusd, "uncounted": int(not counted)}
        self._purse.change(self._key, lambda used: used.plus(**more))

    def release(self, reserved: Reserved) -> None:
        """Give back what was set aside for a call that the server refused."""
        tokens = -(reserved.input_tokens + reserved.output_tokens)
        self._purse.change(self._key, lambda used: used.plus(calls=-1, tokens=tokens, pusd=-reserved.pusd))


def _cost_pusd(rate: Rate, input_tokens: int, output_tokens: int) -> int:
    """Return what a call costs, rounded up to whole pico-USD; nothing is taken as read from a cache."""
    whole = input_tokens * rate.input_pusd_per_unit + output_tokens * rate.output_pusd_per_unit
    return -(-(whole + rate.request_pusd_per_unit) // rate.unit_tokens)
