from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.drift.replay import PairedChange, pair_scores, tell_apart
from tasks.errors import InputError
from tasks.monitors.verdict import Outcome


def paired(rng: np.random.Generator, change: float, n: int = 100) -> PairedChange:
    before = {f"q{at}": float(value) for at, value in enumerate(rng.uniform(0.5, 0.9, n))}
    return pair_scores(before, {item: value + change + float(rng.normal(0, 0.02)) for item, value in before.items()})


@pytest.mark.parametrize(
    ("judge", "provider", "inputs", "causes"),
    [
        (0.0, 0.0, 0.0, ()),
        (-0.1, 0.0, 0.0, ("judge",)),
        (0.0, -0.1, 0.0, ("provider",)),
        (0.0, 0.0, -0.1, ("inputs",)),
        (0.1, -0.1, 0.0, ("judge", "provider")),
        (-0.1, -0.1, -0.1, ("judge", "provider", "inputs")),
    ],
)
def test_causes_are_told_apart(judge: float, provider: float, inputs: float, causes: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    anchors, replays = paired(rng, judge), paired(rng, judge + provider)
    live = PairedChange(mean=judge + provider + inputs, error=0.005, n=1000)
    found = tell_apart(anchors, replays, live)
    assert found.causes == causes
    for effect, part in zip(found.effects, (judge, provider, inputs), strict=True):
        assert effect.low < part < effect.high
        assert effect.outcome is (Outcome.FAIL if part else Outcome.PASS)
    assert found.words == f"changed: {', '.join(causes) or 'nothing that matters'}"


def test_no_false_cause_in_quiet_nights() -> None:
    rng = np.random.default_rng(2)
    named = 0
    for _ in range(300):
        live = PairedChange(mean=float(rng.normal(0, 0.005)), error=0.005, n=1000)
        named += bool(tell_apart(paired(rng, 0.0), paired(rng, 0.0), live, least=1e-9, alpha=0.05).causes)
    assert named <= 0.05 * 300 + 10


def test_what_was_not_replayed_is_not_known() -> None:
    rng = np.random.default_rng(3)
    found = tell_apart(paired(rng, 0.0), paired(rng, -0.1, n=19), PairedChange(mean=-0.2, error=0.01, n=500))
    assert found.causes == ()
    assert [effect.outcome for effect in found.effects] == [Outcome.PASS, *[Outcome.INCONCLUSIVE] * 2]
    assert found.words == "changed: nothing that matters; not known: provider, inputs"
    assert found.effects[1].statement == "provider fewer than 20 pairs to tell it by (n=0, baseline n=0)"
    assert tell_apart(None, None, None).words.endswith("not known: judge, provider, inputs")


def test_scores_are_paired_and_losses_counted() -> None:
    found = pair_scores({"a": 0.5, "b": 0.5, "c": 0.5}, {"a": 0.6, "b": 0.4})
    assert (found.n, found.lost) == (2, 1)
    assert found.mean == pytest.approx(0.0)
    assert found.error == pytest.approx(0.1)
    assert math.isinf(pair_scores({"a": 1.0}, {"a": 1.0}).error)
    with pytest.raises(InputError, match="replay item: 'z' is not allowed; allowed: one of the 1 items of the set"):
        pair_scores({"a": 1.0}, {"z": 1.0})
    with pytest.raises(InputError, match="score of replay item a: nan is not allowed"):
        pair_scores({"a": 1.0}, {"a": math.nan})
