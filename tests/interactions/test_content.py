"""How much of an interaction is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

import pytest

from tasks.interactions.content import POLICIES, Policy, apply, apply_counted
from tasks.interactions.redaction import make_redactor
from tasks.interactions.schema import Interaction

REDACTOR = make_redactor()
CALL = Interaction(
    interaction_id="i",
    application="a",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    status=500,
    input_text="I am ann@example.org",
    context_text="call +4915112345678",
    output_text="hello",
    error_type="failed for ann@example.org",
    tags=("from=ann@example.org", "b=1"),
    unit="ann@example.org",
    unit_kind="user",
)


@pytest.mark.parametrize(
    ("policy", "texts"),
    [("off", (None, None, None)), ("hash", (None, None, None)), ("full", ("I am [email]", "call [phone]", "hello"))],
)
def test_texts_are_kept_as_the_policy_says(policy: Policy, texts: tuple[str | None, ...]) -> None:
    kept = apply(CALL, policy, REDACTOR)

    assert (kept.input_text, kept.context_text, kept.output_text) == texts
    digests = (sha256(b"I am [email]").hexdigest(), sha256(b"hello").hexdigest()) if policy == "hash" else (None, None)
    assert (kept.input_sha256, kept.output_sha256) == digests


@pytest.mark.parametrize("policy", POLICIES)
def test_words_tags_and_users_are_redacted_whatever_the_policy(policy: Policy) -> None:
    kept = apply(CALL, policy, REDACTOR)

    assert kept.error_type == "failed for [email]"
    assert kept.tags == ("b=1", "from=[email]")
    assert (kept.unit, kept.unit_kind) == (sha256(b"ann@example.org").hexdigest(), "user")
    assert "ann@" not in kept.model_dump_json()
    assert Interaction.model_validate(kept.model_dump()) == kept


@pytest.mark.parametrize("policy", POLICIES)
def test_twice_is_once(policy: Policy) -> None:
    once = apply(CALL, policy, REDACTOR)

    assert apply(once, policy, REDACTOR) == once


def test_what_was_taken_out_is_counted() -> None:
    assert apply_counted(CALL, "full", REDACTOR)[1] == {"email": 4, "phone": 1}
    assert apply_counted(CALL, "off", REDACTOR)[1] == {"email": 3}


def test_a_call_without_texts_is_left_as_it_is() -> None:
    plain = Interaction(interaction_id="i", application="a", time=CALL.time, status=200, unit="u1", tags=("x=1",))

    assert apply(plain, "full", REDACTOR) == plain
