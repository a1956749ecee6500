from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.errors import InputError
from tasks.monitors.verdict import Outcome
from tasks.scoring.cache import ScoreCache
from tasks.scoring.pool import State
from tasks.scoring.portions import draw_ids
from tasks.scoring.reading import Score, hold_scores, summarise_scores, values_of
from tasks.scoring.scorers import Row, ScorerSpec, load_scorer, run_scorer

MODULE = """
import time
from mlflow.entities import AssessmentError, Feedback
from mlflow.genai.scorers import Scorer, scorer

CALLS = []

@scorer
def length(outputs):
    CALLS.append(outputs)
    return len(outputs)

@scorer
def exact(outputs, expectations):
    return outputs == expectations["expected_response"]

@scorer
def answered(inputs, outputs):
    return Feedback(value=inputs["question"].lower() in outputs.lower(), rationale="never kept")

@scorer
def traced(trace):
    return 1

@scorer
def talk(session):
    return 1

@scorer
def anything(inputs, outputs):
    answers = {"yes": "yes", "word": "formal", "none": None, "nan": float("nan"), "inf": float("inf"), "dict": {},
               "long": "x" * 200, "list": [], "true": True,
               "broken": Feedback(name="a", error=AssessmentError(error_code="RATE_LIMIT", error_message=outputs)),
               "two": [Feedback(name="a", value=0.25), Feedback(name="b", value="no")]}
    if outputs == "raise":
        raise ValueError(outputs)
    if outputs == "hang":
        time.sleep(1)
    return answers[outputs]

class Longer(Scorer):
    name: str = "longer"
    than: int = 3

    def __call__(self, *, outputs):
        return len(outputs) > self.than

class Batched(Scorer):
    name: str = "batched"

    def __call__(self, *, outputs):
        raise AssertionError("it has a batch path")

    def score_batch(self, *, inputs, outputs, expectations):
        CALLS.append(len(outputs))
        if "raise" in outputs:
            raise ValueError
        return [float(len(text)) for text in outputs if text != "lose"]

def plain(outputs, wanted):
    return 1

def function(outputs):
    return 0.5

THREE = 3
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("scorers")
    (folder / "team_scorers.py").write_text(MODULE, encoding="utf-8")
    sys.path.insert(0, str(folder))
    import team_scorers  # type: ignore[import-not-found]

    yield team_scorers
    sys.path.remove(str(folder))
    del sys.modules["team_scorers"]


@pytest.fixture
def score(module: Any) -> Callable[..., dict[str, list[Score]]]:
    module.CALLS.clear()

    def run(
        attribute: str, *outputs: str | None, cache: ScoreCache | None = None, **known: Any
    ) -> dict[str, list[Score]]:
        settings = {key: known.pop(key) for key in ("timeout_s", "arguments", "batch_size") if key in known}
        spec = ScorerSpec(name="s", path=f"team_scorers:{attribute}", **settings)
        rows = [Row(inputs={"question": "Who?"}, outputs=text, **known) for text in outputs]
        return run_scorer(load_scorer(spec), rows, cache)

    return run


def test_a_function_of_mlflow_is_called_directly(score: Any) -> None:
    assert [one.value for one in score("length", "Delhi", "", "ab")["s"]] == [5.0, 0.0, 2.0]
    assert [one.value for one in score("function", "Delhi")["s"]] == [0.5]


def test_a_class_is_made_with_its_arguments(score: Any) -> None:
    assert [one.value for one in score("Longer", "Delhi", "ab")["s"]] == [1.0, 0.0]
    assert [one.value for one in score("Longer", "Delhi", arguments={"than": 9})["s"]] == [0.0]


@pytest.mark.usefixtures("module")
def test_a_scorer_that_comes_with_mlflow_runs() -> None:
    spec = ScorerSpec(name="city", path="mlflow.genai.scorers:RegexMatch", arguments={"pattern": "Delhi"})
    rows = [Row(inputs={}, outputs=text) for text in ("in Delhi", "in Paris")]
    assert [one.value for one in run_scorer(load_scorer(spec), rows)["city"]] == [1.0, 0.0]


def test_what_a_scorer_needs_and_there_is_not_is_not_run(score: Any) -> None:
    for attribute, name in (("exact", "expectations"), ("traced", "trace")):
        (found,) = score(attribute, "Delhi")["s"]
        assert (found.state, found.value, found.reason) == (State.NOT_RUN, None, f"it needs {name}, and there is none")
    assert score("exact", "Delhi", expectations={"expected_response": "Delhi"})["s"][0].value == 1.0
    assert score("length", None)["s"][0].state is State.NOT_RUN


def test_feedback_of_a_single_kind_has_the_name_of_the_scorer(score: Any) -> None:
    found = score("answered", "Who? Bob", "Paris")
    assert [one.value for one in found["s"]] == [1.0, 0.0]
    assert "never kept" not in repr(found)


@pytest.mark.parametrize(
    ("outputs", "state", "wanted"),
    [
        ("yes", State.SCORED, (1.0, "yes", None)),
        ("true", State.SCORED, (1.0, None, None)),
        ("word", State.SCORED, (None, "formal", None)),
        ("none", State.NOT_RUN, (None, None, "the scorer gave nothing")),
        ("list", State.NOT_RUN, (None, None, "the scorer gave no feedback")),
        ("nan", State.ERROR, (None, None, "it gave nan, which is no score")),
        ("inf", State.ERROR, (None, None, "it gave inf, which is no score")),
        ("long", State.ERROR, (None, None, "a word of a scorer has at most 100 characters, not 200")),
        ("raise", State.ERROR, (None, None, "ValueError")),
        ("broken", State.ERROR, (None, None, "RATE_LIMIT")),
        ("hang", State.ERROR, (None, None, "timed out after 0.1 s")),
    ],
)
def test_every_answer_is_read_as_what_it_is(
    score: Any, outputs: str, state: State, wanted: tuple[float | None, str | None, str | None]
) -> None:
    (found,) = score("anything", outputs, timeout_s=0.1)["s"]
    assert (found.state, (found.value, found.label, found.reason)) == (state, wanted)


def test_what_is_no_answer_of_a_scorer_says_what_is(score: Any) -> None:
    (found,) = score("anything", "dict")["s"]
    assert found.reason == "a scorer returns int, float, bool, str, Feedback, a list of Feedback, or None, not dict"


def test_a_list_of_feedback_makes_a_score_of_each(score: Any) -> None:
    found = score("anything", "two", "raise", "none")
    assert sorted(found) == ["s/a", "s/b"]
    assert [one.value for one in found["s/a"]] == [0.25, None, None]
    assert [one.state for one in found["s/b"]] == [State.SCORED, State.ERROR, State.NOT_RUN]
    mixed = score("anything", "two", "true")
    assert sorted(mixed) == ["s", "s/a", "s/b"]
    assert [one.state for one in mixed["s"]] == [State.NOT_RUN, State.SCORED]
    assert mixed["s/a"][1].reason == "the scorer gave no such feedback here"


def test_a_batch_path_is_used_and_its_failures_are_errors(score: Any, module: Any) -> None:
    found = score("Batched", *(["ab"] * 5), "raise", "lose", batch_size=2)["s"]
    assert [one.value for one in found] == [2.0, 2.0, 2.0, 2.0, None, None, None]
    assert [one.reason for one in found[4:]] == [
        "ValueError",
        "ValueError",
        "score_batch must return a list of 1 results",
    ]
    assert sorted(module.CALLS) == [1, 2, 2, 2]


def test_a_score_is_looked_up_and_an_error_is_tried_again(score: Any, module: Any, tmp_path: Path) -> None:
    with ScoreCache(tmp_path / "scores.db") as cache:
        first = score("length", "Delhi", "ab", cache=cache)
        module.CALLS.clear()
        assert score("length", "ab", "Delhi", "new", cache=cache)["s"][:2] == first["s"][::-1]
        assert module.CALLS == ["new"]
        score("anything", "raise", cache=cache)
        assert score("anything", "raise", cache=cache)["s"][0].state is State.ERROR
        found = score("anything", "two", cache=cache), score("anything", "two", cache=cache)
        assert found[0] == found[1]


def test_another_name_argument_or_code_is_another_scorer(module: Any) -> None:
    def identity(**settings: Any) -> str:
        return load_scorer(ScorerSpec(**({"name": "s", "path": "team_scorers:Longer"} | settings))).identity

    assert identity() == identity()
    assert (
        len({identity(), identity(name="t"), identity(arguments={"than": 4}), identity(path="team_scorers:length")})
        == 4
    )
    before = identity(path="team_scorers:length")
    place = Path(module.__file__)
    place.write_text(MODULE + "\n# changed\n", encoding="utf-8")
    assert identity(path="team_scorers:length") != before
    place.write_text(MODULE, encoding="utf-8")


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:thing", "cannot be loaded: ModuleNotFoundError; check its name, package and arguments"),
        ("team_scorers:nothing", "cannot be loaded: AttributeError"),
        ("team_scorers:THREE", "'team_scorers:THREE' is not allowed; allowed: a scorer"),
        ("team_scorers:talk", "scores whole sessions; give one that scores single answers"),
        (
            "team_scorers:plain",
            "scorer s: arguments: 'wanted' is not allowed; allowed: inputs, outputs, expectations, trace",
        ),
    ],
)
def test_a_scorer_that_cannot_be_used_is_refused_before_anything_runs(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_scorer(ScorerSpec(name="s", path=path))


@pytest.mark.usefixtures("module")
def test_arguments_of_what_is_no_class_are_refused() -> None:
    with pytest.raises(InputError, match="is no class, so it takes no arguments; remove them"):
        load_scorer(ScorerSpec(name="s", path="team_scorers:length", arguments={"than": 1}))


@pytest.mark.parametrize("path", ["os.system", "a:b:c", ":b", "a b:c"])
def test_a_path_is_module_and_attribute(path: str) -> None:
    with pytest.raises(ValidationError, match="String should match pattern"):
        ScorerSpec(name="s", path=path)


@pytest.mark.usefixtures("module")
def draw_places(ids: list[str], size: int | None) -> list[int]:
    return [at for at, is_drawn in enumerate(draw_ids(ids, size)) if is_drawn]


def test_a_sample_is_not_run_elsewhere_and_the_same_each_time() -> None:
    rows = [Row(inputs={}, outputs=str(at)) for at in range(50)]
    ids = [f"call-{at}" for at in range(50)]
    drawn = draw_places(ids, 10)
    assert drawn == draw_places(ids, 10)
    assert {ids[::-1][at] for at in draw_places(ids[::-1], 10)} == {ids[at] for at in drawn}
    some = [row if at in drawn else None for at, row in enumerate(rows)]
    found = run_scorer(load_scorer(ScorerSpec(name="s", path="team_scorers:length")), some)["s"]
    assert [at for at, one in enumerate(found) if one.state is State.SCORED] == drawn
    assert len(drawn) == 10
    left_out = [one for one in found if one.state is State.NOT_RUN]
    assert {one.reason for one in left_out} == {"not in the sample"}
    assert len({id(one) for one in left_out}) == 1, "one object stands for all that were not drawn"
    assert draw_places(ids, None) == list(range(50))


def scores(good: int, errors: int = 0, not_run: int = 0, value: float = 0.9) -> list[Score]:
    return [
        *[Score(name="s", state=State.SCORED, value=value + 0.01 * (at % 2)) for at in range(good)],
        *[Score(name="s", state=State.ERROR, reason="timed out after 1 s") for _ in range(errors)],
        *[Score(name="s", state=State.NOT_RUN, reason="not in the sample") for _ in range(not_run)],
    ]


@pytest.mark.parametrize(
    ("found", "outcome", "statement"),
    [
        (scores(100), Outcome.PASS, "mean s 0.905 >= limit 0.8 (n=100)"),
        (scores(100, not_run=900), Outcome.PASS, "mean s 0.905 >= limit 0.8 (n=100)"),
        (scores(100, value=0.5), Outcome.FAIL, "mean s 0.505 < limit 0.8 (n=100)"),
        (scores(40, 60), Outcome.ERROR, "s: 40 of 100 answers have a score < minimum 50%: timed out after 1 s"),
        (scores(0, 100), Outcome.ERROR, "s: 0 of 100 answers have a score < minimum 50%: timed out after 1 s"),
        (scores(0, 0, 100), Outcome.ERROR, "s: it ran on none of 100 answers"),
        (scores(10), Outcome.INCONCLUSIVE, "mean s: 10 interactions < minimum 30 (n=10)"),
        ([], Outcome.INCONCLUSIVE, "mean s: 0 interactions < minimum 30 (n=0)"),
    ],
)
def test_missing_scores_are_never_a_silent_pass(found: list[Score], outcome: Outcome, statement: str) -> None:
    check = hold_scores(summarise_scores("s", found), 0.8)
    assert (check.outcome, check.statement, check.monitor) == (outcome, statement, "scorer:s")


def test_an_error_does_not_pull_the_mean_down() -> None:
    summary = summarise_scores("s", scores(50, 10, 5))
    assert (summary.scored, summary.errors, summary.not_run) == (50, 10, 5)
    assert summary.mean is not None
    assert summary.mean.value == pytest.approx(0.905)
    assert math.isnan(values_of(scores(0, 1))[0])
    assert summary.reasons == {"timed out after 1 s": 10}
