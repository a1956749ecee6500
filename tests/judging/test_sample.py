from __future__ import annotations

import numpy as np
import pytest

from tasks.errors import InputError
from tasks.judging.agreement import estimate_mean
from tasks.judging.sample import Kinds, draw_sample, order_sample

IDS = [f"call-{at}" for at in range(1000)]
ROUTES = ["search"] * 900 + ["chat"] * 95 + ["rare"] * 5
KINDS = Kinds.of(ROUTES)
BAD = np.arange(1000) % 50 == 0


def test_failures_and_complaints_are_always_in_it() -> None:
    sample = draw_sample(IDS, KINDS, BAD, 100, seed=1)
    assert sample.chosen[BAD].all()
    assert sample.chosen.sum() == BAD.sum() + 100
    assert set(sample.weigh()[BAD]) == {1.0}


def test_every_kind_is_in_it_in_proportion() -> None:
    sample = draw_sample(IDS, KINDS, BAD, 100, seed=1)
    drawn = {
        route: sum(sample.chosen[at] and not BAD[at] for at in range(1000) if ROUTES[at] == route) for route in ROUTES
    }
    assert drawn["rare"] == 1
    assert 8 <= drawn["chat"] <= 11
    assert sum(drawn.values()) == 100


def test_weights_add_up_to_all_answers() -> None:
    sample = draw_sample(IDS, KINDS, BAD, 100, seed=1)
    assert sample.weigh().sum() == pytest.approx(1000)
    assert (sample.weigh()[~sample.chosen] == 0).all()
    scored = sample.chosen & (np.arange(1000) % 3 > 0)
    assert sample.weigh(scored).sum() == pytest.approx(1000 * (1 - sample.missing(scored)))


def test_a_kind_without_any_score_is_told() -> None:
    sample = draw_sample(IDS, KINDS, BAD, 100, seed=1)
    scored = np.array([route != "rare" for route in ROUTES])
    assert sample.missing(scored) == 0.005
    assert sample.weigh(scored).sum() == pytest.approx(995)


def test_the_weighted_mean_is_right_where_bad_answers_are_drawn_more() -> None:
    source, found, hits = np.random.default_rng(3), [], 0
    quality = np.where(BAD, 0.1, 0.8) + source.normal(0, 0.05, 1000)
    for seed in range(200):
        sample = draw_sample(IDS, KINDS, BAD, 60, seed=seed)
        mean = estimate_mean(np.where(sample.chosen, quality, np.nan), weights=sample.weigh())
        assert mean is not None
        found.append(mean.value)
        hits += mean.low <= quality.mean() <= mean.high
    plain = np.mean(quality[draw_sample(IDS, KINDS, BAD, 60, seed=0).chosen])
    assert np.mean(found) == pytest.approx(quality.mean(), abs=0.003)
    assert abs(plain - quality.mean()) > 0.1
    assert hits / 200 > 0.93


def test_it_depends_on_ids_and_seed_and_not_on_order() -> None:
    sample = draw_sample(IDS, KINDS, BAD, 100, seed=1)
    turned = draw_sample(IDS[::-1], Kinds.of(ROUTES[::-1]), BAD[::-1], 100, seed=1)
    assert (turned.chosen[::-1] == sample.chosen).all()
    assert (draw_sample(IDS, KINDS, BAD, 100, seed=2).chosen != sample.chosen).any()


def test_a_budget_that_ends_leaves_out_any() -> None:
    sample = draw_sample(IDS, KINDS, BAD, 100, seed=1)
    order = order_sample(IDS, sample, seed=1)
    assert sorted(order) == np.flatnonzero(sample.chosen).tolist()
    assert 4 <= sum(bool(BAD[at]) for at in order[:60]) <= 18


@pytest.mark.parametrize("size", [1, 2, 3, 40, 979, 980, 5000])
def test_sizes(size: int) -> None:
    assert draw_sample(IDS, KINDS, BAD, size, seed=1).chosen.sum() == min(1000, size + BAD.sum())


def test_nothing_drawn_is_refused() -> None:
    with pytest.raises(InputError, match="sample size: 0 is not allowed; allowed: 1 or more"):
        draw_sample(IDS, KINDS, BAD, 0, seed=1)
    assert draw_sample([], Kinds.of([]), np.zeros(0, dtype=bool), 5, seed=1).missing(np.zeros(0, dtype=bool)) == 0.0
