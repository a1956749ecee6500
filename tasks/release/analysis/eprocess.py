"""Betting e-processes: evidence against a null hypothesis that may be looked at as often as one likes.

A game pays at least -1 and, where the null holds, nothing on average, whatever happened before. Who stakes a fixed
share of their wealth on each payoff then cannot expect to gain, so wealth is a test martingale or below one: the
chance that it ever reaches ``1 / alpha`` is at most ``alpha`` (Ville). Looks, steps and shares that change on the way
cost nothing, because the bound is on the whole path. Wealth is spread over a few shares, ``BETS``, and the mean of
what becomes of them is the e-value: nothing is tuned to the data, the order of payoffs within a block does not
matter, and the state is one number a share.

References: Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting (2021, arXiv 2010.09686);
Howard et al., Time-uniform confidence sequences (2021, arXiv 1810.08240); Vovk & Wang, E-values (2021, arXiv
1912.06116).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import InputError

Numbers = NDArray[np.float64]

BETS: Final = (0.03, 0.06, 0.12, 0.2, 0.3, 0.45, 0.65, 0.9)
"""Shares of the wealth staked: small ones find small effects, large ones find harm where failures are rare."""

_SHARES: Final = np.array(BETS)
_LOG_BETS: Final = math.log(len(BETS))
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class EProcess:
    """The evidence so far against one null hypothesis.

    Attributes:
        log_wealth: Natural logarithm of the wealth of each of the ``BETS``.
        log_peak: The highest ``log_e`` at the end of any block so far, 0 at the start.
        n: Payoffs so far.
    """

    log_wealth: tuple[float, ...] = (0.0,) * len(BETS)
    log_peak: float = 0.0
    n: int = 0

    @property
    def log_e(self) -> float:
        """The natural logarithm of the e-value now."""
        return float(log_mixture(np.array(self.log_wealth)))

    def bet(self, payoffs: Numbers, block_ends: NDArray[np.int64] | None = None) -> EProcess:
        """Return the evidence after further payoffs.

        Args:
            payoffs: At least -1 each, and at most 0 on average where the null holds, given all earlier blocks.
            block_ends: How many of the payoffs are in by the end of each block, rising, the last one all of them;
                without it they are one block. The peak is taken at the ends of blocks.

        Returns:
            The new state; cutting the same blocks into several calls gives the same state up to rounding.

        Raises:
            InputError: A payoff is below -1 or no number.
        """
        if not len(payoffs):
            return self
        check_payoffs(payoffs)
        ends = np.array([len(payoffs)]) if block_ends is None else block_ends
        starts = np.concatenate([[0], ends[:-1]])
        gains = np.add.reduceat(log_factors(payoffs), starts, axis=0)
        path = np.array(self.log_wealth) + np.cumsum(gains, axis=0)
        return EProcess(
            log_wealth=tuple(path[-1].tolist()),
            log_peak=max(self.log_peak, float(log_mixture(path).max())),
            n=self.n + len(payoffs),
        )

    def to_json(self) -> str:
        """Return the state as one line of JSON that ``from_json`` reads back to the same bits."""
        return json.dumps({"bets": BETS, "log_wealth": self.log_wealth, "log_peak": self.log_peak, "n": self.n})

    @classmethod
    def from_json(cls, text: str) -> EProcess:
        """Read what ``to_json`` wrote.

        Raises:
            InputError: It is no such state, or one of other bets, whose wealth means something else.
        """
        try:
            state: Any = json.loads(text)
            wealth = tuple(float(value) for value in state["log_wealth"])
            known = cls(log_wealth=wealth, log_peak=float(state["log_peak"]), n=int(state["n"]))
            bets = tuple(state["bets"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError.of("e-process", text[:80], "the JSON that to_json writes") from error
        if bets != BETS or len(wealth) != len(BETS) or not all(map(math.isfinite, (*wealth, known.log_peak))):
            raise InputError.of("e-process", text[:80], f"finite wealth of the bets {BETS}; recompute it from the log")
        return known


def log_factors(payoffs: Numbers) -> Numbers:
    """Return by how much each payoff changes the logarithm of each bet's wealth: one more axis at the end."""
    return np.asarray(np.log1p(payoffs[..., np.newaxis] * _SHARES))


def log_mixture(log_wealth: Numbers) -> Numbers:
    """Return the logarithm of the e-value of wealth over the ``BETS`` in the last axis."""
    top = log_wealth.max(axis=-1, keepdims=True)
    mixed: Numbers = top[..., 0] + np.log(np.exp(log_wealth - top).sum(axis=-1)) - _LOG_BETS
    return mixed


def harm_payoffs(differences: Numbers) -> Numbers:
    """Return the payoffs against *the candidate is not worse*.

    Args:
        differences: Badness of the candidate less that of stable for each pair, -1 to 1.
    """
    return differences


def noninferiority_payoffs(differences: Numbers, margin: float) -> Numbers:
    """Return the payoffs against *the candidate is worse by the margin or more*.

    Args:
        differences: Badness of the candidate less that of stable for each pair, -1 to 1.
        margin: The difference in badness that would matter, above 0 and below 1.

    Raises:
        InputError: The margin is not between 0 and 1.
    """
    if not 0 < margin < 1:
        raise InputError.of("margin", margin, "above 0 and below 1, in units of the metric")
    return (margin - differences) / (1 - margin)


def check_payoffs(payoffs: Numbers) -> None:
    """Refuse payoffs under which wealth could become negative or unknown.

    Raises:
        InputError: A payoff is below -1 or no number.
    """
    lowest = float(payoffs.min()) if len(payoffs) else 0.0
    if not lowest >= -1 - _ROUNDING or not math.isfinite(float(payoffs.max(initial=0.0))):
        raise InputError.of("payoff", lowest, "finite and at least -1: observations are between 0 and 1")
