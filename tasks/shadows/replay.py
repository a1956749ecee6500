"""Take logged inputs from the lake, send them to a candidate, and score both answers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.costs.calls import COST_COLUMNS, with_costs
from tasks.costs.prices import PriceBook, find_rates
from tasks.costs.rates import PUSD_PER_USD, Rate
from tasks.errors import NotFoundError
from tasks.evaluation.summary import failed_calls, numbers, release_calls
from tasks.experiments.experiment import experiment_outcomes
from tasks.release.model import Release
from tasks.scoring.quality import score_quality
from tasks.scoring.toxicity import score_toxicity
from tasks.shadows.shadow import Drawn, PairedEffect, ShadowPolicy, compare_pairs, draw, pair_differences
from tasks.smoke.judge import cost_pusd
from tasks.stores.lake import Lake
from tasks.traffic.driver import Answer, Driver

_COLUMNS = (
    *("interaction_id", "unit", "release_digest", "status", "error_type", "latency_ms"),
    *("input_text", "context_text", "output_text", *COST_COLUMNS),
)
_FIND = """
SELECT interaction_id, status, error_type, length(input_text) AS letters FROM interactions
WHERE release_digest = $digest ORDER BY interaction_id
"""
_TAKE = f"SELECT {', '.join(_COLUMNS)}, place FROM interactions JOIN wanted USING (interaction_id) ORDER BY place"  # noqa: S608 - constants
_OK, _FAILED = 200, 500
_PATIENCE = 20
"""Requests in a row without any answer after which no further one begins."""
_LOST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is replayed, with what was answered then.

    Attributes:
        candidate, champion: Who is asked, and who had answered.
        start, end: The window, UTC, half-open.
        calls: One row an input, in the order they are sent, with ``cost_pusd``.
        drawn: How they were drawn.
        without_input: Calls of the window that have no logged input.
        rates: What the candidate's tokens cost; none is unpriced.
    """

    candidate: Release
    champion: Release
    start: datetime
    end: datetime
    calls: pa.Table
    drawn: Drawn
    without_input: int
    rates: tuple[Rate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The candidate's answers, in the order of the inputs; fewer where the replay was stopped.

    Attributes:
        answers: What came back.
        cost_pusd: What they cost, pico-USD; None where any cost is unknown.
        stopped: Why not all inputs were sent; empty where all were.
    """

    answers: tuple[Answer, ...]
    cost_pusd: int | None
    stopped: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The comparison, median latencies (on record, candidate), and where the candidate lost most.

    ``own_passages`` counts the answers of the candidate that came with the passage they rest on.
    """

    effects: tuple[PairedEffect, ...]
    latency_ms: tuple[float, float]
    own_passages: int
    lost: tuple[str, ...]


def find_inputs(
    lake: Lake,
    candidate: Release,
    champion: Release,
    *,
    start: datetime,
    end: datetime,
    policy: ShadowPolicy,
    book: PriceBook,
) -> Inputs:
    """Draw the inputs of a window that one release was asked.

    Raises:
        NotFoundError: It was asked nothing that was logged with its input.
    """
    with lake.query(start, end, candidate.application) as database:
        found = release_calls(database.sql(_FIND, params={"digest": champion.digest}).to_arrow_table())
        known = found.filter(pa.array(~np.isnan(numbers(found["letters"]))))
        if not known.num_rows:
            raise NotFoundError(
                f"{champion.label} ({champion.short}) has no logged input from {start:%Y-%m-%d %H:%M} to "
                f"{end:%Y-%m-%d %H:%M} UTC ({found.num_rows} calls); give another window: --since, --until"
            )
        failed: NDArray[np.bool_] = np.array(failed_calls(known).to_pylist(), dtype=np.bool_)
        ids = known["interaction_id"].to_pylist()
        drawn = draw(ids, failed, numbers(known["letters"]).astype(np.int64), policy.sample, policy.seed)
        calls = _take(database, [ids[at] for at in drawn.chosen])
    spec = candidate.spec
    return Inputs(
        candidate=candidate,
        champion=champion,
        start=start,
        end=end,
        calls=with_costs(calls, {champion.digest: champion}, book),
        drawn=drawn,
        without_input=found.num_rows - known.num_rows,
        rates=find_rates(book, spec.provider, spec.model_id, end.date(), spec.price),
    )


def _take(database: duckdb.DuckDBPyConnection, ids: list[str]) -> pa.Table:
    database.register("wanted", pa.table({"interaction_id": ids, "place": range(len(ids))}))
    taken: pa.Table = database.sql(_TAKE).to_arrow_table()
    return taken.drop_columns(["place"])


def send(path: Driver, candidate: Release, inputs: Inputs, policy: ShadowPolicy) -> Sent:
    """Send the inputs to the candidate itself, past the traffic plan; the requests count as nobody's.

    Args:
        path: The data path.
        candidate: Who is asked.
        inputs: What is asked.
        policy: How fast, how long, for how much.
    """
    meter = _Meter(inputs.rates, policy)

    def ask(text: str) -> Answer | None:
        if not meter.take():
            return None
        answer = path.probe(candidate, text, policy.timeout_s)
        meter.count(answer)
        return answer

    texts = inputs.calls["input_text"].to_pylist()
    with ThreadPoolExecutor(max_workers=policy.concurrency) as pool:
        answers = list(pool.map(ask, texts))
    # Turns are taken in the order of the inputs, so what is missing is at the end.
    sent = tuple(answer for answer in answers if answer is not None)
    return Sent(answers=sent, cost_pusd=meter.spent_pusd if meter.is_priced else None, stopped=meter.stopped)


@dataclass(slots=True)
class _Meter:
    """Lets requests begin at a rate, until the budget is used up or nobody answers."""

    rates: tuple[Rate, ...]
    policy: ShadowPolicy
    spent_pusd: int = 0
    is_priced: bool = True
    stopped: str = ""
    _silent: int = 0
    _next_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        """Wait for the next turn; no turn comes once the replay is stopped."""
        with self._lock:
            if self.stopped:
                return False
            turn = max(self._next_at, time.monotonic())
            self._next_at = turn + 1 / self.policy.rate_per_s
            time.sleep(max(0.0, turn - time.monotonic()))
            return True

    def count(self, answer: Answer) -> None:
        """Count what an answer cost."""
        with self._lock:
            cost = cost_pusd(self.rates, answer.input_tokens, answer.output_tokens)
            self.is_priced = self.is_priced and (cost is not None or answer.status != _OK)
            self.spent_pusd += cost or 0
            self._silent = self._silent + 1 if answer.status == 0 else 0
            limit = self.policy.max_cost_usd
            if limit is not None and Decimal(self.spent_pusd) >= limit * PUSD_PER_USD:
                self.stopped = f"the budget of {limit:f} USD is used up"
            elif self._silent >= _PATIENCE:
                self.stopped = f"no answer came {_PATIENCE} times in a row"


def compare_answers(inputs: Inputs, sent: Sent, policy: ShadowPolicy) -> Compared:
    """Score both answers with the same judge, each by the passage it rests on, and compare them pair by pair.

    Where the candidate tells no passage, its answer is judged by the one on record, and ``passage_share`` is allowed
    for: at most the share of the traffic for which that is so.
    """
    calls, weights = inputs.calls.slice(0, len(sent.answers)), inputs.drawn.weights[: len(sent.answers)]
    unknown = np.array([answer.context is None and answer.status == _OK for answer in sent.answers], dtype=np.bool_)
    share = float(weights[unknown].sum() / weights.sum()) if len(weights) else 0.0
    policy = policy.model_copy(update={"passage_share": min(policy.passage_share, share)})
    logged = _scored(calls, calls["output_text"].to_pylist())
    candidate = _scored(_as_calls(calls, sent, inputs.rates), [answer.text for answer in sent.answers])
    outcomes = experiment_outcomes(inputs.candidate.spec.monitors.latency_ms)
    effects = compare_pairs(logged, candidate, weights, outcomes, policy)
    losses = np.nan_to_num(pair_differences(logged, candidate, [o for o in outcomes if o.name in policy.decides]))
    worst = [at for at in np.argsort(-losses, kind="stable")[:_LOST].tolist() if losses[at] > 0]
    return Compared(
        effects=effects,
        latency_ms=(_median(logged["latency_ms"]), _median(candidate["latency_ms"])),
        own_passages=sum(answer.context is not None for answer in sent.answers),
        lost=tuple(calls["interaction_id"][at].as_py() for at in worst),
    )


def _as_calls(calls: pa.Table, sent: Sent, rates: tuple[Rate, ...]) -> pa.Table:
    """Return the candidate's answers as the log would have them; whatever is no answer is the candidate's failure."""
    good = [answer.status == _OK and not answer.error for answer in sent.answers]
    costs = [cost_pusd(rates, answer.input_tokens, answer.output_tokens) for answer in sent.answers]
    on_record = calls["context_text"].to_pylist()
    passages = [
        own if (own := answer.context) is not None else old for answer, old in zip(sent.answers, on_record, strict=True)
    ]
    return pa.table(
        {
            "interaction_id": calls["interaction_id"],
            "unit": calls["unit"],
            "status": pa.array([_OK if fine else _FAILED for fine in good], pa.int32()),
            "error_type": pa.array([None if fine else "Failed" for fine in good], pa.string()),
            "latency_ms": pa.array([answer.latency_ms for answer in sent.answers], pa.float64()),
            "input_text": calls["input_text"],
            "context_text": pa.array(passages, pa.string()),
            "cost_pusd": pa.array(costs, pa.float64()),
        }
    )


def _scored(calls: pa.Table, answers: list[str | None]) -> pa.Table:
    questions, contexts = (calls[name].to_pylist() for name in ("input_text", "context_text"))
    quality, toxicity = score_quality(questions, answers, contexts), score_toxicity(answers)
    return calls.append_column("quality", pa.array(quality)).append_column("toxicity", pa.array(toxicity))


def _median(latencies: pa.ChunkedArray) -> float:
    known = numbers(latencies)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if len(known) else float("nan")
