"""Scorers of any kind that MLflow accepts, called directly: classes, ``@scorer`` functions, and judges behind them.

A scorer is named as ``module:attribute`` and takes, by keyword, some of ``inputs``, ``outputs``, ``expectations`` and
``trace``. What it returns is read as MLflow reads it: a number, a truth, a word, a ``Feedback``, a list of those, or
nothing. Nothing here imports MLflow; a scorer that needs it brings it along.

Three things are kept apart in every row: a score, an error, and a scorer that did not run. None of them is 0.
A scorer may have a method ``score_batch(*, inputs, outputs, expectations)`` that takes lists and returns a list.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, JsonValue

from tasks.errors import InputError
from tasks.release.model import Name, Record
from tasks.scoring.cache import ScoreCache, cache_key
from tasks.scoring.pool import CallError, Done, Limits, NotRunError, State, run_calls
from tasks.scoring.reading import Score, failed_row, keep_value, read_result, read_value

PATH_PATTERN: Final = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
_ARGUMENTS: Final = ("inputs", "outputs", "expectations", "trace")
_LISTS: Final = _ARGUMENTS[:3]
_Scores = tuple[Score, ...]


class ScorerSpec(Record):
    """A scorer as an evaluation names it.

    Attributes:
        name: What its scores are called.
        path: ``module:attribute``; a class is made with ``arguments``, anything else is taken as it is.
        sample: Answers that are scored at most, drawn at random; None is all of them.
        threshold: What its mean is held against; None is only shown.
        highest: Whether the threshold is the highest mean allowed instead of the lowest.
    """

    name: Name
    path: str = Field(pattern=PATH_PATTERN, max_length=200)
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    timeout_s: float = Field(default=30.0, gt=0, le=3600, allow_inf_nan=False)
    retries: int = Field(default=0, ge=0, le=10)
    workers: int = Field(default=4, ge=1, le=64)
    total_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    batch_size: int = Field(default=256, ge=1, le=100_000)
    sample: Annotated[int, Field(ge=1)] | None = None
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    highest: bool = False

    @property
    def limits(self) -> Limits:
        """How its calls are made."""
        return Limits(workers=self.workers, timeout_s=self.timeout_s, retries=self.retries, total_s=self.total_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One answer as scorers get it.

    Attributes:
        inputs: What went in, for example ``{"question": …, "context": …}``.
        outputs: What was answered; None is unknown.
        expectations: What was expected of it, by MLflow's names; None where nothing is known.
        trace: Its MLflow trace; None where there is none.
    """

    inputs: Mapping[str, Any]
    outputs: Any
    expectations: Mapping[str, Any] | None = None
    trace: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Scorer:
    """A scorer that was found.

    Attributes:
        spec: How it is named and called.
        call: The scorer itself.
        identity: Digest of its path, its arguments and the file it stands in.
        wanted: The arguments it takes, and whether it can do without each.
        batch: Its batch path, or None.
    """

    spec: ScorerSpec
    call: Callable[..., Any]
    identity: str
    wanted: Mapping[str, bool]
    batch: Callable[..., Any] | None


def load_scorer(spec: ScorerSpec) -> Scorer:
    """Find the scorer that a spec names.

    Raises:
        InputError: It cannot be imported or made, is not callable, or takes what there is not.
    """
    place = f"scorer {spec.name}"
    module, _, attribute = spec.path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        made = found(**spec.arguments) if isinstance(found, type) else found
    except Exception as error:  # whatever importing somebody else's module raises
        text = f"{place}: {spec.path} cannot be loaded: {type(error).__name__}; check its name, package and arguments"
        raise InputError(text) from error
    if spec.arguments and not isinstance(found, type):
        raise InputError(f"{place}: {spec.path} is no class, so it takes no arguments; remove them")
    if not callable(made):
        raise InputError.of(place, spec.path, "a scorer: a class or function of mlflow.genai.scorers, or any function")
    if getattr(made, "is_session_level_scorer", False):
        raise InputError(f"{place}: {spec.path} scores whole sessions; give one that scores single answers")
    return Scorer(spec, made, _identify(spec, found), _parameters(place, made), getattr(made, "score_batch", None))


def run_scorer(scorer: Scorer, rows: Sequence[Row | None], cache: ScoreCache | None = None) -> dict[str, list[Score]]:
    """Score answers.

    Args:
        scorer: What scores.
        rows: The answers; None is left out of the sample, and is not run.
        cache: Where scores are looked up and kept; errors are not.

    Returns:
        A score of every row, by name: the scorer's own, and ``name/feedback`` for each of a list of feedbacks.
    """
    keys = [None if row is None else cache_key(scorer.identity, _content(row)) for row in rows] if cache else []
    known = cache.find([key for key in keys if key is not None]) if cache else {}
    found: list[_Scores | None] = [read_value(known[key]) if key in known else None for key in keys if key is not None]
    result: list[_Scores | None] = [None] * len(rows)
    asked = [at for at, row in enumerate(rows) if row is not None]
    if cache:
        for at, scores in zip(asked, found, strict=True):
            result[at] = scores
    todo = [at for at in asked if result[at] is None]
    fresh = _score_each(scorer, rows, todo) if scorer.batch is None else _score_batches(scorer, rows, todo)
    for at, scores in zip(todo, fresh, strict=True):
        result[at] = scores
    if cache:
        cache.keep((key, keep_value(result[at] or ())) for at in todo if (key := keys[at]) and _is_whole(result[at]))
    left_out = (Score(name=scorer.spec.name, state=State.NOT_RUN, reason="not in the sample"),)
    return _by_name(scorer.spec.name, [left_out if scores is None else scores for scores in result])


def _score_each(scorer: Scorer, rows: Sequence[Row | None], todo: Sequence[int]) -> list[_Scores]:
    name = scorer.spec.name

    def call(number: int) -> _Scores:
        row = rows[todo[number]]
        assert row is not None  # noqa: S101 - todo holds rows that are in the sample
        return read_result(name, scorer.call(**_arguments(scorer, row)))

    return [_settled(name, done) for done in run_calls(call, len(todo), scorer.spec.limits)]


def _score_batches(scorer: Scorer, rows: Sequence[Row | None], todo: Sequence[int]) -> list[_Scores]:
    name, size = scorer.spec.name, scorer.spec.batch_size
    batches = [todo[start : start + size] for start in range(0, len(todo), size)]

    def call(number: int) -> list[_Scores]:
        batch = [row for at in batches[number] if (row := rows[at]) is not None]
        lists = {key: [_plain(getattr(row, key)) for row in batch] for key in _LISTS}
        results = (scorer.batch or scorer.call)(**lists)
        if not isinstance(results, list | tuple) or len(results) != len(batch):
            raise CallError(f"score_batch must return a list of {len(batch)} results")
        return [_read_one(name, result) for result in results]

    found: list[_Scores] = []
    for batch, done in zip(batches, run_calls(call, len(batches), scorer.spec.limits), strict=True):
        found += done.value if done.value is not None else [failed_row(name, done.state, done.reason)] * len(batch)
    return found


def _read_one(name: str, result: Any) -> _Scores:
    try:
        return read_result(name, result)
    except CallError as error:
        return failed_row(name, State.ERROR, str(error))


def _settled(name: str, done: Done[_Scores]) -> _Scores:
    return failed_row(name, done.state, done.reason) if done.value is None else done.value


def _arguments(scorer: Scorer, row: Row) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, optional in scorer.wanted.items():
        value = getattr(row, name)
        if value is None and not optional:
            raise NotRunError(f"it needs {name}, and there is none")
        given[name] = _plain(value)
    return given


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _parameters(place: str, made: Callable[..., Any]) -> dict[str, bool]:
    """Return which arguments a scorer takes, and whether each may be None."""
    parameters = inspect.signature(type(made).__call__ if not inspect.isroutine(made) else made).parameters
    named = {name: found for name, found in parameters.items() if name != "self"}
    if any(found.kind is inspect.Parameter.VAR_KEYWORD for found in named.values()):
        return {**dict.fromkeys(_ARGUMENTS, True), "outputs": False}
    strange = [
        name
        for name, found in named.items()
        if name not in _ARGUMENTS and found.default is inspect.Parameter.empty and "VAR" not in found.kind.name
    ]
    if strange:
        raise InputError.of(f"{place}: arguments", ", ".join(strange), _ARGUMENTS)
    return {
        name: found.default is not inspect.Parameter.empty and name != "outputs"
        for name, found in named.items()
        if name in _ARGUMENTS
    }


def _identify(spec: ScorerSpec, found: Any) -> str:
    """Return the digest of what decides a score: its name, its path, its arguments, and the file it stands in."""
    module = inspect.getmodule(getattr(found, "_original_func", None) or found) or importlib.import_module(
        spec.path.partition(":")[0]
    )
    code = Path(module.__file__).read_bytes() if module.__file__ else b""
    parts = [spec.name, spec.path, spec.arguments, hashlib.sha256(code).hexdigest()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _content(row: Row) -> list[Any]:
    trace = getattr(getattr(row.trace, "info", None), "trace_id", None)
    return [_plain(row.inputs), row.outputs, _plain(row.expectations), trace]


def _is_whole(scores: _Scores | None) -> bool:
    return bool(scores) and all(score.state is State.SCORED for score in scores or ())


def _by_name(name: str, rows: Sequence[_Scores]) -> dict[str, list[Score]]:
    """Return columns of scores; where a row has no feedback of a name, what became of the whole row stands."""
    shared: dict[Score, Score] = {}

    def column(wanted: str) -> list[Score]:
        found = (_of(wanted, scores, name) for scores in rows)
        return [one if one.state is State.SCORED else shared.setdefault(one, one) for one in found]

    names = sorted({score.name for scores in rows for score in scores} - {name})
    found = (
        {name: column(name)}
        if not names or any(score.name == name and score.state is State.SCORED for scores in rows for score in scores)
        else {}
    )
    return found | {other: column(other) for other in names}


def _of(wanted: str, scores: _Scores, own: str) -> Score:
    for score in scores:
        if score.name == wanted:
            return score
    whole = next((score for score in scores if score.name == own and score.state is not State.SCORED), None)
    if whole is not None:
        return Score(name=wanted, state=whole.state, reason=whole.reason)
    return Score(name=wanted, state=State.NOT_RUN, reason="the scorer gave no such feedback here")
