"""How many replicas a release ought to have: the calls it has at once, and how long it has had them.

A change is made only once it has been wanted without a break: more replicas for ``upscale_delay_s``, fewer for
``downscale_delay_s``. The count of the calls is smoothed over a few seconds, because a single look sees chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tasks.release.model import Autoscaling

SMOOTHING_S = 5.0
"""Calls at once are the mean of the looks of this long."""
GAP_S = 15.0
"""After a longer time without a look nothing is known of what came before."""

_DUST = 1e-9  # a quotient of floats may lie this much above the whole number it stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a release has to do at one moment.

    Attributes:
        sessions: Calls its replicas are answering.
        queued: Calls that wait for a free replica.
    """

    sessions: int
    queued: int

    @property
    def ongoing(self) -> int:
        """Calls that have no answer yet."""
        return self.sessions + self.queued


@dataclass(frozen=True, slots=True)
class Held:
    """A number of replicas that was wanted, and until when it was."""

    until_s: float
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What is remembered of a release between two looks.

    Attributes:
        replicas: How many it ought to have now.
        since_s: The first look of an unbroken series; None before it.
        looks: Time and ongoing calls of the latest looks.
        fewest: What was wanted within the delay of scaling up, reduced to what can still be its minimum.
        most: What was wanted within the delay of scaling down, reduced to what can still be its maximum.
    """

    replicas: int
    since_s: float | None = None
    looks: tuple[tuple[float, int], ...] = ()
    fewest: tuple[Held, ...] = ()
    most: tuple[Held, ...] = ()


def decide(load: Load, spec: Autoscaling, state: Scaling, now_s: float) -> Scaling:
    """Return how many replicas a release ought to have from now on.

    The answer is never outside the limits of the spec, grows with the load, and does not change under a load that
    does not.

    Args:
        load: What the release has to do now.
        spec: Limits, target and delays.
        state: What the last look returned.
        now_s: A clock that never goes back, seconds.
    """
    known = state if state.looks and now_s - state.looks[-1][0] <= GAP_S else Scaling(replicas=state.replicas)
    since_s = now_s if known.since_s is None else known.since_s
    looks = (*(look for look in known.looks if look[0] > now_s - SMOOTHING_S), (now_s, load.ongoing))
    wanted = replicas_for(sum(ongoing for _, ongoing in looks) / len(looks), spec)
    fewest = _add(known.fewest, wanted, now_s, spec.upscale_delay_s, sign=1)
    most = _add(known.most, wanted, now_s, spec.downscale_delay_s, sign=-1)
    replicas = min(max(known.replicas, spec.min_replicas), spec.max_replicas)
    if now_s - since_s >= spec.upscale_delay_s:
        replicas = max(replicas, fewest[0].replicas)
    if now_s - since_s >= spec.downscale_delay_s:
        replicas = min(replicas, most[0].replicas)
    return Scaling(replicas=replicas, since_s=since_s, looks=looks, fewest=fewest, most=most)


def replicas_for(ongoing: float, spec: Autoscaling) -> int:
    """Return the fewest replicas that have no more than their target of calls at once, within the limits."""
    share = min(ongoing / spec.target_ongoing_requests, float(spec.max_replicas))
    return max(spec.min_replicas, math.ceil(share - _DUST))


def _add(held: tuple[Held, ...], wanted: int, now_s: float, delay_s: float, *, sign: int) -> tuple[Held, ...]:
    """Return the window with one more wish; its first is the smallest (``sign`` 1) or largest (-1) within it.

    A wish holds until the next look, so one that was given up within the window still counts. The rows are as many
    as there are different numbers of replicas, however long the window is.
    """
    latest = tuple(Held(now_s, last.replicas) for last in held[-1:])
    inside = [one for one in (*held[:-1], *latest) if now_s - one.until_s < delay_s]
    while inside and sign * inside[-1].replicas >= sign * wanted:
        inside.pop()
    return (*inside, Held(now_s, wanted))
