"""Releases that die behind the real HAProxy: a proven one answers in their place, and nobody else does."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from standby_stage import CANDIDATE, OLD, SLOW, STABLE, TWO, World, after, users

from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.haproxy.statistics import _rows as read_rows

pytestmark = pytest.mark.stack

# --- the only server of a release dies ---


def test_where_the_only_server_is_killed_a_proven_release_answers_until_it_is_back(world: World) -> None:
    world.deploy(OLD, STABLE)
    world.driver.stand_by("faq", [STABLE.digest, OLD.digest])
    world.give(1, all=STABLE)
    before = world.driver.routed(STABLE.digest)
    with users(world) as seen:
        world.until(lambda: len(seen) > 100, "users ask")
        killing = time.monotonic()
        world.kill(STABLE)
        killed = time.monotonic()
        world.until(lambda: len(after(seen, killed)) > 100, "users ask on")
        world.knows_it_is_gone(STABLE)  # though its backend has a standby
        world.start(STABLE)
        world.until(lambda: world.takes_calls(STABLE), "it is back")
        back = time.monotonic()
        world.until(lambda: len(after(seen, back)) > 50, "users ask on")
    assert {one.digest for one in seen if one.began_s + one.took_s < killing} == {STABLE.digest}
    # Who asks once it is dead is never refused; those it was answering at that moment have nobody to answer them.
    assert {one.status for one in after(seen, killed)} == {200}
    assert sum(1 for one in seen if one.status != 200) <= 5
    assert {one.digest for one in after(seen, killed)} == {OLD.digest, STABLE.digest}
    assert {one.digest for one in after(seen, back)} == {STABLE.digest}
    # They were meant for the release, and have failed as it, however well they were answered.
    routed = world.driver.routed(STABLE.digest).since(before)
    instead = sum(1 for one in seen if one.digest == OLD.digest)
    assert routed.requests == len(seen)
    assert instead <= routed.failed + routed.unanswered <= instead + 5
    assert routed.is_up
    assert world.driver.routed(OLD.digest).requests == 0


def test_a_candidate_that_dies_in_its_ramp_has_its_users_answered_by_the_stable_release(world: World) -> None:
    world.deploy(OLD, STABLE)
    world.driver.stand_by("faq", [STABLE.digest, OLD.digest])
    world.deploy(CANDIDATE)
    world.give(1, most=STABLE, few=CANDIDATE)
    shared = world.ask_many()
    assert set(shared) == {(200, STABLE.digest), (200, CANDIDATE.digest)}
    world.kill(CANDIDATE)
    assert world.ask_many() == {(200, STABLE.digest): 40}
    world.until(lambda: not world.driver.routed(CANDIDATE.digest).is_up, "it is gone for good")
    meant = shared[200, CANDIDATE.digest]
    routed = world.driver.routed(CANDIDATE.digest)
    assert (routed.requests, routed.failed, routed.is_up) == (2 * meant, meant, False)
    assert world.driver.routed(STABLE.digest).requests == 80 - 2 * meant


def test_who_is_not_proven_stands_by_for_nobody(world: World) -> None:
    world.deploy(OLD, STABLE)
    world.driver.stand_by("faq", [STABLE.digest, OLD.digest])
    world.deploy(CANDIDATE)
    world.give(1, most=STABLE, few=CANDIDATE)
    world.kill(STABLE)
    assert set(world.ask_many()) == {(200, OLD.digest), (200, CANDIDATE.digest)}
    world.kill(OLD)
    world.knows_it_is_gone(OLD)
    counted = world.ask_many()
    assert set(counted) == {(503, ""), (200, CANDIDATE.digest)}
    world.kill(CANDIDATE)
    world.knows_it_is_gone(CANDIDATE)
    assert world.ask_many() == {(503, ""): 40}
    world.start(OLD)
    world.until(lambda: world.takes_calls(OLD), "the oldest is back")
    assert world.ask_many() == {(200, OLD.digest): 40}


def test_the_first_request_after_both_died_at_once_goes_to_the_third(world: World) -> None:
    world.deploy(OLD, STABLE)
    world.driver.stand_by("faq", [STABLE.digest, OLD.digest])
    world.deploy(CANDIDATE)
    world.give(1, all=CANDIDATE)
    assert world.ask() == (200, CANDIDATE.digest)
    world.kill(CANDIDATE)
    world.kill(STABLE)
    assert world.ask() == (200, OLD.digest)


# --- who stands by ---


def test_a_restart_and_a_reload_keep_who_stands_by(world: World) -> None:
    world.deploy(OLD, STABLE)
    world.driver.stand_by("faq", [STABLE.digest, OLD.digest])
    world.give(1, all=STABLE)
    world.driver._reload()
    assert world.standbys(STABLE) == [world.wish(OLD).port]
    assert world.standbys(OLD) == [world.wish(STABLE).port]
    world.stop_haproxy()
    world.start_haproxy()
    assert world.standbys(STABLE) == [world.wish(OLD).port]
    world.kill(STABLE)
    assert world.ask() == (200, OLD.digest)


def test_who_may_no_longer_stand_by_is_switched_off_without_a_reload(world: World) -> None:
    world.deploy(OLD, STABLE)
    before = world.worker()
    world.driver.stand_by("faq", [STABLE.digest, OLD.digest])
    assert world.worker() != before  # somebody new has to be made known
    world.give(1, all=STABLE)
    before = world.worker()
    world.driver.stand_by("faq", [STABLE.digest])
    world.driver.stand_by("faq", [STABLE.digest])
    world.kill(STABLE)
    world.knows_it_is_gone(STABLE)
    assert world.ask()[0] == 503
    world.driver.stand_by("faq", [STABLE.digest, OLD.digest, "0" * 64])
    assert world.ask() == (200, OLD.digest)
    assert world.worker() == before
    world.driver.stand_by("faq", [STABLE.digest])
    world.driver._reload()  # the same by the configuration
    assert world.standbys(STABLE) == []
    world.knows_it_is_gone(STABLE)
    assert world.ask()[0] == 503


def test_a_driver_that_was_killed_before_its_reload_makes_up_for_it(world: World) -> None:
    world.deploy(OLD, STABLE)
    reload = HaproxyDriver._reload
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HaproxyDriver, "_reload", lambda self: self._write_config())
        world.driver.stand_by("faq", [STABLE.digest, OLD.digest])
        assert world.standbys(STABLE) == []
    assert HaproxyDriver._reload is reload
    world.driver.stand_by("faq", [STABLE.digest, OLD.digest])
    assert world.standbys(STABLE) == [world.wish(OLD).port]


def test_a_release_that_is_retired_stands_by_no_longer_and_ends_its_answers(world: World) -> None:
    world.deploy(OLD, STABLE)
    world.driver.stand_by("faq", [STABLE.digest, OLD.digest])
    world.give(1, all=STABLE)
    world.kill(STABLE)
    world.knows_it_is_gone(STABLE)
    answers = list[tuple[int, str]]()
    asking = threading.Thread(target=lambda: answers.append(world.ask(question=SLOW)))
    asking.start()
    world.until(lambda: world.driver.backends()[OLD.short].load.sessions == 1, "the call counts as its own")
    assert world.driver.backends()[STABLE.short].load.ongoing == 0
    assert [slot.sessions for slot in world.driver.backends()[OLD.short].slots] == [1]
    world.driver.retire("faq", OLD.digest)
    assert answers == [(200, OLD.digest)]
    asking.join()
    assert world.driver.running("faq") == (STABLE.digest,)
    assert world.ask()[0] == 503


def test_of_several_that_stand_by_the_best_that_lives_answers(world: World) -> None:
    world.deploy(OLD, STABLE)
    world.driver.stand_by("faq", [OLD.digest, STABLE.digest])
    world.deploy(CANDIDATE)
    world.give(1, all=CANDIDATE)
    world.kill(CANDIDATE)
    world.knows_it_is_gone(CANDIDATE)
    assert {world.ask() for _ in range(6)} == {(200, OLD.digest)}
    world.driver.stand_by("faq", [STABLE.digest, OLD.digest])  # another order
    world.knows_it_is_gone(CANDIDATE)
    assert {world.ask() for _ in range(6)} == {(200, STABLE.digest)}


# --- replicas ---


def test_a_standby_answers_with_the_replicas_it_has_switched_on(world: World) -> None:
    world.deploy(TWO, STABLE)
    world.driver.stand_by("faq", [STABLE.digest, TWO.digest])
    world.give(1, all=STABLE)
    world.kill(STABLE)
    world.knows_it_is_gone(STABLE)
    assert world.ask_many() == {(200, TWO.digest): 40}
    calls = _answered_by_slots(world)
    assert calls == {"s1": 0, "b1": 40, "b2": 0}
    one = world.wish(TWO)
    world.driver.rescale(one, replace(one, replicas=2, serving=2))
    world.start(TWO)
    world.until(lambda: _is_up(world, "b2"), "its second replica stands by, too")
    assert world.ask_many() == {(200, TWO.digest): 40}
    assert _answered_by_slots(world)["b2"] > 10
    world.kill(TWO, replica=1)
    assert world.ask_many() == {(200, TWO.digest): 40}
    world.start(TWO)
    two = world.wish(TWO)
    world.driver.rescale(two, replace(two, replicas=2, serving=1))
    before = _answered_by_slots(world)["b2"]
    world.until(lambda: _is_up(world, "b1"), "its first replica is back")
    assert world.ask_many() == {(200, TWO.digest): 40}
    assert _answered_by_slots(world)["b2"] == before
    assert [slot.is_on for slot in world.driver.backends()[TWO.short].slots] == [True, False]


def test_another_replica_of_its_own_answers_before_any_standby(world: World) -> None:
    world.deploy(OLD, TWO)
    one = world.wish(TWO)
    world.driver.rescale(one, replace(one, replicas=2, serving=2))
    world.start(TWO)
    world.until(lambda: _status(world, "s2").startswith("UP"), "its second replica answers")
    world.driver.stand_by("faq", [TWO.digest, OLD.digest])
    world.give(1, all=TWO)
    world.kill(TWO, replica=1)
    assert world.ask_many() == {(200, TWO.digest): 40}
    routed = world.driver.routed(TWO.digest)
    assert (routed.failed, routed.is_up) == (0, True)


def _rows(world: World) -> dict[str, dict[str, str]]:
    name = f"r-{next(iter(world.driver.observe('faq') or (TWO.digest,)))[:12]}"
    return {row["svname"]: row for row in read_rows(world.driver._say("show stat")) if row["pxname"] == name}


def _status(world: World, slot: str) -> str:
    return _rows(world)[slot]["status"]


def _is_up(world: World, slot: str) -> bool:
    return _status(world, slot) == "UP"


def _answered_by_slots(world: World) -> dict[str, int]:
    return {name: int(row["hrsp_2xx"]) for name, row in _rows(world).items() if name != "BACKEND"}
