"""Figures of the scores that need no judge, and what scoring costs: one row a claim.

Run it with ``python tests/bench/bench_quality.py``. The data are public sets that are not part of the repository; a row
whose set is not there says so. ``DELIVERY_TEST_DATA`` names their folder. A minute and a half on two cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tasks.judging.agreement import estimate_mean, estimate_with_labels
from tasks.scoring.check_rules import make_rules
from tasks.scoring.checks import CHECKS, Answers, run_checks
from tasks.scoring.quality import score_quality, score_support
from tasks.scoring.scorers import Row, ScorerSpec, load_scorer, run_scorer
from tasks.scoring.toxicity import score_profanity, score_toxicity

ROOT = Path(__file__).resolve().parents[2]
FEW, MANY, DIRECT = 10, 60, 3000
MIN_BEGIN, MIN_TOXICITY, MIN_TEXTS_PER_CPU_S, MIN_RATIO = 0.94, 0.84, 10_000, 100
SIMULATIONS, LABELS, JUDGED = 1000, 150, 1500


@dataclass(frozen=True)
class Figure:
    """One row of the table; ``ok`` is None where nothing was claimed."""

    claim: str
    figure: str
    ok: bool | None = None


def data_file(name: str) -> Path | None:
    """Return a public set, None where it is not here."""
    given = os.environ.get("DELIVERY_TEST_DATA")
    folders = [Path(given)] if given else [folder / "shared" / "data" for folder in ROOT.parents]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def area(bad: np.ndarray, score: np.ndarray) -> float:
    """Return the AUC of a score that is high for bad answers."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(bad, score))


def per_cpu_second(texts: int, work: Callable[[], object], least_s: float = 1.0) -> float:
    """Return how many texts a CPU-second scores, the best of three."""
    work()
    best = 0.0
    for _ in range(3):
        rounds, start = 0, time.process_time()
        while time.process_time() - start < least_s:
            work()
            rounds += 1
        best = max(best, rounds * texts / (time.process_time() - start))
    return best


def count_words(texts: pd.Series[str]) -> np.ndarray:
    """Return the number of words of each text."""
    return np.array([len(text.split()) for text in texts])


def match_lengths(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return as many right as wrong answers of every number of words, so that length says nothing."""
    words = count_words(frame["answer"])
    source, chosen = np.random.default_rng(seed), []
    for _, group in frame.groupby(words):
        right, wrong = group.index[group["label"] == 0], group.index[group["label"] == 1]
        size = min(len(right), len(wrong))
        chosen += [*source.choice(right, size, replace=False), *source.choice(wrong, size, replace=False)]
    return frame.loc[chosen]


def support_figures() -> Iterator[Figure]:
    """Lexical support on dialogue and on questions, with what length alone says."""
    if (path := data_file("grounded/begin_dev.parquet")) is not None:
        begin = pd.read_parquet(path)
        begin = begin[begin["label"].notna()]
        score = np.nan_to_num(score_support(begin["answer"].tolist(), begin["context"].tolist()))
        found = area(begin["label"].astype(int).to_numpy(), -score)
        floor = area(begin["label"].astype(int).to_numpy(), count_words(begin["answer"]))
        text = f"{found:.3f} (n={len(begin)}; length alone {max(floor, 1 - floor):.3f})"
        yield Figure("AUC of support on BEGIN dev", text, found >= MIN_BEGIN)
    if (path := data_file("grounded/halueval_qa.parquet")) is None:
        yield Figure("support", "the public sets are not here; set DELIVERY_TEST_DATA")
        return
    frame = pd.read_parquet(path)
    for name, part in (("all", frame), ("length-matched", match_lengths(frame))):
        score = score_support(part["answer"].tolist(), part["context"].tolist())
        known, bad = ~np.isnan(score), part["label"].astype(int).to_numpy()
        length = area(bad, count_words(part["answer"]))
        text = f"{area(bad[known], -score[known]):.3f} (n={known.sum()}; length alone {length:.3f})"
        yield Figure(f"AUC of support on HaluEval QA, {name}", text)
    columns = [frame[name].tolist() for name in ("question", "answer", "context")]
    speed = per_cpu_second(len(frame), lambda: score_support(columns[1], columns[2]))
    yield Figure("support, texts a CPU-second", f"{speed:,.0f}", speed >= MIN_TEXTS_PER_CPU_S)
    speed = per_cpu_second(len(frame), lambda: score_quality(*columns))
    yield Figure("quality support-1 (support and relevance), texts a CPU-second", f"{speed:,.0f}")


def toxicity_figures() -> Iterator[Figure]:
    """Toxicity on OpenAI's moderation set, in all and by kind."""
    if (path := data_file("toxicity/openai_moderation.parquet")) is None:
        yield Figure("toxicity", "the public sets are not here; set DELIVERY_TEST_DATA")
        return
    frame = pd.read_parquet(path)
    texts, flagged = frame["text"].tolist(), frame["flagged"].astype(int).to_numpy()
    score = score_toxicity(texts)
    found = area(flagged, score)
    yield Figure("AUC of toxicity on OpenAI moderation", f"{found:.3f} (n={len(frame)})", found >= MIN_TOXICITY)
    yield Figure("the same, alt-profanity-check alone", f"{area(flagged, score_profanity(texts)):.3f}")
    for column, kind in (("S", "sexual"), ("H", "hate"), ("V", "violence"), ("HR", "harassment"), ("SH", "self-harm")):
        of_kind = frame[column].fillna(0).astype(int).to_numpy() == 1
        part = of_kind | (flagged == 0)
        yield Figure(f"the same, {kind} against clean", f"{area(of_kind[part], score[part]):.3f} (n={of_kind.sum()})")
    counted = score >= 0.5
    yield Figure("counted as toxic: of the flagged, of the clean",
                 f"{counted[flagged == 1].mean():.1%}, {counted[flagged == 0].mean():.1%}")  # fmt: skip
    size = frame["text"].str.len().mean()
    speed = per_cpu_second(len(texts), lambda: score_toxicity(texts))
    yield Figure(
        f"toxicity, texts of {size:.0f} characters a CPU-second", f"{speed:,.0f}", speed >= MIN_TEXTS_PER_CPU_S
    )


def check_figures() -> Iterator[Figure]:
    """How often the checks fail on ordinary answers of a model, and what they cost."""
    if (path := data_file("outputs/arena_hard_v01.parquet")) is None:
        return
    frame = pd.read_parquet(path)
    frame = frame[frame["output"].notna()]
    nothing: list[str | None] = [None] * len(frame)
    answers = Answers(
        questions=frame["prompt"].tolist(), responses=frame["output"].tolist(), contexts=nothing,
        finish_reasons=["stop"] * len(frame), languages=nothing,
    )  # fmt: skip
    rules = make_rules(
        "You are a helpful assistant and you answer every question of the user as well as you can, always."
    )
    found = run_checks(answers, rules)
    failed = ", ".join(
        f"{name} {np.mean(states[states < 2] == 1):.1%}" for name, states in found.items() if (states < 2).any()
    )
    yield Figure(f"checks that fail on Arena-Hard answers (n={len(frame)})", failed)
    speed = per_cpu_second(len(frame), lambda: run_checks(answers, rules))
    size = frame["output"].str.len().mean()
    yield Figure(f"all {len(CHECKS)} checks, answers of {size:.0f} characters a CPU-second", f"{speed:,.0f}")


def interval_figures(seed: int = 11) -> Iterator[Figure]:
    """How often intervals at 95 % hold the truth when the judge is 0.1 too kind."""
    source, truth = np.random.default_rng(seed), 4 / 6
    hits, widths = np.zeros(3), np.zeros(2)
    for _ in range(SIMULATIONS):
        quality = source.beta(4, 2, JUDGED)
        people = (source.random(JUDGED) < quality).astype(np.float64)
        judge = np.clip(quality + 0.1 + source.normal(0, 0.1, JUDGED), 0, 1)
        labelled = np.where(np.arange(JUDGED) < LABELS, people, np.nan)
        found = (estimate_with_labels(judge, labelled), estimate_mean(labelled), estimate_mean(judge))
        hits += [one is not None and one.low <= truth <= one.high for one in found]
        widths += [one.high - one.low for one in found[:2] if one is not None]
    both, labels, alone = hits / SIMULATIONS
    names = f"judge of {JUDGED} answers and {LABELS} labels"
    yield Figure(f"95 % interval holds the truth: {names}", f"{both:.1%}", 0.93 <= both <= 0.97)
    yield Figure("the same: labels alone; judge alone", f"{labels:.1%}; {alone:.1%}")
    yield Figure("width, of that of the labels alone", f"{widths[0] / widths[1]:.2f}")


MODULE = """
from mlflow.genai.scorers import scorer

@scorer
def overlap(inputs, outputs):
    asked = set(inputs["question"].lower().split())
    return len(asked.intersection(outputs.lower().split())) / max(len(asked), 1)
"""
HARNESS = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import mlflow, pandas as pd
from bench_scorer import overlap
mlflow.set_tracking_uri("sqlite:///bench.db")
def run(rows):
    data = pd.DataFrame({"inputs": [{"question": f"Where is place {at}?"} for at in range(rows)],
                         "outputs": [f"Place {at} is in Delhi." for at in range(rows)]})
    start = time.process_time()
    mlflow.genai.evaluate(data=data, scorers=[overlap])
    return time.process_time() - start
first, few, many = run(2), run(FEW), run(MANY)
print(json.dumps([first, few, many]))
"""


def harness_figures() -> Iterator[Figure]:
    """The same code scorer through ``mlflow.genai.evaluate``, and called by us."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bench_scorer.py").write_text(MODULE, encoding="utf-8")
        code = HARNESS.replace("FEW", str(FEW)).replace("MANY", str(MANY))
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PYTHONPATH": folder}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=os.environ | quiet, capture_output=True, text=True,
            check=False, timeout=600,
        )  # fmt: skip
        if done.returncode:
            yield Figure("mlflow.genai.evaluate", f"did not run: {done.stderr.strip().splitlines()[-1:]}", ok=False)
            return
        first, few, many = json.loads(done.stdout.strip().splitlines()[-1])
        sys.path.append(folder)
        scorer = load_scorer(ScorerSpec(name="overlap", path="bench_scorer:overlap"))
        rows = [
            Row(inputs={"question": f"Where is place {at}?"}, outputs=f"Place {at} is in Delhi.")
            for at in range(DIRECT)
        ]
        ours = 1 / per_cpu_second(DIRECT, lambda: run_scorer(scorer, rows))
    theirs = (many - few) / (MANY - FEW)
    text = f"{1000 * theirs:.1f} ms and {1000 * ours:.3f} ms: {theirs / ours:,.0f} times"
    yield Figure("CPU a further row, mlflow.genai.evaluate and ours", text, theirs / ours >= MIN_RATIO)
    yield Figure("CPU of its first call with 2 rows", f"{first:.1f} s")


def main() -> int:
    """Print the figures; 1 where a claim does not hold."""
    parts = (support_figures, toxicity_figures, check_figures, interval_figures, harness_figures)
    figures = []
    for part in parts:
        for figure in part():
            mark = {None: "", True: "holds", False: "DOES NOT HOLD"}[figure.ok]
            print(f"| {figure.claim} | {figure.figure} | {mark} |", flush=True)  # noqa: T201
            figures.append(figure)
    return int(any(figure.ok is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
