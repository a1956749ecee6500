"""Every point of every flow, killed there and run again: one row a point.

Run it with ``python tests/bench/bench_crash.py``; add letters (``ad``) for some scenarios, and a rate (``ad 200``),
in requests of users a second. Real HAProxy, real ledger, users who ask all the while; some minutes on two cores.
``tests/crash/test_kill.py`` tries a part of it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "crash"))

from crash_kills import Outcome, every, killed_everywhere, stages
from crash_stage import FAILED_NIGHT, PROMOTED, RATE, REJECTED, ROLLED_BACK, TAKEN_BACK

SCENARIOS = {
    PROMOTED: "a rollout that is promoted after a ramp of three steps",
    REJECTED: "a rollout that its smoke test rejects",
    TAKEN_BACK: "a ramp that fails and is taken back",
    ROLLED_BACK: "a rollback of the champion",
    FAILED_NIGHT: "a reconciliation that finds a failed night",
}


def row(outcome: Outcome) -> str:
    """Return one line of the table."""
    ended = outcome.second.partition(":")[0]
    lost = f"{outcome.asked} asked, {outcome.failed} failed, {outcome.stale} asked again"
    result = "as uninterrupted" if not outcome.problems else "; ".join(outcome.problems)
    return f"{outcome.scenario} {outcome.number:3}  {outcome.point:48.48}  {ended:16}  {lost:40}  {result}"


def main(letters: str, rate: float) -> int:
    """Print the table; return how many points ended otherwise than an uninterrupted run."""
    chosen = [scenario for scenario in SCENARIOS if scenario.name in letters]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash") as folder, stages(Path(folder), rate=rate) as made:
        outcomes = killed_everywhere(made, dict.fromkeys(chosen, every(1)))
    print("point: about to           the second run ends            users              what is left")  # noqa: T201
    for outcome in outcomes:
        print(row(outcome))  # noqa: T201
    for scenario in chosen:
        mine = [outcome for outcome in outcomes if outcome.scenario == scenario.name]
        endings = Counter(outcome.second.partition(":")[0] for outcome in mine)
        print(f"{scenario.name}: {SCENARIOS[scenario]}: {len(mine)} points, second runs: {dict(endings)}")  # noqa: T201
    bad = sum(1 for outcome in outcomes if outcome.problems)
    asked, failed, stale = (sum(getattr(o, name) for o in outcomes) for name in ("asked", "failed", "stale"))
    print(f"{len(outcomes)} points, {bad} not as uninterrupted; {asked} requests of users, {failed} failed, ", end="")  # noqa: T201
    print(f"{stale} asked again on a new connection; {time.monotonic() - started:.0f} s")  # noqa: T201
    return bad


if __name__ == "__main__":
    words = dict(enumerate(sys.argv))
    sys.exit(min(main(words.get(1, "abcde"), float(words.get(2, RATE))), 1))
