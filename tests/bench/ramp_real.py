"""Real outputs whose truth is known: judged answers, checked solutions, and published values of classical tests."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ramp_peers as peers
from numpy.typing import NDArray
from ramp_classical import find_paired_bounds, follow_paired_change, mann_whitney

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
BEST_SCORE = 10.0
CALLED = {"B_better": "better", "B_worse": "worse", "inconclusive": "no change"}

Numbers = NDArray[np.float64]
Row = tuple[str, str, str, str]


def load_json(name: str) -> Any:
    """Return conformance vectors."""
    return json.loads((DATA / "conformance" / name).read_text(encoding="utf-8"))


def load_csv(name: str) -> list[dict[str, str]]:
    """Return a table of truths."""
    with (DATA / "truth" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shuffle(names: list[str]) -> list[str]:
    """Return names in an order that knows nothing of what they stand for."""
    return sorted(names, key=lambda name: hashlib.blake2b(name.encode(), key=b"ramp").digest())


def wildbench_pairs() -> Iterator[tuple[str, Numbers]]:
    """Yield what the truth calls each pair of runs, and the paired differences in badness, in a shuffled order."""
    table = pq.read_table(DATA / "outputs" / "wildbench_scored.parquet", columns=["run", "session_id", "score"])
    scores: dict[str, dict[str, float]] = {}
    for row in table.to_pylist():
        if row["score"] is not None:
            scores.setdefault(row["run"], {})[row["session_id"]] = float(row["score"]) / BEST_SCORE
    for pair in load_csv("wildbench_pairs.csv"):
        first, second = scores[pair["baseline_A"]], scores[pair["candidate_B"]]
        common = shuffle(sorted(first.keys() & second.keys()))
        yield CALLED[pair["verdict_ci95"]], np.array([first[name] - second[name] for name in common])


def gsm8k_differences() -> Numbers:
    """Return the paired differences in badness of the verified solutions to the finetuned ones."""
    table = pq.read_table(DATA / "outputs" / "gsm8k_solutions.parquet", columns=["qid", "model", "is_correct"])
    right: dict[str, dict[str, float]] = {}
    for row in table.to_pylist():
        right.setdefault(row["model"], {})[str(row["qid"])] = float(row["is_correct"])
    first, second = right["6b_finetuning"], right["6b_verification"]
    return np.array([first[name] - second[name] for name in shuffle(sorted(first))])


def fixed_call(differences: Numbers) -> str:
    """Return what the 95 % interval of a fixed sample says."""
    low, high = find_paired_bounds(differences)
    return "worse" if low > 0 else "better" if high < 0 else "no change"


def bench_real(_: np.random.Generator) -> Iterator[Row]:
    """Known truths; nothing where the data are not there."""
    if not DATA.is_dir():
        yield "real outputs", "", "skipped: shared data not found beside the repository", ""
        return
    pairs = list(wildbench_pairs())
    for words, call in (("fixed n", fixed_call), ("sequential", lambda d: follow_paired_change(d).called())):
        calls = [(truth, call(differences)) for truth, differences in pairs]
        right = sum(truth == said for truth, said in calls)
        wrong = sum(said not in {truth, "no change"} for truth, said in calls)
        missed = len(calls) - right - wrong
        yield (
            "WildBench, 28 pairs",
            f"llm-delivery, {words}",
            f"{right} right, {missed} missed, {wrong} wrong",
            "0 wrong",
        )
    change = follow_paired_change(gsm8k_differences())
    said = f"{change.called()}, e-value 1e{change.better.log_peak / np.log(10):.0f}"
    yield "GSM8K, verification against finetuning", "llm-delivery, sequential", said, "better"
    for words, rule, cases, agrees in (
        ("Mann-Whitney of R", "llm-delivery", load_json("r_wilcox_mannwhitney.json"), agrees_with_r),
        ("Kayenta's own cases of this rule", "Kayenta, re-implemented", kayenta_cases(), agrees_with_kayenta),
    ):
        yield words, rule, f"{sum(map(agrees, cases))} of {len(cases)} agree", "all"


def agrees_with_r(case: dict[str, Any]) -> bool:
    """Return whether U and p are R's."""
    options = {"alternative": case["alternative"], "method": case["method"], "correct": case["use_continuity"]}
    u, p = mann_whitney(np.array(case["x"]), np.array(case["y"]), **options)
    return u == case["U"] and abs(p - case["p"]) < 1e-9


def kayenta_cases() -> list[dict[str, Any]]:
    """Return the cases without effect sizes: the rule that is compared."""
    cases = load_json("kayenta_classifier.json")
    plain = [case for case in cases if case["classifier"] == "MannWhitneyClassifier"]
    return [case for case in plain if set(case["params"]) <= {"tolerance", "confLevel"}]


def agrees_with_kayenta(case: dict[str, Any]) -> bool:
    """Return whether the class is Kayenta's."""
    said = peers.kayenta(
        np.array(case["control"], dtype=float),
        np.array(case["experiment"], dtype=float),
        tolerance=case["params"]["tolerance"],
        confidence=case["params"]["confLevel"],
        direction=case["direction"],
    )
    return said == case["expected"]
