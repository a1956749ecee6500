from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.scoring.cache import ScoreCache, cache_key
from tasks.scoring.pool import MAX_HUNG, CallError, Done, Limits, NotRunError, State, run_calls

FAST = Limits(workers=4, timeout_s=0.15, backoff_s=0.0)


def test_values_come_back_in_order() -> None:
    assert [done.value for done in run_calls(lambda at: at * at, 1000, FAST)] == [at * at for at in range(1000)]
    assert run_calls(lambda at: at, 0, FAST) == []


def test_calls_run_at_the_same_time() -> None:
    gate = threading.Barrier(4)
    found = run_calls(lambda _: gate.wait(5), 4, Limits(workers=4, timeout_s=10))
    assert {done.state for done in found} == {State.SCORED}


def test_an_error_is_told_by_its_type_because_its_text_may_repeat_what_was_judged() -> None:
    def call(at: int) -> float:
        if at == 1:
            raise ValueError("the user's secret")
        if at == 2:
            raise SystemExit
        if at == 3:
            raise CallError("the endpoint answered 500")
        return 1.0

    found = run_calls(call, 4, FAST)
    assert [done.reason for done in found] == [None, "ValueError", "SystemExit", "the endpoint answered 500"]
    assert [done.state for done in found] == [State.SCORED, *[State.ERROR] * 3]


def test_what_does_not_run_is_no_error() -> None:
    def call(_: int) -> float:
        raise NotRunError("the budget is spent")

    assert run_calls(call, 1, FAST) == [Done(State.NOT_RUN, reason="the budget is spent")]


def test_a_call_that_hangs_is_an_error_and_the_others_still_run() -> None:
    release = threading.Event()

    def call(at: int) -> int:
        if at in {1, 5}:
            release.wait(20)
        return at

    found = run_calls(call, 200, Limits(workers=2, timeout_s=0.1))
    release.set()
    assert [at for at, done in enumerate(found) if done.state is State.ERROR] == [1, 5]
    assert found[1].reason == "timed out after 0.1 s"
    assert found[199] == Done(State.SCORED, 199)


def test_a_loop_that_never_ends_is_ended() -> None:
    caught: list[threading.Thread] = []

    def call(at: int) -> int:
        if at == 0:
            caught.append(threading.current_thread())
        while at == 0:
            pass
        return at

    assert [done.state for done in run_calls(call, 3, FAST)] == [State.ERROR, State.SCORED, State.SCORED]
    caught[0].join(30)
    assert not caught[0].is_alive()


def test_when_too_many_hang_the_rest_does_not_run() -> None:
    release = threading.Event()
    found = run_calls(lambda _: release.wait(20), 50, Limits(workers=8, timeout_s=0.05))
    release.set()
    states = [done.state for done in found]
    assert states.count(State.ERROR) >= MAX_HUNG
    assert states.count(State.NOT_RUN) == 50 - states.count(State.ERROR) > 0
    assert found[-1].reason == f"{MAX_HUNG} calls hung"


def test_a_late_answer_is_thrown_away() -> None:
    ended = threading.Event()

    def call(at: int) -> int:
        if at == 0:
            try:
                ended.wait(0.4)
            finally:
                ended.set()
        return at

    found = run_calls(call, 2, Limits(workers=2, timeout_s=0.05))
    ended.wait(5)
    assert found[0].state is State.ERROR
    assert found[0].value is None


def test_attempts_are_made_again_where_that_can_help() -> None:
    tries: dict[int, int] = {}

    def call(at: int) -> str:
        tries[at] = tries.get(at, 0) + 1
        if at == 0 and tries[0] < 3:
            raise ConnectionError
        if at == 1:
            raise CallError("the endpoint answered 429", retry=True, after_s=0.0)
        if at == 2:
            raise CallError("the endpoint refused the key (401)")
        return "ok"

    found = run_calls(call, 3, Limits(workers=1, retries=2, backoff_s=0.0))
    assert tries == {0: 3, 1: 3, 2: 1}
    assert [done.reason for done in found] == [None, "the endpoint answered 429", "the endpoint refused the key (401)"]


def test_calls_that_are_left_when_time_is_up_do_not_run() -> None:
    release = threading.Event()
    found = run_calls(lambda _: release.wait(0.2), 20, Limits(workers=2, timeout_s=5, total_s=0.1))
    assert {done.state for done in found} == {State.SCORED, State.NOT_RUN}
    assert found[-1].reason == "the run took longer than 0.1 s"


@pytest.mark.parametrize(("name", "value"), [("workers", 0), ("timeout_s", 0), ("retries", 11), ("backoff_s", -1)])
def test_limits_that_cannot_be_kept_are_refused(name: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"limits\.{name}: {value} is not allowed; allowed: "):
        Limits(**{name: value})


class TestCache:
    def test_values_outlive_the_process_that_kept_them(self, tmp_path: Path) -> None:
        keys = [cache_key("judge", text) for text in "ab"]
        with ScoreCache(tmp_path / "new" / "scores.db") as cache:
            cache.keep([(keys[0], {"scores": [["q", 0.5, None]]}), (keys[0], {"scores": [["q", 0.7, None]]})])
        with ScoreCache(tmp_path / "new" / "scores.db") as cache:
            assert cache.find(keys) == {keys[0]: {"scores": [["q", 0.7, None]]}}
            assert cache.find([]) == {}

    def test_many_threads_keep_at_once(self, tmp_path: Path) -> None:
        with ScoreCache(tmp_path / "scores.db") as cache:
            found = run_calls(lambda at: cache.keep([(str(at), {"at": at})]), 300, Limits(workers=8))
            assert {done.state for done in found} == {State.SCORED}
            assert len(cache.find([str(at) for at in range(1000)])) == 300

    def test_a_key_is_who_judges_and_what_is_judged(self) -> None:
        keys = {
            cache_key("a", {"x": 1, "y": "z"}),
            cache_key("a", {"y": "z", "x": 1}),
            cache_key("b", {"x": 1, "y": "z"}),
        }
        assert len(keys) == 2
        assert cache_key("a", "\ud800") != cache_key("a", "x")

    def test_no_text_is_in_the_file(self, tmp_path: Path) -> None:
        with ScoreCache(tmp_path / "scores.db") as cache:
            cache.keep([(cache_key("judge", "a very private question"), {"scores": [["q", 1.0, None]]})])
        assert all(b"private" not in path.read_bytes() for path in tmp_path.iterdir())

    def test_a_file_that_is_no_cache_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "scores.db").write_bytes(b"hello" * 200)
        with pytest.raises(InputError, match=r"scores\.db: it is no cache of scores \(DatabaseError\); delete it"):
            ScoreCache(tmp_path / "scores.db")
