"""Personal data and secrets taken out of texts before anything is stored.

Each rule passes over a text once and replaces what it finds by its kind in brackets; what is left in place of it can
be found by no rule, so that a text redacted twice is one redacted once. No pattern has a repetition within another
that could match the same characters, so the time grows with the length of the text alone.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.errors import InputError
from tasks.interactions.numbers import find_cards, find_ibans, is_phone

Rule = Callable[[str], tuple[str, int]]
Hook = Callable[[str], str]
_FEWEST_DIGITS: Final = 7
_SURE_LETTERS: Final = 20
"""A word this long behind ``Bearer`` or ``password:`` is a secret even without a digit; shorter ones may be prose."""

_EMAIL: Final = re.compile(r"[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?!\w)")
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    r"(?s:.*?-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|.*)"
)
_TOKENS: Final = re.compile(
    r"(?<![\w-])(?:"
    r"eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]*+)?"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}(?!\w)"
    r"|gh[pousr]_\w{20,}+|github_pat_\w{20,}+|glpat-[\w-]{16,}+|xox[abeoprs]-[\w-]{10,}+"
    r"|AIza[\w-]{30,}+|hf_\w{20,}+|npm_\w{30,}+"
    r")"
)
_PREFIXED: Final = re.compile(r"(?<![\w-])()(?:sk|rk|pk)[-_]([\w-]{16,}+)")
_BEARER: Final = re.compile(r"(?<!\w)((?i:bearer|basic)[ \t]{1,3})([\w.~+/=-]{8,}+)")
_ASSIGNED: Final = re.compile(
    r"((?i:api[_-]?key|secret|token|passw(?:or)?d|access[_-]?key)[\"']?\s{0,3}[:=]\s{0,3}[\"']?)([^\s\"',;\[\]]{8,}+)"
)
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s@:\[\]]{1,100}:[^/\s@\[\]]{1,200}(?=@)")
# What begins with a sign looks at nothing before it: what stands there may be taken out by then.
_PHONE: Final = re.compile(
    r"\+[1-9](?:[ .()/-]{0,3}[0-9]){6,14}(?!\w)"
    r"|(?:(?<![\w.-])(?:1[ .-])?[0-9]{3}[ .-]|(?:(?<![\w.-])1[ .-])?\([0-9]{3}\) ?)[0-9]{3}[ .-][0-9]{4}(?![\w-])"
    r"|(?:(?<![\w.,:/-])0|\(0)[0-9]{1,5}\)?(?:[ /-]{1,3}[0-9]{2,8}){1,5}(?![\w:/-]|\.[0-9])"
)


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without what was found in it, and how much of each kind was."""

    text: str
    counts: Counter[str]


@dataclass(frozen=True, slots=True)
class Redactor:
    """What is taken out of texts.

    Attributes:
        rules: Kinds of ``RULES``, in the order in which they pass.
        hooks: Functions of the team's own, which pass after the rules.
    """

    rules: tuple[str, ...]
    hooks: tuple[tuple[str, Hook], ...] = ()

    def redact(self, text: str) -> Redacted:
        """Take out of a text what the rules and hooks find.

        Raises:
            InputError: A hook failed or gave no text; the text must not be stored then.
        """
        counts: Counter[str] = Counter()
        for kind in self.rules:
            text, found = RULES[kind](text)
            counts[kind] += found
        for name, hook in self.hooks:
            before, text = text, _hooked(name, hook, text)
            counts["hook"] += before != text
        return Redacted(text, +counts)


def make_redactor(rules: Sequence[str] | None = None, hooks: Sequence[str] = ()) -> Redactor:
    """Return a redactor.

    Args:
        rules: Kinds of ``RULES``; all of them without it.
        hooks: Functions from text to text, as ``module:function``.

    Raises:
        InputError: A rule is none, or a hook cannot be loaded.
    """
    for rule in rules or ():
        if rule not in RULES:
            raise InputError.of("redaction rule", rule, RULES)
    chosen = tuple(RULES) if rules is None else tuple(kind for kind in RULES if kind in rules)
    return Redactor(chosen, tuple((name, load_hook(name)) for name in hooks))


def load_hook(name: str) -> Hook:
    """Return the function that ``module:function`` names.

    Raises:
        InputError: There is no such module or function.
    """
    module, _, function = name.partition(":")
    if not module or not function.isidentifier():
        raise InputError.of("redaction hook", name, "module:function")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"redaction hook {name!r} cannot be loaded: {type(error).__name__}; check its name") from error
    if not callable(found):
        raise InputError(f"redaction hook {name!r} is no function; give one that takes and returns a text")
    hook: Hook = found
    return hook


def _hooked(name: str, hook: Hook, text: str) -> str:
    try:
        changed = hook(text)
    except Exception as error:  # noqa: BLE001 - whatever the team's own code raises
        # Its message may repeat the text, so only its type is told.
        raise InputError(f"redaction hook {name!r} failed with {type(error).__name__}; nothing is stored") from None
    if not isinstance(changed, str):
        raise InputError(f"redaction hook {name!r} returned {type(changed).__name__}; it must return a text")
    return changed


def _emails(text: str) -> tuple[str, int]:
    return _EMAIL.subn("[email]", text) if "@" in text else (text, 0)


def _keys(text: str) -> tuple[str, int]:
    total = 0
    for pattern in (_PEM, _CREDENTIALS, _TOKENS) if "://" in text else (_PEM, _TOKENS):
        text, found = pattern.subn("[key]", text)
        total += found
    for pattern in (_PREFIXED, _BEARER, _ASSIGNED) if ":" in text or "=" in text else (_PREFIXED, _BEARER):
        text, found = _replaced(pattern, text, lambda match: f"{match[1]}[key]" if _is_secret(match[2]) else None)
        total += found
    return text, total


def _has_number(text: str) -> bool:
    """Tell whether a text has as many digits as the shortest number that is looked for; most have not."""
    return sum(map(text.count, "0123456789")) >= _FEWEST_DIGITS


def _is_secret(word: str) -> bool:
    return any(letter.isdigit() for letter in word) or (len(word) >= _SURE_LETTERS and "-" not in word)


def _phones(text: str) -> tuple[str, int]:
    if not _has_number(text):
        return text, 0
    return _replaced(_PHONE, text, lambda match: "[phone]" if is_phone(match[0]) else None)


def _replaced(pattern: re.Pattern[str], text: str, instead: Callable[[re.Match[str]], str | None]) -> tuple[str, int]:
    found = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal found
        changed = instead(match)
        found += changed is not None
        return match[0] if changed is None else changed

    return pattern.sub(replace, text), found


def _spans(find: Callable[[str], list[tuple[int, int]]], kind: str) -> Rule:
    def rule(text: str) -> tuple[str, int]:
        found = find(text) if _has_number(text) else []
        if not found:
            return text, 0
        pieces, at = [], 0
        for start, end in found:
            pieces += [text[at:start], f"[{kind}]"]
            at = end
        return "".join([*pieces, text[at:]]), len(found)

    return rule


RULES: Final[dict[str, Rule]] = {
    "key": _keys,
    "email": _emails,
    "iban": _spans(find_ibans, "iban"),
    "card": _spans(find_cards, "card"),
    "phone": _phones,
}
"""The rules by their kinds; keys go first, because they hold digits that look like other things."""
