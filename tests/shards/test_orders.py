from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sample_release import URL, release_of

from tasks.errors import InputError
from tasks.interactions.gate import GatePolicy
from tasks.interactions.ingest import Job
from tasks.interactions.recipes import Recipe
from tasks.interactions.redaction import make_redactor
from tasks.scoring.extra import EvaluationSpec
from tasks.scoring.moderation import ToxicitySpec
from tasks.scoring.scorers import ScorerSpec
from tasks.scoring.slices import read_rules, rules_of
from tasks.settings import Settings
from tasks.shards.orders import (
    Declared,
    ScoringOrder,
    group_sources,
    order_key,
    plan_of_slices,
    read_order,
    write_order,
)
from tasks.shards.work import job_of, order_of

START = datetime(2026, 1, 2, tzinfo=UTC)
SCORING = ScoringOrder(
    application="faq",
    start=START,
    end=START + timedelta(hours=1),
    releases=(Declared(digest="a" * 64, prompt="Be brief.", parameters={"response_format": "text"}, answered=7),),
    plan=EvaluationSpec(scorers=(ScorerSpec(name="own", path="mine:score", arguments={"most": 3}),)),
)
WHOLE_PLAN = {
    "checks": {"empty": 0.1},
    "toxicity": {
        "source": "endpoint",
        "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m", "key_env": "MOD_KEY"},
    },
    "references": {"file": "wanted.jsonl"},
    "scorers": [{"name": "own", "path": "mine:score"}],
    "embeddings": {"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "e", "key_env": "EMBED_KEY"}},
    "replay": {"file": "replay.jsonl"},
}
LOGS = Path("/state/interactions")


def test_an_order_is_read_as_it_was_written_and_the_same_one_has_the_same_key() -> None:
    assert read_order(write_order(SCORING)) == SCORING
    assert order_key(SCORING) == order_key(read_order(write_order(SCORING)))
    assert order_key(SCORING) != order_key(SCORING.model_copy(update={"application": "bot"}))
    other = EvaluationSpec(toxicity=ToxicitySpec(source="profanity"), scorers=SCORING.plan.scorers)
    assert order_key(SCORING) != order_key(SCORING.model_copy(update={"plan": other}))
    assert SCORING.label == "score faq 2026-01-02T00:00/2026-01-02T01:00"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"kind": "other"}, "the whole"),
        ({"shards": 4}, "scoring.shards"),
        ({"releases": [{"digest": "a" * 64, "answered": -1}]}, "scoring.releases.0.answered"),
        ({"releases": [{"digest": "../x", "answered": 0}]}, "scoring.releases.0.digest"),
        ({"plan": {"scorer": []}}, "scoring.plan.scorer"),
        ({"command": "x"}, "scoring.command"),
        ({"start": "2026-01-02T00:00:00"}, "scoring.start"),
    ],
)
def test_what_is_no_order_is_refused_by_its_place_and_never_shown(change: dict[str, Any], place: str) -> None:
    text = SCORING.model_copy(update=change).model_dump_json(warnings=False)
    for extra in {"command", "shards"} & set(change):
        text = f'{text[:-1]},"{extra}":{json.dumps(change[extra])}}}'
    with pytest.raises(InputError, match=f"order of a shard: {place} is not allowed") as caught:
        read_order(text)
    assert "mine:score" not in str(caught.value)


def test_an_order_holds_what_slices_need_of_a_plan_and_the_name_of_a_key_never_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOD_KEY", "s3cret")
    plan = plan_of_slices(EvaluationSpec.model_validate(WHOLE_PLAN))
    text = write_order(SCORING.model_copy(update={"plan": plan}))
    assert "MOD_KEY" in text
    assert not [word for word in ("s3cret", "EMBED_KEY", "replay.jsonl", '"empty"') if word in text]
    assert read_order(text).plan == plan  # type: ignore[union-attr]


def test_a_release_declares_its_prompt_and_the_form_of_its_answers_and_no_more() -> None:
    asked = {"temperature": 0.5, "response_format": {"type": "json_object"}}
    release = release_of(endpoint=URL, text="Be brief.", parameters=asked)
    declared = Declared.of(release, 12)
    assert declared.answered == 12
    assert declared.parameters == {"response_format": {"type": "json_object"}}
    assert read_rules(declared.prompt, declared.parameters) == rules_of(release)


def test_a_job_survives_its_order(tmp_path: Path) -> None:
    config = Settings(state_dir=tmp_path)
    recipe = Recipe(form="openai", application="faq", content="hash", redactor=make_redactor())
    job = Job(recipe=recipe, final=True, dry_run=True, gate=GatePolicy(least_rows=7), pages=tmp_path / "data-docs")
    order = read_order(write_order(order_of([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], job)))
    assert order.label == "ingest a.jsonl and 1 more"
    again = job_of(order, config)  # type: ignore[arg-type]
    assert (again.recipe.form, again.recipe.application, again.recipe.content) == ("openai", "faq", "hash")
    assert again.recipe.redactor is not None
    assert (again.final, again.dry_run, again.gate, again.pages) == (True, True, job.gate, job.pages)


def test_files_go_together_up_to_a_size_and_one_may_be_more() -> None:
    sizes = {LOGS / name: size for name, size in (("a", 40), ("b", 60), ("c", 1), ("d", 500), ("e", 2))}
    groups = group_sources(sizes, LOGS, in_turn=False, most_bytes=100)
    assert [[path.name for path in group] for group in groups] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert group_sources({}, LOGS, in_turn=False, most_bytes=100) == ()


def test_files_that_are_held_against_earlier_ones_stay_together_by_application() -> None:
    paths = [LOGS / "faq" / "a", LOGS / "bot" / "x" / "b", LOGS / "faq" / "c", LOGS / "d", Path("/elsewhere/faq/e")]
    groups = group_sources(dict.fromkeys(paths, 10), LOGS, in_turn=True, most_bytes=1)
    assert groups == ((paths[0], paths[2]), (paths[1],), (paths[3], paths[4]))
