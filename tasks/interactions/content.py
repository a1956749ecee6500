"""How much of what was said is kept: nothing, a digest of it, or all of it but personal data and secrets."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, Literal

from tasks.interactions.redaction import Redactor
from tasks.interactions.schema import Interaction
from tasks.interactions.sources.values import text_sha256

Policy = Literal["off", "hash", "full"]
POLICIES: Final[tuple[Policy, ...]] = ("off", "hash", "full")
_TEXTS: Final = ("input_text", "context_text", "output_text")
_DIGESTS: Final = {"input_text": "input_sha256", "output_text": "output_sha256"}
_WORDS: Final = ("error_type", "finish_reason", "route")
_LONGEST_WORD: Final = 200


def apply(interaction: Interaction, policy: Policy, redactor: Redactor) -> Interaction:
    """Return an interaction as it may be stored; see ``apply_counted``."""
    return apply_counted(interaction, policy, redactor)[0]


def apply_counted(interaction: Interaction, policy: Policy, redactor: Redactor) -> tuple[Interaction, Counter[str]]:
    """Return an interaction as it may be stored, and how much of each kind was taken out of it.

    ``off`` keeps no text, ``hash`` the digests of question and answer, ``full`` the texts. Whatever the policy, tags
    and words for errors are redacted, and a user's id that is personal itself, such as an address, becomes its digest.

    Args:
        interaction: As it was read.
        policy: One of ``POLICIES``.
        redactor: What is taken out; a digest is of the text without it, so that no secret can be guessed from it.

    Raises:
        InputError: A hook of the redactor failed.
    """
    counts: Counter[str] = Counter()
    changes: dict[str, Any] = {}
    for name in _TEXTS:
        changes |= _text_changes(name, getattr(interaction, name), policy, redactor, counts)
    for name in _WORDS:
        word = getattr(interaction, name)
        if word is not None:
            changes[name] = _redacted(word, redactor, counts)[:_LONGEST_WORD] or None
    if interaction.tags:
        kept = (_redacted(tag, redactor, counts)[:_LONGEST_WORD] for tag in interaction.tags)
        changes["tags"] = tuple(sorted({tag for tag in kept if tag})) or None
    if interaction.unit is not None and _redacted(interaction.unit, redactor, counts) != interaction.unit:
        changes["unit"] = text_sha256(interaction.unit)
    return interaction.model_copy(update=changes), counts


def _text_changes(
    name: str, text: str | None, policy: Policy, redactor: Redactor, counts: Counter[str]
) -> dict[str, Any]:
    if text is None or policy == "off":
        return {name: None}
    redacted = _redacted(text, redactor, counts)
    if policy == "full":
        return {name: redacted}
    digest = {_DIGESTS[name]: text_sha256(redacted)} if name in _DIGESTS else {}
    return {name: None} | digest


def _redacted(text: str, redactor: Redactor, counts: Counter[str]) -> str:
    found = redactor.redact(text)
    counts.update(found.counts)
    return found.text
