"""Drift of texts: can a classifier tell tonight's texts from the baseline's?

Each user or session is one item: the mean of the features of its texts. So ten rows of one dialogue are one opinion,
and nobody's texts are on both sides of a split. Features are words, pairs of words and three letters in a row, hashed,
with case, punctuation, numbers and every common word kept: a sentence added to all answers, upper case and a negation
are all seen. The classifier weighs a feature by how much its share differs, in units of chance; it is fitted on one
half of the items and scores the other, both ways round. AUC is the chance that an item of tonight scores higher than
one of the baseline. A permutation draws the labels of the items anew and fits again, so its p-value,
(b + 1) / (m + 1), is valid whatever the fitting does.

The size of a change is the share of tonight's texts, above the baseline's, that the classifier recognises as new; AUC
is reported beside it. AUC alone would hide small groups: a tenth of wholly new texts is 0.55 at most.

References: Lopez-Paz & Oquab (2017), classifier two-sample tests; Phipson & Smyth (2010); DeLong et al. (1988).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from tasks.drift.classifier import (
    Interval,
    collapse_units,
    cross_fit,
    measure_auc,
    measure_share,
    permute_labels,
)
from tasks.drift.effects import BLIND, MIN_UNITS, Effect
from tasks.monitors.verdict import Outcome

WORDS: Final = r"\w+|[^\w\s]"
"""A word or number, or one sign: nothing but white space is left out."""
WORD_FEATURES: Final = 2**16
LETTER_FEATURES: Final = 2**15
KEPT_LETTERS: Final = 1000
"""Of a longer text the first and the last so many characters are read."""
BATCH: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The texts of one side.

    Attributes:
        texts: The texts; None is left out.
        units: Whose each is: a user or a session.
        ids: Its interaction.
    """

    texts: Sequence[str | None]
    units: Sequence[str]
    ids: Sequence[str]

    def known(self) -> Texts:
        """Return the texts that are there."""
        kept = [at for at, text in enumerate(self.texts) if text is not None]
        return Texts(
            texts=[self.texts[at] for at in kept],
            units=[self.units[at] for at in kept],
            ids=[self.ids[at] for at in kept],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRule:
    """How texts are compared.

    Attributes:
        least: The smallest share of texts that matters, 0 to 1; raise it to what your ordinary nights reach.
        level: The chance of a failure while nothing is wrong; also of each end of an interval, 0 to 1.
        permutations: How often labels are drawn; at least 1 / level - 1.
        seed: Makes folds and permutations the same each time.
    """

    least: float = 0.05
    level: float = 0.01
    permutations: int = 199
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShift:
    """How far two sets of texts are apart.

    Attributes:
        effect: The share of texts that changed, at least, with its interval, and what follows.
        auc: How well an item of the window is told from one of the baseline, 0.5 is not at all; with its interval.
        p_value: How often chance alone gives this AUC or more; 1 where nothing was compared.
        units, units_baseline: Users or sessions on both sides.
        scores: For each text of the window, how much it looks like tonight's; empty where nothing was compared.
    """

    effect: Effect
    auc: Interval
    p_value: float
    units: int
    units_baseline: int
    scores: NDArray[np.float64]


def compare_texts(column: str, current: Texts, baseline: Texts, rule: TextRule | None = None) -> TextShift:
    """Compare the texts of a window with those of a baseline.

    Args:
        column: Which texts they are, for the result.
        current: The window's; at most a few thousand units (``sample.draw_sample``).
        baseline: The baseline's.
        rule: How strictly.

    Returns:
        How far they are apart; inconclusive below ``MIN_UNITS`` units on a side.
    """
    rule, current, baseline = rule or TextRule(), current.known(), baseline.known()
    sizes = len(set(current.units)), len(set(baseline.units))
    if min(sizes) < MIN_UNITS:
        return _too_few(column, current, baseline, sizes, rule)
    rows = featurise([*current.texts, *baseline.texts])
    return compare_features(column, rows, current, baseline, rule)


def compare_vectors(
    column: str,
    vectors: tuple[NDArray[np.float64], NDArray[np.float64]],
    sides: tuple[Texts, Texts],
    rule: TextRule | None = None,
) -> TextShift:
    """Compare texts by their embeddings instead of their words.

    Args:
        column: Which texts they are, for the result.
        vectors: The embeddings of the window and of the baseline, a row a text.
        sides: The window and the baseline; only units and ids are read, and no text may be None.
        rule: How strictly.
    """
    from scipy import sparse

    (current, baseline), rule = sides, rule or TextRule()
    sizes = len(set(current.units)), len(set(baseline.units))
    if min(sizes) < MIN_UNITS:
        return _too_few(column, current, baseline, sizes, rule)
    return compare_features(column, sparse.csr_matrix(np.vstack(vectors)), current, baseline, rule)


def compare_features(column: str, rows: Any, current: Texts, baseline: Texts, rule: TextRule) -> TextShift:
    """Compare two sets of rows of features; see ``compare_texts``.

    Args:
        column: Which texts they are, for the result.
        rows: A sparse matrix, a row a text, the window's first.
        current: Units of the window.
        baseline: Units of the baseline.
        rule: How strictly.
    """
    items, item_of_row, names, labels = collapse_units(rows, current.units, baseline.units)
    folds = np.array([xxhash.xxh32_intdigest(name.encode(), rule.seed) % 2 for name in names])
    counts = int(labels.sum()), int((1 - labels).sum())
    if min(np.bincount(2 * folds + labels, minlength=4)) < MIN_UNITS // 4:
        return _too_few(column, current, baseline, counts, rule)
    all_scores, aucs = cross_fit(items, labels[:, None], folds)
    scores, p_value = all_scores[:, 0], _p_value(items, labels, folds, float(aucs[0]), rule)
    auc = measure_auc(scores, labels, folds, NormalDist().inv_cdf(1 - rule.level))
    share = measure_share(scores, labels, folds, rule.level)
    return TextShift(
        effect=_effect(column, share, auc, p_value, counts, rule),
        auc=auc,
        p_value=p_value,
        units=counts[0],
        units_baseline=counts[1],
        scores=scores[item_of_row[: len(current.units)]],
    )


def featurise(texts: Sequence[str | None]) -> Any:
    """Return the features of texts as a sparse matrix of 0 and 1, a row a text."""
    from scipy import sparse
    from sklearn.feature_extraction.text import HashingVectorizer

    common = {"lowercase": False, "binary": True, "norm": None, "alternate_sign": False, "dtype": np.float32}
    words = HashingVectorizer(token_pattern=WORDS, ngram_range=(1, 2), n_features=WORD_FEATURES, **common)
    letters = HashingVectorizer(analyzer="char", ngram_range=(3, 3), n_features=LETTER_FEATURES, **common)
    short = [shorten(text or "") for text in texts]
    return sparse.hstack([words.transform(short), letters.transform(short)], format="csr")


def shorten(text: str) -> str:
    """Return the first and the last part of a long text."""
    return text if len(text) <= 2 * KEPT_LETTERS else f"{text[:KEPT_LETTERS]}\n{text[-KEPT_LETTERS:]}"


def keep_units(texts: Texts, most: int, salt: str) -> Texts:
    """Return the texts of a sample of units; the same units and salt give the same sample.

    Args:
        texts: The texts.
        most: At most this many units.
        salt: Draws another sample.
    """
    order = {unit: xxhash.xxh64_intdigest(f"{salt}\0{unit}".encode()) for unit in set(texts.units)}
    kept = set(sorted(order, key=lambda unit: (order[unit], unit))[:most])
    at = [place for place, unit in enumerate(texts.units) if unit in kept]
    return Texts(
        texts=[texts.texts[place] for place in at],
        units=[texts.units[place] for place in at],
        ids=[texts.ids[place] for place in at],
    )


def _p_value(items: Any, labels: NDArray[np.int64], folds: NDArray[np.int64], auc: float, rule: TextRule) -> float:
    rng, as_far = np.random.default_rng(rule.seed), 0
    for start in range(0, rule.permutations, BATCH):
        size = min(BATCH, rule.permutations - start)
        shuffled = np.stack([permute_labels(labels, folds, rng) for _ in range(size)], axis=1)
        as_far += int(np.count_nonzero(cross_fit(items, shuffled, folds)[1] >= auc - 1e-12))
    return (as_far + 1) / (rule.permutations + 1)


def _effect(  # noqa: PLR0917 - what was measured, in the order it is told
    column: str, share: Interval, auc: Interval, p_value: float, counts: tuple[int, int], rule: TextRule
) -> Effect:
    is_real = p_value <= max(rule.level, 1 / (rule.permutations + 1))
    is_vague = share.high - share.low > BLIND * 2 * rule.least
    in_doubt = share.low > rule.least and not is_real
    outcome = Outcome.INCONCLUSIVE if is_vague or in_doubt else Outcome.PASS
    if is_real and share.value > rule.least:
        outcome = Outcome.FAIL if share.low > rule.least else Outcome.INCONCLUSIVE
    ending = {Outcome.FAIL: "wholly beyond", Outcome.INCONCLUSIVE: "cannot be told from"}
    statement = (
        f"{column} {share.value:.1%} [{share.low:.1%}, {share.high:.1%}] recognised as new, "
        f"{ending.get(outcome, 'not shown beyond')} {rule.least:.1%}; AUC {auc.value:.3f} "
        f"[{auc.low:.3f}, {auc.high:.3f}], p {p_value:.3g} (n={counts[0]} units, baseline n={counts[1]})"
    )
    return Effect(
        column=column,
        measure="texts",
        value=share.value,
        low=share.low,
        high=share.high,
        limit=rule.least,
        outcome=outcome,
        statement=statement,
        n=counts[0],
        n_baseline=counts[1],
    )


def _too_few(column: str, current: Texts, baseline: Texts, sizes: tuple[int, int], rule: TextRule) -> TextShift:
    statement = (
        f"{column}: {min(sizes)} users or sessions < minimum {MIN_UNITS} (n={len(current.texts)}, "
        f"baseline n={len(baseline.texts)})"
    )
    effect = Effect(
        column=column,
        measure="texts",
        value=0.0,
        low=0.0,
        high=1.0,
        limit=rule.least,
        outcome=Outcome.INCONCLUSIVE,
        statement=statement,
        n=sizes[0],
        n_baseline=sizes[1],
    )
    unknown = Interval(value=0.5, low=0.0, high=1.0)
    return TextShift(
        effect=effect, auc=unknown, p_value=1.0, units=sizes[0], units_baseline=sizes[1], scores=np.empty(0)
    )
