"""Labels of people: read strictly, compared, kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.errors import InputError
from tasks.scoring.calibration import calibrate
from tasks.scoring.labels import read_labels
from tasks.scoring.people import (
    QUALITY,
    agreement_row,
    calibration_row,
    compare_labels,
    latest_calibration,
    read_agreements,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_labels_are_words_truths_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = ['"good"', '"Bad"', "true", "false", "1", "0"]
    path.write_text("\n".join(f'{{"interaction_id": "i{at}", "label": {row}}}' for at, row in enumerate(rows)) + "\n\n")
    assert list(read_labels(path).values()) == [True, False] * 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"interaction_id": "b", "label": "meh"}',
            "label 2: 'meh' is not allowed; allowed: true, false, 1, 0, good, bad",
        ),
        ('{"interaction_id": "b", "label": 3}', "label 2: 3 is not allowed"),
        ('{"interaction_id": "a", "label": "bad"}', "label 2: a is good and bad; settle which, and keep one"),
        ('{"interaction_id": "b", "text": "the secret"}', "line 2: label: missing; give interaction_id, label"),
        ("the secret", "line 2: line: json_invalid; give interaction_id, label"),
    ],
)
def test_what_is_no_label_is_refused_without_repeating_it(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(f'{{"interaction_id": "a", "label": "good"}}\n{line}\n')
    with pytest.raises(InputError) as told:
        read_labels(path)
    assert message in str(told.value)
    assert "secret" not in str(told.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(FileNotFoundError\); give a file of JSON lines in UTF-8"):
        read_labels(tmp_path / "no.jsonl")


def test_agreement_is_beyond_chance_or_unknown() -> None:
    labels = [True, False] * 30
    same = compare_labels("judge:helpful", "d", labels, labels)
    assert same.statement == "kappa 1.000 [1.000, 1.000] (n=60)"
    always = compare_labels("check:empty", "", [True] * 60, labels)
    assert always.kappa is not None
    assert always.kappa.value == 0
    few = compare_labels("check:json", "", [None] * 50 + [True] * 10, labels)
    assert (few.kappa, few.statement) == (None, "10 labelled answers in common < minimum 20")
    alike = compare_labels("check:pii", "", [True] * 60, [True] * 60)
    assert (alike.kappa, alike.statement) == (None, "both say one and the same of all answers")
    rows = pa.concat_tables([agreement_row("faq", one, NOW) for one in (same, few)])
    assert read_agreements(rows)["judge:helpful", "d"] == same.statement
    assert read_agreements(None) == {}


def test_the_last_calibration_counts_and_one_that_was_changed_is_refused() -> None:
    source = np.random.default_rng(1)
    scores = source.random(100)
    curves = [calibrate(QUALITY, scores, [bool(one > at) for one in scores], seed=1) for at in (0.4, 0.6)]
    later = datetime(2026, 1, 3, tzinfo=UTC)
    rows = pa.concat_tables(
        [calibration_row("faq", "new", curves[1], later), calibration_row("faq", "old", curves[0], NOW)]
    )
    found = latest_calibration(rows)
    assert found is not None
    assert (found.name, found.calibration) == ("new", curves[1])
    assert latest_calibration(None) is None
    changed = rows.slice(0, 1).set_column(3, "digest", pa.array(["0" * 64]))
    with pytest.raises(InputError, match="calibration new: its digest is not that of its content; calibrate again"):
        latest_calibration(changed)
