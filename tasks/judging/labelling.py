"""What people's labels of an application's answers come to: a calibration of the quality, and who agrees with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.errors import InputError, NotFoundError
from tasks.judging.judge import Material, find_known, judge_answers
from tasks.judging.night import join_texts
from tasks.judging.opening import open_judge, open_judge_stores
from tasks.judging.plan import JudgePlan
from tasks.scoring.calibration import Calibration, calibrate
from tasks.scoring.check_rules import Rules, make_rules
from tasks.scoring.checks import Answers, Found, run_checks
from tasks.scoring.extra import read_evaluation_file
from tasks.scoring.people import (
    AGREEMENTS,
    CALIBRATIONS,
    QUALITY,
    Agreement,
    agreement_row,
    calibration_row,
    compare_labels,
)
from tasks.scoring.quality import score_quality
from tasks.scoring.reading import Score
from tasks.scoring.slices import LOOKED_AT, rules_of
from tasks.settings import Settings
from tasks.stores.lake import Lake
from tasks.stores.registry import Registry

GOOD: Final = 0.5
"""From this score on, 0 to 1, an answer counts as good; a judge's threshold is one of its mean, not of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels of an application's answers.

    Attributes:
        application: Whose answers.
        good: Whether people call each good, by interaction id.
        since, until: When the calls were made, half open, UTC.
    """

    application: str
    good: Mapping[str, bool]
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What labels came to.

    Attributes:
        calibration: Of the quality.
        agreements: Of the quality, the checks and the judges.
        found: Labelled answers that are in the lake.
    """

    calibration: Calibration
    agreements: tuple[Agreement, ...]
    found: int

    @property
    def lines(self) -> tuple[str, ...]:
        """What people are told."""
        curve = self.calibration
        brier = (
            f"Brier {curve.brier:.3f} +- {curve.brier_se:.3f} on held-out labels, {curve.base_brier:.3f} for one word"
        )
        span = f"scores {curve.grid[0]:.2g} to {curve.grid[-1]:.2g}"
        use = "applied from the next evaluation on" if curve.helps else "no better than one word for all: NOT applied"
        return (
            f"{curve.score}: {curve.kind} curve of {curve.labels} labels, {curve.positives} good; {brier}; {use}",
            f"digest {curve.digest}; valid for answers like those labelled, {span}",
            *(f"agreement of {one.name}: {one.statement}" for one in self.agreements),
        )


def learn_from(config: Settings, labels: Labels, name: str, now: datetime, *, ask: bool, seed: int = 0) -> Labelled:
    """Calibrate an application's quality by labels, measure who agrees with them, and keep both in the lake.

    Args:
        config: Where things are.
        labels: 50 to 200 labels, of answers drawn at random.
        name: What the calibration is called; one of the same name is replaced.
        now: UTC.
        ask: Ask judges about labelled answers that they have not seen, within their budgets; else only what they said
            before counts.
        seed: For the folds and the resampling.

    Raises:
        InputError: Fewer than 50 labelled answers have a quality, or too few of one kind.
    """
    lake, rows = Lake(config.lake_dir), _load(config, labels)
    good = [labels.good[one] for one in rows["interaction_id"].to_pylist()]
    texts = (rows[column].to_pylist() for column in ("input_text", "output_text", "context_text"))
    quality = score_quality(*texts)
    try:
        curve = calibrate(QUALITY, quality, good, seed)
    except InputError as error:
        known = int(np.count_nonzero(~np.isnan(quality)))
        raise InputError(
            f"{error}; {len(labels.good)} labels were given, {rows.num_rows} of them are of answers of "
            f"{labels.application} from {labels.since:%Y-%m-%d} to {labels.until:%Y-%m-%d}, {known} of those have a "
            "quality"
        ) from None
    agreements = (_of_quality(curve, quality, good), *_of_checks(config, labels.application, rows, good))
    agreements += tuple(_of_judges(config, labels.application, rows, good, now, ask=ask))
    keys = {"application": labels.application}
    lake.replace(
        CALIBRATIONS,
        {**keys, "name": name, "score": QUALITY},
        calibration_row(labels.application, name, curve, now),
    )
    for one in agreements:
        lake.replace(AGREEMENTS, {**keys, "name": one.name}, agreement_row(labels.application, one, now))
    return Labelled(calibration=curve, agreements=agreements, found=rows.num_rows)


def _load(config: Settings, labels: Labels) -> pa.Table:
    wanted = pa.table({"interaction_id": pa.array(sorted(labels.good), pa.string())})
    columns = ", ".join(f"interactions.{name}" for name in LOOKED_AT)
    sql = f"SELECT {columns} FROM interactions JOIN wanted USING (interaction_id) ORDER BY ALL"  # noqa: S608 - own names
    with Lake(config.lake_dir).query(labels.since, labels.until, labels.application) as connection:
        connection.register("wanted", wanted)
        return connection.sql(sql).to_arrow_table()


def _of_quality(curve: Calibration, quality: NDArray[np.float64], good: Sequence[bool]) -> Agreement:
    chance = curve.apply(quality)
    said = [None if np.isnan(one) else bool(one >= GOOD) for one in chance]
    return compare_labels("quality", curve.digest, said, good)


def _of_checks(config: Settings, application: str, rows: pa.Table, good: Sequence[bool]) -> list[Agreement]:
    """Return whether what fails a check is what people call bad; each release has rules of its own."""
    said: dict[str, dict[str, bool | None]] = {}
    words = {Found.PASS: True, Found.FAIL: False}
    digests = pc.fill_null(rows["release_digest"], "")
    for digest in pc.unique(digests).to_pylist():
        part = rows.filter(pc.equal(digests, digest))
        ids = part["interaction_id"].to_pylist()
        for name, states in run_checks(Answers.of(part), _rules(config, application, digest)).items():
            found = (words.get(Found(one)) for one in states.tolist())
            said.setdefault(name, {}).update(zip(ids, found, strict=True))
    order = rows["interaction_id"].to_pylist()
    return [compare_labels(f"check:{name}", "", [found[one] for one in order], good) for name, found in said.items()]


def _rules(config: Settings, application: str, digest: str) -> Rules:
    try:
        return rules_of(Registry(config.mlflow_url).find(application, digest))[0]
    except NotFoundError:
        return make_rules(None)


def _of_judges(
    config: Settings, application: str, rows: pa.Table, good: Sequence[bool], now: datetime, *, ask: bool
) -> Iterator[Agreement]:
    materials = join_texts(rows)
    order = [materials[one] for one in rows["interaction_id"].to_pylist()]
    for plan in read_evaluation_file(config.state_dir).judges:
        if plan.is_for(application):
            try:
                scores = _ask(config, plan, application, order, now) if ask else _look_up(config, plan, order)
            except InputError as error:
                name, words = f"judge:{plan.judge.name}", f"it was not asked: {error}"
                yield Agreement(name=name, identity=plan.judge.digest, kappa=None, statement=words, n=0)
                continue
            said = [None if one is None or one.value is None else one.value >= GOOD for one in scores]
            yield compare_labels(f"judge:{plan.judge.name}", plan.judge.digest, said, good)


def _look_up(config: Settings, plan: JudgePlan, order: Sequence[Material]) -> Sequence[Score | None]:
    with open_judge_stores(config) as (cache, _):
        return find_known(plan.judge, cache, order)


def _ask(
    config: Settings, plan: JudgePlan, application: str, order: Sequence[Material], now: datetime
) -> Sequence[Score | None]:
    with open_judge(config, plan, f"{application} labels {now:%Y-%m-%d}", now) as judge:
        return judge_answers(judge, order)
