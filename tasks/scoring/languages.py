"""Which language a text is in: by its script, and among languages in Latin letters by their commonest words.

It answers only when it is sure: ``MIN_WORDS`` words at least, ``MIN_SHARE`` of them common words of one language,
``MIN_DIFFERENT`` different ones, and ``MARGIN`` times as many as of the next. Names, code, lists of numbers and mixed
texts have no answer. A language that is not listed is either unknown or taken for a relative of it, as Norwegian is
for Danish.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Final

MIN_WORDS: Final = 6
MIN_SHARE: Final = 0.2
MARGIN: Final = 1.3
MIN_DIFFERENT: Final = 3
_MOST_CHARS: Final = 2000
"""As much of a text is read: the language shows in its beginning."""
_WORD: Final = re.compile(r"[^\W\d_]+")
_COMMON: Final = {
    "en": "the of and to in is that it for was on are as with his they at be this have from or had by not but what "
    "all were we when your can there an which their if will how about who its would has been you do did where",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus "
    "er hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber "
    "vor zur bis ich",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont la avec "
    "son mais comme ou si leur y elle nous vous cette aux ses d l ont été être fait je qu c",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me si "
    "sin sobre este ya entre cuando todo esta ser son dos también fue había era muy hasta desde está",
    "it": "di e il la che in un a per è una sono mi ho si lo ma ti ha le i con non del da al come più della anche "
    "nel alla dei delle gli questo nella era se ci suo essere dal cui dell l o",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à "
    "seu sua ou ser quando muito há nos já está eu também só pelo pela até isso ela são você",
    "nl": "de en het van ik te dat die in een hij is niet zijn op aan met als voor had er maar om hem dan zou of "
    "wat mijn dit zo door over ze zich bij ook tot je uit der naar heeft hebben deze wordt worden",
    "sv": "och i att det som en på är av för med till den har de inte om ett han men var jag sig från vi så kan man "
    "när år under också efter eller nu sin där vid mot ska skulle kommer ut får finns vara",
    "da": "og i at det er en til af på for med der den de ikke har som et om var han men jeg fra vi kan sig så blev "
    "når ved også efter eller nu sin hvor mod skal være bliver hun havde hvad ud blive år",
    "pl": "i w nie na się z do to że jest o jak za od po co tak ale dla jego przez był tylko są jej oraz może już "
    "ich być tym może który która które przy czy ze lub",
    "cs": "a se v na je že s z do o k i to jako za by ale si po jeho od jsem byl tak jen který která které podle "
    "při jsou není nebo až už pro ve také",
    "tr": "ve bir bu da de için ile çok ne daha gibi olarak en var olan ama kadar sonra her o mi ben değil ya "
    "olduğu olduğunu veya ki",
    "id": "yang dan di untuk dengan ini dari itu dalam adalah pada tidak akan ke ada juga atau oleh saya bisa "
    "sebagai anda mereka kami telah dapat karena lebih",
}
_LANGUAGES_OF: Final[dict[str, tuple[str, ...]]] = {}
for _language, _words in _COMMON.items():
    for _word in {_word for _word in _words.split() if len(_word) > 1}:  # a letter alone is a variable or a grade
        _LANGUAGES_OF[_word] = (*_LANGUAGES_OF.get(_word, ()), _language)
_SCRIPTS: Final = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
    "HANGUL": "ko",
    "GREEK": "el",
    "HEBREW": "he",
    "THAI": "th",
    "DEVANAGARI": "hi",
    "ARABIC": "ar",
    "CYRILLIC": "ru",
}
_FAMILIES: Final = {
    "ar": ("ar", "fa", "ur"),
    "ru": ("ru", "uk", "bg", "sr"),
    "hi": ("hi", "mr", "ne"),
    "zh": ("zh", "ja"),
}
LANGUAGES: Final = tuple(sorted({*_COMMON, *_SCRIPTS.values()}))
"""What can be answered; Cyrillic, Arabic and Devanagari are each one, whatever language is written in them."""
_MIN_LETTERS: Final = 8
_LETTERS: Final = 400
_LAST_LATIN: Final = 0x24F
_MIXED: Final = 4
"""Less than one foreign letter in so many is a name in a Latin text."""


def detect_language(text: str | None) -> str | None:
    """Return the language of a text as its two letters, one of ``LANGUAGES``; None where it is not sure."""
    if not text:
        return None
    head = text[:_MOST_CHARS]
    if not head.isascii() and (script := _detect_script(head)) is not None:
        return script or None
    words = _WORD.findall(head.lower())
    if len(words) < MIN_WORDS:
        return None
    counts = Counter(language for word in words for language in _LANGUAGES_OF.get(word, ()))
    ranked = counts.most_common(2)
    if not ranked or ranked[0][1] < MIN_SHARE * len(words):
        return None
    if sum(ranked[0][0] in _LANGUAGES_OF.get(word, ()) for word in set(words)) < MIN_DIFFERENT:
        return None
    return ranked[0][0] if len(ranked) == 1 or ranked[0][1] >= MARGIN * ranked[1][1] else None


def same_language(one: str, other: str) -> bool:
    """Return whether two languages may be the same: as tags such as ``de-AT``, or as one script of several."""
    first, second = (re.split(r"[-_]", tag.lower())[0] for tag in (one, other))
    return first == second or any(first in family and second in family for family in _FAMILIES.values())


def is_tag(language: str) -> bool:
    """Return whether ``detect_language`` can tell the language of a tag from others."""
    main = re.split(r"[-_]", language.lower())[0]
    return main in LANGUAGES or any(main in family for family in _FAMILIES.values())


def _detect_script(text: str) -> str | None:
    """Return the language of most letters' script, empty where scripts are mixed, None where it is Latin."""
    letters = [letter for letter in text if letter.isalpha()][:_LETTERS]
    foreign = [letter for letter in letters if ord(letter) > _LAST_LATIN]
    if len(foreign) * _MIXED < len(letters):
        return None
    scripts = Counter(_SCRIPTS.get(unicodedata.name(letter, "").split(" ")[0], "") for letter in foreign)
    if scripts["ja"] * 10 > len(foreign):
        return "ja"  # Japanese is mostly written in Chinese signs, and its own letters are a part
    (language, count), *_ = scripts.most_common(1)
    return language if len(foreign) >= _MIN_LETTERS and count * 2 > len(letters) else ""
