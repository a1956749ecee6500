"""Numbers that name a person or an account: payment cards and IBANs by their check digits, telephone numbers."""

from __future__ import annotations

import re
from typing import Final

_RUN: Final = re.compile(r"(?<!\w)[0-9]++(?:[ \u00a0-][0-9]++)*+")
_GROUP: Final = re.compile(r"[0-9]+")
_CARD_DIGITS: Final = range(13, 20)
_CARD_FIRST: Final = "23456"
"""First digits of the card schemes; a time in milliseconds begins with 1."""
_SMALLEST_GROUP: Final = 3
_IBAN_HEAD: Final = re.compile(r"(?<!\w)[A-Z]{2}[0-9]{2}(?= ?[A-Z0-9])")
_IBAN_LENGTHS: Final = {
    15: "NO",
    16: "BE",
    18: "DK FO FI GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ XK LT LU",
    21: "CR HR LV LI CH",
    22: "BH BG GE DE IE ME RS GB VA",
    23: "AE GI IL IQ TL OM SO",
    24: "AD CZ MD PK RO SA SK ES SE TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "FR GR IT MR MC SM BI DJ",
    28: "AL AZ CY DO GT HU LB PL BY SV NI",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_LENGTH_OF: Final = {country: length for length, named in _IBAN_LENGTHS.items() for country in named.split()}
_DATES: Final = ((2, 2, 4), (2, 2, 2), (4, 2, 2), (2, 4))
_PHONE_DIGITS: Final = range(8, 16)


def luhn(digits: str) -> bool:
    """Tell whether the last of some digits is the check digit of the others.

    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)
    """
    doubled = (int(digit) * (1 + at % 2) for at, digit in enumerate(reversed(digits)))
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0  # noqa: PLR2004


def find_cards(text: str) -> list[tuple[int, int]]:
    """Return where the numbers of payment cards stand: 13 to 19 digits, whole or in groups, that check."""
    found: list[tuple[int, int]] = []
    for run in _RUN.finditer(text):
        groups = [(match.start(), match.end()) for match in _GROUP.finditer(text, run.start(), run.end())]
        if text[run.end() : run.end() + 1].isalnum() or text[run.end() : run.end() + 1] == "_":
            groups.pop()  # its last group is a part of a word
        # Behind a plus up to 15 digits are a telephone number.
        plus = text[run.start() - 1 : run.start()] == "+"
        found += _cards_among(text, groups, _PHONE_DIGITS.stop if plus else _CARD_DIGITS.start)
    return found


def find_ibans(text: str) -> list[tuple[int, int]]:
    """Return where IBANs stand: as long as their country has them, whole or in groups, with the right remainder."""
    found: list[tuple[int, int]] = []
    at = 0
    while match := _IBAN_HEAD.search(text, at):
        end = _iban_end(text, match.start())
        at = end or match.end()
        if end:
            found.append((match.start(), end))
    return found


def is_phone(match: str) -> bool:
    """Tell whether digits with separators are a telephone number and not a date or a number with a sign.

    >>> is_phone("+49 30 1234567"), is_phone("09-12-2024"), is_phone("+12.3456789")
    (True, False, False)
    """
    groups = [len(group) for group in _GROUP.findall(match)]
    if match.startswith("+"):
        return not re.fullmatch(r"\+[0-9]+\.[0-9]+", match)
    return sum(groups) in _PHONE_DIGITS and tuple(groups) not in _DATES


def _cards_among(text: str, groups: list[tuple[int, int]], least: int) -> list[tuple[int, int]]:
    found, first = [], 0
    while first < len(groups):
        last = _card_end(text, groups, first, _CARD_DIGITS.start if first else least)
        if last is None:
            first += 1
        else:
            found.append((groups[first][0], groups[last][1]))
            first = last + 1
    return found


def _card_end(text: str, groups: list[tuple[int, int]], first: int, least: int) -> int | None:
    """Return the last group of the card of at least so many digits that begins with a group; None where none does."""
    digits = ""
    if text[groups[first][0]] not in _CARD_FIRST:
        return None
    for at in range(first, len(groups)):
        start, end = groups[at]
        if len(digits) + end - start >= _CARD_DIGITS.stop or (end - start < _SMALLEST_GROUP):
            return None
        digits += text[start:end]
        if len(digits) >= least and luhn(digits):
            return at
    return None


def _iban_end(text: str, start: int) -> int | None:
    length, at, read = _LENGTH_OF.get(text[start : start + 2], 0), start, ""
    while len(read) < length:
        step = at + 1 if text[at : at + 1] == " " else at
        letter = text[step : step + 1]
        if not letter.isascii() or not (letter.isdigit() or letter.isupper()):
            return None
        read, at = read + letter, step + 1
    if not length or (text[at : at + 1].isalnum() or text[at : at + 1] == "_"):
        return None
    number = "".join(str(int(letter, 36)) for letter in read[4:] + read[:4])
    return at if int(number) % 97 == 1 else None
