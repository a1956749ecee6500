from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drift_quality import sessions

from tasks.drift.columns import Scan, SegmentLevel
from tasks.drift.moved import explain_change, find_examples, find_terms, lean_of_segments
from tasks.drift.sketch import TextSketch, compare_sketches, merge_sketches
from tasks.drift.text import (
    TextRule,
    Texts,
    TextShift,
    compare_texts,
    compare_vectors,
    keep_units,
    shorten,
)
from tasks.errors import InputError
from tasks.monitors.verdict import Outcome

DataFile = Callable[[str], Path]
Corpus = dict[str, list[str]]
BOILERPLATE = "Let me know if there is anything else."


@pytest.fixture(scope="module")
def corpus(data_file: DataFile) -> Corpus:
    frame = pd.read_parquet(data_file("drift/prompts.parquet"))
    found = {str(source): rows["text"].tolist() for source, rows in frame.groupby("source")}
    for split in ("train", "test"):
        found[f"gsm8k {split}"] = frame[(frame["source"] == "gsm8k") & (frame["split"] == split)]["text"].tolist()
    return found


def side(texts: Sequence[str | None], name: str, units: Sequence[str] | None = None) -> Texts:
    names = [f"{name}{at}" for at in range(len(texts))]
    return Texts(texts=texts, units=units or names, ids=[f"id-{unit}" for unit in names])


def compare(old: Sequence[str], new: Sequence[str], **rule: float) -> TextShift:
    return compare_texts("questions", side(new, "new"), side(old, "old"), TextRule(**rule))  # type: ignore[arg-type]


def sketches(old: Sequence[str], new: Sequence[str]) -> tuple[TextSketch, TextSketch]:
    return TextSketch.of("answers", side(new, "new")), TextSketch.of("answers", side(old, "old"))


def mixed(texts: Sequence[str], other: Sequence[str], share: float, n: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(6)
    drawn = [texts[at] for at in rng.permutation(len(texts))[: 2 * n]]
    count = int(share * n)
    return drawn[:n], [*(other[at] for at in rng.integers(0, len(other), count)), *drawn[n + count :]]


def test_the_known_pairs_without_drift(corpus: Corpus) -> None:
    train = corpus["gsm8k train"][:3000]
    quiet = compare(train[::2], train[1::2])
    assert quiet.effect.outcome is Outcome.PASS
    assert quiet.auc.low < 0.5 < quiet.auc.high
    assert quiet.effect.statement.startswith("questions ")
    close = compare(train, corpus["gsm8k test"])
    assert close.effect.outcome is not Outcome.FAIL
    assert close.auc.value < 0.54


@pytest.mark.parametrize(
    ("old", "new"),
    [("gsm8k", "humaneval"), ("gsm8k", "pandalm"), ("halueval_general", "arena_hard_v0.1")],
)
def test_the_known_pairs_with_drift(corpus: Corpus, old: str, new: str) -> None:
    found = compare(corpus[old][:2000], corpus[new])
    assert found.effect.outcome is Outcome.FAIL
    assert found.auc.low > 0.9
    assert found.p_value == 1 / 200
    assert compare_sketches(*sketches(corpus[old][:2000], corpus[new])).outcome is Outcome.FAIL


@pytest.mark.parametrize(("other", "share", "n"), [("humaneval", 0.1, 2000), ("arena_hard_v0.1", 0.3, 500)])
def test_a_part_of_other_texts_is_found_at_its_size(corpus: Corpus, other: str, share: float, n: int) -> None:
    found = compare(*mixed(corpus["gsm8k train"], corpus[other], share, n))
    assert found.effect.outcome is Outcome.FAIL
    assert found.effect.value == pytest.approx(share, abs=0.03)
    assert found.effect.low < share < found.effect.high


def test_an_ordered_file_is_measured(corpus: Corpus) -> None:
    texts = corpus["halueval_general"]
    half = len(texts) // 2
    assert 0.6 < compare(texts[:half], texts[half:]).auc.value < 0.75


@pytest.mark.parametrize(
    ("change", "lowest"),
    [
        (lambda text: f"{text} {BOILERPLATE}", 0.99),
        (str.upper, 0.99),
        (lambda text: text.replace(" is ", " is not ").replace(" has ", " has not "), 0.7),
    ],
    ids=["boilerplate", "upper case", "negation"],
)
def test_what_stop_words_hide_is_seen(corpus: Corpus, change: Callable[[str], str], lowest: float) -> None:
    texts = corpus["gsm8k train"][:1600]
    old, new = texts[:800], [change(text) for text in texts[800:]]
    found = compare(old, new)
    assert found.effect.outcome is Outcome.FAIL
    assert found.auc.value > lowest
    assert compare_sketches(*sketches(old, new)).outcome is Outcome.FAIL


def test_texts_of_one_session_are_alike_and_raise_no_alarm(corpus: Corpus) -> None:
    rng, certain, failed, rounds = np.random.default_rng(7), 0, 0, 25
    naive = 0
    for at in range(rounds):
        new, old = (sessions(rng, corpus["gsm8k train"], 80, name) for name in "no")
        found = compare_texts("x", new, old, TextRule(level=0.05, permutations=39, seed=at))
        certain += found.p_value <= 0.05
        failed += found.effect.outcome is Outcome.FAIL
        if at < 3:
            rows = (Texts(texts=part.texts, units=part.ids, ids=part.ids) for part in (new, old))
            one, two = (
                Texts(texts=part.texts, units=[f"{name}{unit}" for unit in part.units], ids=part.ids)
                for part, name in zip(rows, "no", strict=True)
            )
            naive += compare_texts("x", one, two, TextRule(level=0.05, permutations=39)).effect.outcome is Outcome.FAIL
    assert failed <= 0.05 * rounds
    assert certain <= 0.2 * rounds
    assert naive == 3, "rows taken for independent would alarm every time"


def test_users_who_come_back_are_on_one_side_of_a_split(corpus: Corpus) -> None:
    texts = corpus["halueval_general"][:400]
    users = [f"u{at}" for at in range(400)]
    tonight = side(texts, "new", users)
    found = compare_texts("x", tonight, side(texts, "old", users))
    assert found.effect.outcome is Outcome.PASS
    assert (found.units, found.units_baseline) == (400, 400)


def test_few_units_say_nothing_however_many_texts(corpus: Corpus) -> None:
    texts = corpus["humaneval"]
    few = side(texts, "new", [f"u{at % 20}" for at in range(len(texts))])
    found = compare_texts("answers", few, side(corpus["pandalm"], "old"))
    assert found.effect.outcome is Outcome.INCONCLUSIVE
    assert found.effect.statement == "answers: 20 users or sessions < minimum 30 (n=164, baseline n=170)"
    nothing = compare_texts("answers", side([None] * 5, "new"), side(texts, "old"))
    assert nothing.effect.statement == "answers: 0 users or sessions < minimum 30 (n=0, baseline n=164)"


def test_embeddings_are_compared_in_the_same_way() -> None:
    rng = np.random.default_rng(8)
    sides = side([""] * 300, "new"), side([""] * 300, "old")
    old, new = rng.normal(size=(300, 16)), rng.normal(size=(300, 16))
    assert compare_vectors("x", (new, old), sides).effect.outcome is Outcome.PASS
    new[:, 3] += 1.0
    assert compare_vectors("x", (new, old), sides).effect.outcome is Outcome.FAIL


def test_a_comparison_is_the_same_each_time_and_a_long_text_is_read_at_both_ends(corpus: Corpus) -> None:
    old, new = corpus["pandalm"], corpus["humaneval"]
    once, again = compare(old, new, seed=4), compare(old, new, seed=4)
    assert (once.effect, once.p_value, once.scores.tolist()) == (again.effect, again.p_value, again.scores.tolist())
    assert shorten("a" * 5000 + "end").endswith("end")
    assert len(shorten("a" * 5000)) == 2001
    assert shorten("short") == "short"


def test_a_sample_of_units_is_found_again() -> None:
    texts = side([f"text {at}" for at in range(500)], "x", [f"u{at % 50}" for at in range(500)])
    kept = keep_units(texts, 10, "faq v1")
    assert kept == keep_units(texts, 10, "faq v1")
    assert (len(set(kept.units)), len(kept.texts), len(kept.ids)) == (10, 100, 100)
    assert keep_units(texts, 10, "faq v2") != kept
    assert keep_units(texts, 500, "x") == texts


def test_a_sketch_is_small_merges_and_stays_quiet(corpus: Corpus) -> None:
    train = corpus["gsm8k train"]
    rng = np.random.default_rng(9)
    for _ in range(5):
        drawn = [train[at] for at in rng.permutation(len(train))[:2000]]
        assert compare_sketches(*sketches(drawn[:1000], drawn[1000:])).outcome is Outcome.PASS
    whole = TextSketch.of("answers", side(train[:1000], "a"))
    parts = [TextSketch.of("answers", side(train[rows], str(rows.start))) for rows in (slice(0, 300), slice(300, 1000))]
    (merged,) = merge_sketches(parts[:1], parts[1:])
    assert np.abs(merged.read() - whole.read()).max() < 0.01
    assert (merged.texts, merged.units, len(whole.shares)) == (1000, 1000, 1280)
    assert TextSketch.of("answers", side([], "a")).units == 0
    with pytest.raises(InputError, match="sketches: 'answers' is not allowed; allowed: questions"):
        merge_sketches([TextSketch(column="questions", texts=0, units=0, shares="")], parts[:1])
    with pytest.raises(InputError, match="sketch of x: '0 bytes' is not allowed; allowed: 1024 bytes in base 85"):
        TextSketch(column="x", texts=1, units=1, shares="not base 85 \x00").read()


def test_what_moved_is_named_without_repeating_anybody(corpus: Corpus) -> None:
    texts = corpus["gsm8k train"][:600]
    old = side(texts[:300], "old")
    new = [f"{text} {BOILERPLATE}" for text in texts[300:]]
    new[0] += " alice@example.org"
    new[1:5] = [f"{text} zyzzyva" for text in new[1:5]]
    current = side(new, "new")
    terms = find_terms(current, old, most=2000)
    assert {"Let me", "me know", "anything else"} <= {term.term for term in terms[:20]}
    assert terms[0].share == 1.0
    assert terms[0].units == 300
    assert not {"alice", "zyzzyva"} & {term.term for term in terms}, "fewer than five users wrote it"
    assert min(max(term.units, term.units_baseline) for term in terms) >= 5
    shift = compare_texts("answers", current, old)
    examples = find_examples(shift.scores, current, most=3)
    assert len(set(examples)) == 3
    assert set(examples) <= set(current.ids)
    assert find_terms(side([], "a"), old) == ()


def test_the_segment_with_the_new_texts_leans(corpus: Corpus) -> None:
    old, new = mixed(corpus["gsm8k train"], corpus["humaneval"], 0.1, 500)
    shift = compare(old, new)
    routes = ["code" if at < 50 else "chat" for at in range(500)]
    first = lean_of_segments(shift.scores, routes)[0]
    assert (first.value, first.share) == ("code", 0.1)
    assert first.share_newest > 0.7
    assert lean_of_segments(shift.scores, [None] * 500) == ()


def level(value: str, n: int, mean: float) -> SegmentLevel:
    return SegmentLevel(dimension="model", value=value, column="latency_ms", n=n, log_sum=n * mean)


def test_parts_of_a_change_add_up() -> None:
    before = Scan(segments=(level("a", 800, 6.0), level("b", 200, 7.0)))
    slower = Scan(segments=(level("a", 800, 6.0), level("b", 200, 8.0)))
    first, second = explain_change(slower, before, "latency_ms", "model")
    assert first.value == "b"
    assert [first.explained, first.mix] == pytest.approx([1.0, 0.0])
    assert second.explained == pytest.approx(0.0)
    moved = Scan(segments=(level("a", 500, 6.0), level("b", 400, 7.0), level("c", 100, 9.0)))
    parts = explain_change(moved, before, "latency_ms", "model")
    assert sum(part.within + part.mix for part in parts) == pytest.approx(6.7 - 6.2)
    assert sum(part.explained for part in parts) == pytest.approx(1)
    assert {part.within for part in parts} == {0.0}
    assert parts[0].value == "c"
    with pytest.raises(InputError, match="dimension: 'route' is not allowed; allowed: model"):
        explain_change(moved, before, "latency_ms", "route")
