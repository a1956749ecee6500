"""Sample ratio: do as many users meet the candidate as the traffic plan says?

Each user who enters is the candidate's with the planned probability, whatever the step. The alternative is that the
odds are off by one factor in all steps: a bias of assignment, or a log that loses the rows of one arm. The e-value is
the mean of the likelihood ratios over a few such factors, ``TILTS``, so it may be looked at after every user and
through every change of the plan.

Reference: Lindon & Malek, Anytime-valid inference for multinomial count data (2022, arXiv 2011.03567), with a mixture
over factors of the odds in place of a Dirichlet prior, because the planned share changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import InputError

Numbers = NDArray[np.float64]

ONE_SIDE: Final = (0.04, 0.08, 0.12, 0.2, 0.35, 0.7, 1.4, 2.8)
TILTS: Final = (*(-tilt for tilt in ONE_SIDE), *ONE_SIDE)
"""Natural logarithms of the factors of the odds; 0.12 is 47 to 53 where 50 to 50 was planned."""

_SHIFTS: Final = np.array(TILTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """The evidence so far that users are not shared out as planned.

    Attributes:
        log_likelihoods: Natural logarithm of the likelihood ratio of each of the ``TILTS``.
        log_peak: The highest ``log_e`` after any call of ``observe``, 0 at the start.
        n_candidate, n_stable: Users seen.
        expected_candidate: How many the plan gave the candidate on average.
    """

    log_likelihoods: tuple[float, ...] = (0.0,) * len(TILTS)
    log_peak: float = 0.0
    n_candidate: int = 0
    n_stable: int = 0
    expected_candidate: float = 0.0

    @property
    def log_e(self) -> float:
        """The natural logarithm of the e-value now."""
        return float(log_mean(np.array(self.log_likelihoods)))

    def observe(self, share: float, n_candidate: int, n_stable: int) -> SampleRatio:
        """Return the evidence after further users.

        Args:
            share: The planned share of the candidate while they entered, above 0 and below 1.
            n_candidate: How many more users entered with the candidate.
            n_stable: How many more entered with stable.

        Raises:
            InputError: The share is not between 0 and 1, or a count is negative.
        """
        if not 0 < share < 1:
            raise InputError.of("planned share", share, "above 0 and below 1")
        if min(n_candidate, n_stable) < 0:
            raise InputError.of("users", (n_candidate, n_stable), "counts of 0 and more")
        gained = log_ratios(share, np.array(n_candidate), np.array(n_stable))
        likelihoods = np.array(self.log_likelihoods) + gained
        return SampleRatio(
            log_likelihoods=tuple(likelihoods.tolist()),
            log_peak=max(self.log_peak, float(log_mean(likelihoods))),
            n_candidate=self.n_candidate + n_candidate,
            n_stable=self.n_stable + n_stable,
            expected_candidate=self.expected_candidate + share * (n_candidate + n_stable),
        )


def log_ratios(share: float, n_candidate: NDArray[np.int64], n_stable: NDArray[np.int64]) -> Numbers:
    """Return the log likelihood ratio of each of the ``TILTS`` in a new last axis, for arrays of counts."""
    normalise = np.log1p(share * np.expm1(_SHIFTS))
    return np.asarray(n_candidate[..., np.newaxis] * (_SHIFTS - normalise) - n_stable[..., np.newaxis] * normalise)


def log_mean(log_likelihoods: Numbers) -> Numbers:
    """Return the logarithm of the mean over the last axis."""
    top = log_likelihoods.max(axis=-1, keepdims=True)
    mean: Numbers = top[..., 0] + np.log(np.exp(log_likelihoods - top).mean(axis=-1))
    return mean


def is_mismatch(evidence: SampleRatio, alpha: float) -> bool:
    """Return whether users are not shared out as planned, wrongly so with a chance of at most ``alpha`` for ever."""
    return evidence.log_peak >= -math.log(alpha)
