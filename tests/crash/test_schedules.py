"""Flows that meet on one application: whatever the order of their steps, the ledger and the data path stay whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from crash_model import Actor, Model, modelled

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("either_ledger")]

Kind = Callable[[Model, Random], list[Actor]]
SEEDS = 40
"""Schedules of each kind."""


def same_release(model: Model, _: Random) -> list[Actor]:
    return [model.schedule.start(name, model.rollout(3)) for name in ("one", "two")]


def two_releases(model: Model, random: Random) -> list[Actor]:
    third = [model.schedule.start("three", model.rollout(random.choice([3, 4])))] if random.random() < 0.5 else []
    return [model.schedule.start("one", model.rollout(3)), model.schedule.start("two", model.rollout(4)), *third]


def abort_against_promote(model: Model, random: Random) -> list[Actor]:
    names = ["abort", "abort again"][: random.choice([1, 1, 2])]
    return [model.schedule.start("one", model.rollout(3)), *(model.schedule.start(n, model.abort()) for n in names)]


def rollback_against_ramp(model: Model, random: Random) -> list[Actor]:
    bad = random.choice([None, 2, 3])
    actors = [model.schedule.start("one", model.rollout(3)), model.schedule.start("back", model.rollback(bad))]
    if bad is not None and random.random() < 0.5:
        actors.append(model.schedule.start("back again", model.rollback(bad)))
    return actors


def all_at_once(model: Model, random: Random) -> list[Actor]:
    model.fails = {"3"} if random.random() < 0.5 else set()
    model.path.mute = {model.releases[4].digest} if random.random() < 0.3 else set()
    return [
        model.schedule.start("one", model.rollout(3)),
        model.schedule.start("two", model.rollout(4)),
        model.schedule.start("back", model.rollback()),
        model.schedule.start("abort", model.abort()),
    ]


KINDS = [same_release, two_releases, abort_against_promote, rollback_against_ramp, all_at_once]
EXPECTED = (
    *(
        "Promoted: ",
        "RolledBack: ",
        "Rejected: ",
        "NothingToDo: ",
        "Held: ",
        "killed",
        "LeaseError: ",
        "QuarantineError: ",
    ),
    *("ConflictError: ", "NoCandidate: "),
)
"""How a flow may end that met others; the others say that somebody was faster, or had decided already."""


def show(model: Model, problems: list[str]) -> str:
    endings = [f"{actor.name}: {actor.ending}" for actor in model.schedule.actors]
    return "\n".join([*problems, *endings, *model.schedule.log])


@pytest.mark.one_ledger  # the others here try both
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_order_of_the_steps(kind: Kind, tmp_path: Path) -> None:
    endings = Counter[str]()
    for seed in range(SEEDS):
        with modelled(seed, tmp_path) as model:
            model.ledger.remember(model.releases[3])  # so that it can be called by its name from the beginning
            kind(model, Random(seed))
            model.schedule.each_step = model.problems
            model.schedule.run()
            problems = [*model.schedule.seen, *model.problems()]
            problems += [actor.ending for actor in model.schedule.actors if not actor.ending.startswith(EXPECTED)]
            endings.update(actor.ending.partition(":")[0] for actor in model.schedule.actors)
            model.schedule.settle(model.abort())
            problems += model.problems_when_quiet()
            assert not problems, show(model, [f"seed {seed}", *problems])
    assert len(endings) > 2, endings  # the schedules did meet each other


def test_who_lost_the_lease_changes_neither_the_ledger_nor_the_data_path(tmp_path: Path) -> None:
    """A rollout is paused before each of its steps, and wakes up after an abort has ended it."""
    steps, lost = 0, 0
    while True:
        steps += 1
        with modelled(0, tmp_path / str(steps)) as model:
            model.schedule.pauses = model.schedule.kills = 0
            holder = model.schedule.start("one", model.rollout(3))
            for _ in range(steps):
                if not holder.done:
                    model.schedule.go_on(holder)
            if holder.done:
                break
            held, about_to = model.lease(), holder.trace[-1]
            other = model.schedule.start("other", model.rollback(3) if model.is_known(3) else model.abort())
            while not other.done:
                model.schedule.go_on(other)
            if model.lease() == held:
                continue  # there was nothing to end yet
            lost += 1
            before = model.tables(), model.path.state(), model.registry.read()["aliases"]
            while not holder.done:
                model.schedule.go_on(holder)
            after = model.tables(), model.path.state(), model.registry.read()["aliases"]
            assert other.ending.startswith(("RolledBack", "Rejected")), (about_to, other.ending)
            assert after[0] == before[0], about_to
            if about_to == "ensure":  # it waited for nothing but this call: an idle server is left, and no more
                assert after[1][0] == before[1][0]
            elif about_to.startswith("retire"):  # likewise: a server that nobody was given to is gone
                assert after[1][0] == before[1][0]
                assert set().union(*after[1][0].values()) <= after[1][1].keys() <= before[1][1].keys()
            else:
                assert after[1] == before[1], about_to
            assert after[2] == before[2], about_to
    assert lost > 20


@pytest.mark.parametrize("next_one", ["another release", "a release that serves nobody"])
def test_whoever_comes_next_puts_a_plan_into_effect_that_was_written_and_not_applied(
    next_one: str, tmp_path: Path
) -> None:
    with modelled(0, tmp_path) as model:
        model.schedule.pauses = model.schedule.kills = 0
        dead = model.schedule.start("dead", model.rollout(3))
        while not dead.trace or dead.trace[-1] != "apply 3":
            model.schedule.go_on(dead)
        dead.killed = True
        model.schedule.run()
        assert model.path.in_effect[model.application].revision == 2
        other = model.schedule.start("other", model.rollout(4) if next_one == "another release" else model.rollback(1))
        model.schedule.run()
        assert other.ending.startswith(("LeaseError: release", "NothingToDo: "))
        assert model.path.in_effect[model.application] == model.ledger.plan(model.application)


def test_two_rollbacks_that_name_no_release_take_out_one(tmp_path: Path) -> None:
    for seed in range(5):
        with modelled(seed, tmp_path) as model:
            model.schedule.pauses = model.schedule.kills = 0
            actors = [model.schedule.start(name, model.rollback()) for name in ("one", "two")]
            model.schedule.run()
            assert sorted(actor.ending.partition(":")[0] for actor in actors) == ["NothingToDo", "RolledBack"]
