"""One fault at a time on the whole stack, at four moments: what came of it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fault_cases import BEFORE, UNDISTURBED, Outcome
from fault_stack import APPLICATION, ASKERS, OUTAGE_S, Asked, StackUnderFaults

from tasks.release.lifecycle import State

MOMENTS = ("rollout wanted", "ramp", "rollback wanted", "failure on record")
HARMS = frozenset({"HAProxy killed", "target dead"})
IN_FLIGHT = {"target dead": ASKERS}
"""A line is written after the last byte of its answer: a server that is killed between the two leaves it out."""
REFUSED_S = 30.0
"""So long users may be refused at most: two checks of HAProxy, and the time a release server takes to start."""
RUNS = 6


def flow_of(moment: str) -> str:
    """Return the flow a moment belongs to."""
    return "rollout" if moment in MOMENTS[:2] else "rollback"


@dataclass
class Trial:
    """A rollout of the demo's second release and its rollback, with one fault at one moment."""

    stack: StackUnderFaults
    name: str
    moment: str
    runs: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self) -> Outcome:
        """Do it, and leave the first release in force."""
        asked, stack = Asked(self.stack.layout.data_url), self.stack
        is_rollout = flow_of(self.moment) == "rollout"
        with asked.asking():
            time.sleep(0.5)
            left = self._roll_out(breaks=is_rollout)
            if stack.alone() == stack.digests["2"]:
                if stack.clock is not None and stack.back and is_rollout:
                    stack.set_back(0)
                back = self._roll_back(breaks=not is_rollout)
                left = left if is_rollout else back
            self._check_whole()
            time.sleep(0.5)
        if stack.clock is not None:
            stack.set_back(0)
        return self._outcome(asked, left, is_rollout=is_rollout)

    def _break(self, *, wanted: bool) -> None:
        """Let the fault begin, last and end, while whoever wants something gets it."""
        begin, end = self.stack.kinds[self.name]
        if wanted and self.name == "runner killed":
            self.stack.await_that(lambda: bool(self.stack.runs()))
        begin()
        try:
            time.sleep(OUTAGE_S)
        finally:
            end()

    def _roll_out(self, *, breaks: bool) -> str:
        stack = self.stack
        stack.target = stack.digests["2"]
        self._begin(lambda: stack.roll_out("2"), breaks, MOMENTS[0])
        if breaks and self.moment == MOMENTS[1]:
            if not stack.await_that(lambda: stack.driver._find(stack.target) is not None and stack.alone() == ""):
                self.problems.append("there was no ramp")
            self._break(wanted=False)
        for _ in range(RUNS):
            stack.await_quiet()
            if stack.await_that(self._is_decided, 1.0):
                break
            self.runs += 1
            stack.roll_out("2")
            stack.await_that(lambda: bool(stack.runs()), 15.0)
        return UNDISTURBED if stack.alone() == stack.digests["2"] else BEFORE

    def _is_decided(self) -> bool:
        """Return whether the rollout of this trial is on record, and over."""
        is_begun = len(self.stack.ledger.rollouts(APPLICATION)) > self.known
        return is_begun and self.stack.latest() in {State.PROMOTED, State.REJECTED, State.ROLLED_BACK}

    def _begin(self, what: object, breaks: bool, moment: str) -> None:
        self.runs += 1
        assert callable(what)
        with ThreadPoolExecutor(1) as pool:
            if breaks and self.moment == moment and self.name != "runner killed":
                fault = pool.submit(self._break, wanted=True)
                time.sleep(0.3)
                what()
                fault.result()
            elif breaks and self.moment == moment:
                what()
                self._break(wanted=True)
            else:
                what()
        self.stack.await_that(lambda: bool(self.stack.runs()) or self._is_decided(), 15.0)

    def _roll_back(self, *, breaks: bool) -> str:
        stack, first = self.stack, self.stack.digests["1"]
        stack.target = first
        stack.fail_night()
        self._begin(stack.roll_back, breaks, MOMENTS[2])
        if breaks and self.moment == MOMENTS[3]:
            stack.await_that(lambda: stack.latest() in {State.REVERTING, State.ROLLED_BACK}, 30.0)
            self._break(wanted=False)
        for _ in range(RUNS):
            stack.await_quiet()
            if stack.await_that(lambda: stack.alone() == first and stack.latest() is State.ROLLED_BACK, 1.0):
                return UNDISTURBED
            self.runs += 1
            stack.start("reconcile/reconcile", application=APPLICATION)
            stack.await_that(lambda: bool(stack.runs()), 15.0)
        return "otherwise"

    def _check_whole(self) -> None:
        """See that the plan is in effect and that the registry says who serves, after the next reconciliation."""
        stack = self.stack
        plan = stack.ledger.plan(APPLICATION)
        assert plan is not None
        if not stack.await_that(lambda: stack.driver.observe(APPLICATION) == plan.buckets, 30.0):
            self.problems.append("the plan on record is not in effect")
        if not stack.await_that(lambda: bool(stack.registry.aliases(APPLICATION)), 120.0):
            self.problems.append("the registry is still away")
        stack.start("reconcile/reconcile", application=APPLICATION)
        if not stack.await_that(lambda: stack.registry.aliases(APPLICATION).get("champion") == 1, 60.0):
            self.problems.append("the registry says that somebody else serves")
        stack.await_quiet()

    def __post_init__(self) -> None:
        self.known = len(self.stack.ledger.rollouts(APPLICATION))

    def _outcome(self, asked: Asked, left: str, *, is_rollout: bool) -> Outcome:
        failures = [entry for entry in asked.seen if entry[1] != 200]
        refused_s = max((e[0] for e in failures), default=0.0) - min((e[0] for e in failures), default=0.0)
        missing = {name for _, status, _, name in asked.seen if status == 200} - self.stack.logged()
        answered_by = {release for _, status, release, _ in asked.seen if status == 200}
        strangers = answered_by - set(self.stack.digests.values())
        if left not in {UNDISTURBED, BEFORE}:
            self.problems.append(f"left {left}")
        if failures and self.name not in HARMS:
            self.problems.append(f"requests failed: {sorted({entry[1] for entry in failures})}")
        if refused_s > REFUSED_S:
            self.problems.append(f"requests were refused for {refused_s:.1f} s")
        if len(missing) > IN_FLIGHT.get(self.name, 0):
            self.problems.append(f"{len(missing)} answers are not on the log")
        if strangers:
            self.problems.append("an answer came from nobody who was cast")
        return Outcome(
            flow="rollout" if is_rollout else "rollback",
            step=self.moment,
            faults=(self.name,),
            left=left,
            runs=self.runs,
            asked=len(asked.seen),
            failed=len(failures),
            refused_s=refused_s,
            unlogged=len(missing),
            problems=tuple(self.problems),
        )
