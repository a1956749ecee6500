"""What a successful answer costs: all that a release was paid for, over the answers that were of use.

Calls that failed are paid for as well, so a release that fails more, or is asked again, costs more an answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import duckdb

from tasks.costs.line import Rollup, known_sum
from tasks.costs.usage import SUCCEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCost:
    """What the successful answers of one release cost.

    Attributes:
        application, release_digest: Whose answers; None is no known release.
        requests: Calls.
        priced_requests: How many of them have a cost that is wholly known.
        successes: Answers with a status below 400, no error, and no quality that is known to fail.
        cost_pusd: What is known of the cost of all calls; None where nothing is.
    """

    application: str
    release_digest: str | None
    requests: int
    priced_requests: int
    successes: int
    cost_pusd: int | None

    @property
    def pusd_per_success(self) -> Fraction | None:
        """Pico-USD for each successful answer; None where a cost is unknown or no answer succeeded."""
        if self.cost_pusd is None or self.priced_requests < self.requests or self.successes == 0:
            return None
        return Fraction(self.cost_pusd, self.successes)


def cost_answers(lines: Sequence[Rollup]) -> tuple[AnswerCost, ...]:
    """Return what each release's answers cost by its rollups, whatever their quality.

    Args:
        lines: Of any days.

    Returns:
        In the order of application and digest.
    """
    releases = sorted({(line.key.application, line.key.release_digest or "") for line in lines})
    return tuple(_add_up(release, lines) for release in releases)


def read_answers(connection: duckdb.DuckDBPyConnection, failed_quality: Collection[str] = ()) -> tuple[AnswerCost, ...]:
    """Return what each release's answers cost by the calls themselves.

    Args:
        connection: Holds the view ``priced``.
        failed_quality: Interactions whose answer is known to be bad; an answer that was not judged is none.

    Returns:
        In the order of application and digest.
    """
    rows = connection.execute(_ANSWERS, [sorted(failed_quality)]).fetchall()
    return tuple(
        AnswerCost(
            application=application,
            release_digest=digest,
            requests=requests,
            priced_requests=priced,
            successes=successes,
            cost_pusd=cost,
        )
        for application, digest, requests, priced, successes, cost in rows
    )


def _add_up(release: tuple[str, str], lines: Sequence[Rollup]) -> AnswerCost:
    mine = [line for line in lines if (line.key.application, line.key.release_digest or "") == release]
    return AnswerCost(
        application=release[0],
        release_digest=release[1] or None,
        requests=sum(line.requests for line in mine),
        priced_requests=sum(line.priced_requests for line in mine),
        successes=sum(line.succeeded_requests for line in mine),
        cost_pusd=known_sum(line.cost_pusd for line in mine),
    )


_ANSWERS: Final = f"""
SELECT application, release_digest, count(*), count_if(cost_status IN ('priced', 'free', 'estimated')),
    count_if({SUCCEEDED} AND interaction_id NOT IN (SELECT unnest(CAST($1 AS VARCHAR[])))), sum(cost_pusd)
FROM priced GROUP BY ALL ORDER BY application, release_digest NULLS FIRST
"""  # noqa: S608 -- constants of this project
