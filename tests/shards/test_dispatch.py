"""What becomes of orders that are done, lost, left lying or cancelled; the runner follows a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from tasks.errors import UnreachableError
from tasks.shards.dispatch import Dispatch, Errand, Limits, Seen, ShardError, Stage

DONE, WAITING, TAKEN = Seen(Stage.DONE), Seen(Stage.WAITING), Seen(Stage.TAKEN)
CRASHED = Seen(Stage.LOST, why="flow run 7 ended Crashed; its log says why")
LIMITS = Limits(at_once=2, attempts=3, wait_s=10, silent_s=5, poll_s=1)
Script = dict[tuple[str, int], list[Seen]]


def alive(beat: int) -> Seen:
    return Seen(Stage.RUNNING, beat)


@dataclass
class Scripted:
    """Shows each attempt as its script says, look by look; the last line stays."""

    script: Script
    now: float = 0.0
    started: list[tuple[str, int]] = field(default_factory=list)
    dropped: list[tuple[str, int, bool]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    most: int = 0
    looks: dict[tuple[str, int], int] = field(default_factory=dict)

    def start(self, errand: Errand) -> tuple[str, int]:
        self.started.append((errand.name, errand.attempt))
        return errand.name, errand.attempt

    def look(self, runs: Sequence[tuple[str, int]]) -> list[Seen]:
        self.most = max(self.most, len(runs))
        return [self.next(run) for run in runs]

    def next(self, run: tuple[str, int]) -> Seen:
        at = self.looks[run] = self.looks.get(run, -1) + 1
        lines = self.script.get(run, [DONE])
        return lines[min(at, len(lines) - 1)]

    def drop(self, run: tuple[str, int], why: str, *, lost: bool) -> None:
        assert why
        self.dropped.append((*run, lost))

    def trouble(self) -> str:
        return "work pool p has no worker; start one"

    def wait(self, seconds: float) -> None:
        self.now += seconds


def play(script: Script, names: str = "a", limits: Limits = LIMITS) -> Scripted:
    runner = Scripted(script)
    dispatch(runner, limits).run([Errand(name, f"score {name}") for name in names])
    return runner


def dispatch(runner: Scripted, limits: Limits = LIMITS) -> Dispatch[tuple[str, int]]:
    return Dispatch(runner, limits, lambda: runner.now, runner.wait, runner.told.append)


def test_no_more_are_out_at_once_than_may_be_and_each_is_done_once() -> None:
    slow = [WAITING, alive(1), alive(2), DONE]
    played = play({(name, 1): slow for name in "abcde"}, "abcde")
    assert played.most == 2
    assert played.started == [(name, 1) for name in "abcde"]
    assert (played.dropped, played.told) == ([], [])


def test_nothing_to_do_is_done_at_once() -> None:
    assert play({}, "").now == 0


def test_one_that_crashed_is_sent_out_again_before_those_that_wait() -> None:
    played = play({("a", 1): [alive(1), CRASHED], ("b", 1): [alive(1)] + [alive(n) for n in range(20)] + [DONE]}, "abc")
    assert played.started == [("a", 1), ("b", 1), ("a", 2), ("c", 1)]
    assert played.told == ["score a: attempt 1 of 3: flow run 7 ended Crashed; its log says why"]
    assert played.dropped == []  # it ended by itself


def test_one_that_crashes_as_often_as_it_may_ends_the_run_and_the_others_are_called_back() -> None:
    runner = Scripted({("a", n): [CRASHED] for n in (1, 2, 3)} | {("b", 1): [alive(n) for n in range(50)]})
    with pytest.raises(ShardError) as caught:
        dispatch(runner).run([Errand("a", "score a"), Errand("b", "score b")])
    assert str(caught.value) == (
        "score a: given up after 3 attempts; the last one: flow run 7 ended Crashed; its log says why"
    )
    assert runner.dropped == [("b", 1, False)]


def test_a_sign_of_life_is_enough_and_silence_is_loss() -> None:
    beating = [alive(n // 4) for n in range(60)]  # one every four seconds
    assert play({("a", 1): [*beating, DONE]}).started == [("a", 1)]
    played = play({("a", 1): [*beating[:8], alive(2)]})
    assert played.started == [("a", 1), ("a", 2)]
    assert played.told == ["score a: attempt 1 of 3: no sign of life for 5 s: its process or machine is lost"]
    assert played.dropped == [("a", 1, True)]
    assert played.now == 13  # five seconds after its last sign


def test_one_that_completed_without_a_result_is_lost_for_its_own_reason() -> None:
    played = play({("a", 1): [Seen(Stage.RUNNING, 1, "it completed, and FOLDER has no result of it")]})
    assert played.told == ["score a: attempt 1 of 3: it completed, and FOLDER has no result of it"]


def test_nobody_to_take_it_is_said_with_the_pool() -> None:
    runner = Scripted({("a", n): [WAITING] for n in (1, 2, 3)})
    with pytest.raises(UnreachableError) as caught:
        dispatch(runner).run([Errand("a", "score a")])
    assert str(caught.value) == (
        "score a: given up after 3 attempts; the last one: nobody took it in 10 s: work pool p has no worker; start one"
    )
    assert runner.now == pytest.approx(30)
    assert runner.dropped == [("a", 1, False), ("a", 2, False), ("a", 3, False)]


def test_one_that_waits_while_another_works_waits_for_its_turn() -> None:
    busy = [alive(n) for n in range(40)]
    played = play({("a", 1): [*busy, DONE], ("b", 1): [WAITING] * 45 + [alive(1), DONE]}, "ab")
    assert played.started == [("a", 1), ("b", 1)]
    late = play({("a", 1): [*busy, DONE], ("b", 1): [WAITING]}, "ab")
    assert late.started == [("a", 1), ("b", 1), ("b", 2)]


def test_one_that_was_taken_by_a_worker_that_then_died_is_sent_out_again() -> None:
    played = play({("a", 1): [WAITING, TAKEN], ("b", 1): [alive(n) for n in range(30)] + [DONE]}, "ab")
    assert played.started == [("a", 1), ("b", 1), ("a", 2)]
    assert played.told == ["score a: attempt 1 of 3: it was taken and did not start in 10 s"]


def test_a_parent_that_is_ended_calls_all_of_its_shards_back() -> None:
    runner = Scripted({("a", 1): [alive(1)], ("b", 1): [WAITING]})

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    sent = Dispatch(runner, LIMITS, lambda: runner.now, interrupted)
    with pytest.raises(KeyboardInterrupt):
        sent.run([Errand("a", "a"), Errand("b", "b")])
    assert runner.dropped == [("a", 1, False), ("b", 1, False)]


def test_the_number_of_those_done_grows_to_all() -> None:
    runner, shown = Scripted({("a", 1): [CRASHED]}), list[int]()
    Dispatch(runner, LIMITS, lambda: runner.now, runner.wait, done=shown.append).run([Errand(n, n) for n in "abc"])
    assert shown[-1] == 3
    assert shown == sorted(shown)
