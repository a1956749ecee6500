"""Texts of a window beside those of a baseline: what decides, what is a remark, and what moved."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from flow_stage import DAY, START

from tasks.drift.findings import Drift
from tasks.drift.sample import Sample, draw_sample, sampled_window
from tasks.drift.text import TextRule
from tasks.drift.wording import Old, hold_texts, ordinary_share, sketch_texts
from tasks.interactions.schema import Interaction, as_table, rejected_table
from tasks.monitors.verdict import Check, Outcome
from tasks.stores.lake import Lake

LEVEL = 0.001
SAID = "the parcel came late and box was wet so please send another one to my new address in town soon when it is paid"
WORDS = SAID.split()
TOPICS = ("invoice amount tax", "train ticket seat", "dog food vet", "", "rain sun wind snow", "bread milk rice tea")


def sentence(source: np.random.Generator, topic: str = "") -> str:
    return " ".join(source.choice([*WORDS, *topic.split()], 12))


def told(night: int, source: np.random.Generator, users: int = 120, **more: object) -> list[Interaction]:
    topic = str(more.pop("topic", ""))
    return [
        Interaction(
            interaction_id=f"{night}-{at}",
            application="faq",
            release_digest="d" * 64,
            time=START + night * DAY + timedelta(minutes=at),
            unit=f"u{at}",
            unit_kind="user",
            route="chat",
            input_text=sentence(source, topic),
            output_text=sentence(source),
            status=200,
        ).model_copy(update=more)
        for at in range(users)
    ]


def keep(lake: Lake, name: str, calls: list[Interaction]) -> None:
    lake.append(name, expected=0, offset=1, interactions=as_table(calls), rejected=rejected_table("none", [], START))


def drawn(lake: Lake, first: int, nights: int = 1, units: int = 3000, salt: str = "s") -> Sample:
    start, end = sampled_window(START + first * DAY, START + (first + nights) * DAY)
    with lake.query(start, end, "faq") as connection:
        return draw_sample(connection, "d" * 64, salt, units)


def check_of(drift: Drift, monitor: str) -> Check:
    return next(check for check in drift.checks if check.monitor == monitor)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Return five ordinary nights (0 to 4), and nights 5 to 9 that are each their own."""
    lake, source = Lake(tmp_path_factory.mktemp("wording") / "lake"), np.random.default_rng(11)
    keep(lake, "quiet", [call for night in range(5) for call in told(night, source)])
    keep(lake, "same", told(5, source))
    loud = told(6, source)
    changed = [
        call.model_copy(update={"output_text": f"{call.output_text} Happy to help!", "route": "code"})
        if at % 2 == 0
        else call
        for at, call in enumerate(loud)
    ]
    keep(lake, "loud", changed)
    keep(lake, "off", told(7, source, input_text=None, output_text=None))
    heavy = [call.model_copy(update={"unit": "one"}) for call in told(8, source)]
    keep(lake, "heavy", heavy)
    keep(lake, "few", told(9, source, users=20))
    return lake


def test_a_sample_is_of_whole_users_a_few_texts_each_and_is_found_again(lake: Lake) -> None:
    first, again = drawn(lake, 0, 5, units=40), drawn(lake, 0, 5, units=40)
    assert first.rows.equals(again.rows)
    assert first.calls == 600
    who = first.rows["who"].to_pylist()
    assert (len(set(who)), len(who)) == (40, 40 * 5)
    assert [len(texts.texts) for texts in first.nights("answer text").values()] == [40] * 5
    assert len(first.texts("answer text").texts) == 40, "one text a user"
    assert set(drawn(lake, 5, units=40).rows["who"].to_pylist()) == set(who), "who comes back is in tonight's sample"
    assert set(drawn(lake, 0, 5, units=40, salt="t").rows["who"].to_pylist()) != set(who)
    assert drawn(lake, 8).rows.num_rows == 1, "a heavy user is one opinion"
    assert drawn(lake, 7).rows.num_rows == 0
    assert sampled_window(START, START + 28 * DAY) == (START + 21 * DAY, START + 28 * DAY)


def test_an_ordinary_night_passes_and_a_sentence_on_half_of_the_answers_fails(lake: Lake) -> None:
    old = Old(sample=drawn(lake, 0, 5), is_named=True)
    quiet = hold_texts(drawn(lake, 5), old, LEVEL)
    assert [(check.monitor, check.outcome) for check in quiet.checks] == [
        ("drift:question text", Outcome.PASS),
        ("drift:answer text", Outcome.PASS),
    ]
    assert quiet.moved == ()
    loud = hold_texts(drawn(lake, 6), old, LEVEL)
    assert check_of(loud, "drift:question text").outcome is Outcome.PASS
    found = check_of(loud, "drift:answer text")
    assert found.outcome is Outcome.FAIL
    assert found.value == pytest.approx(0.5, abs=0.15)
    assert found.n == 120
    (moved,) = loud.moved
    assert {"Happy", "Happy to", "help !"} & {term.term for term in moved.terms}
    assert {int(one.split("-")[1]) % 2 for one in moved.examples} == {0}
    assert [(dimension, leaning.value) for dimension, leaning in moved.leanings] == [("route", "code")]


def test_where_the_texts_are_gone_the_sketches_are_asked(lake: Lake) -> None:
    sketches, gone = sketch_texts(drawn(lake, 0, 5)), drawn(lake, 7)
    old = Old(sample=gone, sketches=sketches, is_named=True)
    assert {check.outcome for check in hold_texts(drawn(lake, 5), old, LEVEL).checks} == {Outcome.PASS}
    found = check_of(hold_texts(drawn(lake, 6), old, LEVEL), "drift:answer text")
    assert found.statement.startswith("drift: answer text terms ")
    assert found.outcome is not Outcome.PASS
    assert hold_texts(drawn(lake, 5), Old(sample=gone, is_named=True), LEVEL).remarks == tuple(
        f"The baseline's {column} is gone and it has no sketch of it, so nothing is said about it."
        for column in ("question text", "answer text")
    )
    off = hold_texts(gone, Old(sample=gone), LEVEL)
    assert off.checks == ()
    assert off.remarks[0] == "No question text is kept, so nothing is said about its wording."


def test_too_few_users_are_inconclusive_beside_a_named_baseline_and_a_remark_beside_another(lake: Lake) -> None:
    texts = drawn(lake, 0, 5)
    named = hold_texts(drawn(lake, 9), Old(sample=texts, is_named=True), LEVEL)
    assert [check.outcome for check in named.checks] == [Outcome.INCONCLUSIVE] * 2
    assert named.checks[0].statement == "drift: question text: 20 users or sessions < minimum 30 (n=20, baseline n=120)"
    unnamed = hold_texts(drawn(lake, 9), Old(sample=texts), LEVEL)
    assert unnamed.checks == ()
    assert unnamed.remarks[0].endswith("(n=20, baseline n=120); nothing is said about its wording.")


def test_answers_of_another_release_are_told_and_do_not_decide(lake: Lake) -> None:
    found = hold_texts(drawn(lake, 6), Old(sample=drawn(lake, 0, 5), decides=False), LEVEL)
    assert [check.monitor for check in found.checks] == ["drift:question text"]
    assert found.remarks[0].endswith("these are another release's answers, so it does not decide.")
    assert [moved.column for moved in found.moved] == ["answer text"]


def test_a_night_is_held_against_what_ordinary_nights_are_to_each_other(tmp_path: Path) -> None:
    lake, source = Lake(tmp_path / "lake"), np.random.default_rng(12)
    for night, topic in enumerate(TOPICS):
        keep(lake, f"n{night}", told(night, source, topic=topic))
    rule = TextRule(level=LEVEL)
    restless = drawn(lake, 0, 5)
    bound = ordinary_share(restless.nights("question text"), rule)
    assert bound is not None
    assert bound > 0.3
    found = check_of(hold_texts(drawn(lake, 5), Old(sample=restless, is_named=True), LEVEL), "drift:question text")
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.statement.endswith(f", but ordinary nights reach {bound:.1%}") or "cannot be told" in found.statement
    assert ordinary_share(drawn(lake, 0, 3).nights("question text"), rule) is None
    three = Old(sample=drawn(lake, 0, 3), is_named=True)
    assert check_of(hold_texts(drawn(lake, 5), three, LEVEL), "drift:question text").limit == pytest.approx(0.2)
