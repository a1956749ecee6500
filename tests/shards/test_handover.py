from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from tasks.errors import NotFoundError
from tasks.shards.handover import HandOver
from tasks.shards.orders import ScoringOrder

PARENT = str(UUID(int=1))
START = datetime(2026, 1, 2, tzinfo=UTC)
SCORING = ScoringOrder(application="faq", start=START, end=START + timedelta(hours=1), releases=())


@pytest.fixture
def handover(tmp_path: Path) -> HandOver:
    return HandOver(tmp_path / "shards")


def test_an_order_and_its_result_are_handed_over_and_nobody_else_may_read_them(handover: HandOver) -> None:
    name = handover.put_order(PARENT, SCORING)
    assert handover.put_order(PARENT, SCORING) == name
    assert handover.order(name) == SCORING
    assert (handover.is_done(name), handover.result(name)) == (False, None)
    handover.put_result(name, b"result")
    assert (handover.is_done(name), handover.result(name)) == (True, b"result")
    files = list((handover.folder / PARENT).iterdir())
    assert sorted(path.suffix for path in files) == [".order", ".result"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (handover.folder, handover.folder / PARENT)} == {0o700}


def test_an_order_that_is_gone_is_said_with_what_may_be_wrong(handover: HandOver) -> None:
    name = handover.put_order(PARENT, SCORING)
    handover.clear([name])
    with pytest.raises(NotFoundError, match=r"its parent has ended, or this worker has another state folder; mount"):
        handover.order(name)
    handover.put_result(name, b"late")
    assert not handover.is_done(name)


def test_clearing_leaves_what_is_not_its_own(handover: HandOver) -> None:
    other = SCORING.model_copy(update={"application": "bot"})
    first, second = handover.put_order(PARENT, SCORING), handover.put_order(PARENT, other)
    handover.put_result(first, b"1")
    handover.clear([first])
    assert handover.order(second) == other
    handover.clear([second])
    assert list(handover.folder.iterdir()) == []


def test_signs_of_life_grow_while_the_work_lasts_and_each_attempt_has_its_own(handover: HandOver) -> None:
    name, seen = handover.put_order(PARENT, SCORING), set[int]()
    assert handover.beat(name, 1) == 0
    with handover.beating(name, 1, every_s=0.001):
        while len(seen) < 5:
            seen.add(handover.beat(name, 1))
    assert handover.beat(name, 1) >= max(seen) >= 4
    assert handover.beat(name, 2) == 0
    assert "beat" not in {thread.name for thread in threading.enumerate()}


def test_work_goes_on_where_signs_of_life_cannot_be_given(handover: HandOver) -> None:
    name = handover.put_order(PARENT, SCORING)
    handover.clear([name])
    with handover.beating(name, 1, every_s=0.001):
        pass
    assert not (handover.folder / PARENT).exists()


def test_what_a_killed_parent_left_is_swept_and_a_young_one_stays(handover: HandOver) -> None:
    old, young = str(UUID(int=2)), str(UUID(int=3))
    for parent in (old, young):
        handover.put_order(parent, SCORING)
    os.utime(handover.folder / old, (1_000, 1_000))
    assert handover.sweep(2_000) == 1
    assert [path.name for path in handover.folder.iterdir()] == [young]
    assert HandOver(handover.folder / "none").sweep(2_000) == 0
