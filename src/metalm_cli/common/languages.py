"""Languages and scripts: language codes, the likely language of texts, and the words of a text in any script."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

_CODES_BY_NAME = {
    "english": "en",
    "eng": "en",
    "chinese": "zh",
    "mandarin": "zh",
    "zho": "zh",
    "chi": "zh",
    "cmn": "zh",
    "cantonese": "zh",
    "yue": "zh",
    "japanese": "ja",
    "jpn": "ja",
    "thai": "th",
    "tha": "th",
    "lao": "lo",
    "khmer": "km",
    "khm": "km",
    "burmese": "my",
    "mya": "my",
    "bur": "my",
    "tibetan": "bo",
    "bod": "bo",
    "tib": "bo",
}
"""Codes of language names and three-letter codes, for the languages that metrics treat in their own way."""
_LANGUAGE_BY_SCRIPT = {
    "ARABIC": "ar",
    "BENGALI": "bn",
    "CJK": "zh",
    "CYRILLIC": "ru",
    "DEVANAGARI": "hi",
    "GREEK": "el",
    "HANGUL": "ko",
    "HEBREW": "he",
    "HIRAGANA": "ja",
    "IDEOGRAPHIC": "zh",
    "KATAKANA": "ja",
    "KHMER": "km",
    "LAO": "lo",
    "MYANMAR": "my",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
    "TIBETAN": "bo",
}
"""Most frequent language of each script other than the Latin one."""
_SCRIPTS_WITHOUT_SPACES = {"CJK", "HIRAGANA", "IDEOGRAPHIC", "KATAKANA", "KHMER", "LAO", "MYANMAR", "THAI", "TIBETAN"}
LANGUAGES_WITHOUT_SPACES = frozenset(_LANGUAGE_BY_SCRIPT[script] for script in _SCRIPTS_WITHOUT_SPACES)
"""Codes of languages that do not separate their words by spaces."""
UNDETERMINED = "und"
"""Code of an unknown language, such as one that is written in Latin letters with accents."""
_ACCENTED_SHARE = 0.005
"""Minimum share of accented letters in texts that are not English; they have about 0.0005 in English."""
_KANA_SHARE = 0.1
"""Minimum share of kana among the letters of Japanese texts; the rest is in Chinese characters."""


def language_code(language: str) -> str:
    """Return the code of a language, without its region and script.

    >>> language_code("en-GB"), language_code("Chinese"), language_code("zh_Hans"), language_code("pt")
    ('en', 'zh', 'zh', 'pt')
    """
    name = language.strip().lower().replace("_", "-").split("-")[0]
    return _CODES_BY_NAME.get(name, name)


def guess_language(texts: Iterable[str]) -> str | None:
    """Return the likely language of texts by their letters; None if they may be English.

    Texts in Latin letters with accents are in an :data:`UNDETERMINED` language.

    >>> guess_language(["Кошка спит", "ok"]), guess_language(["Die Katze schläft"]), guess_language(["the cat"])
    ('ru', 'und', None)
    """
    letters = Counter(char for text in texts for char in unicodedata.normalize("NFC", text) if char.isalpha())
    scripts: Counter[str] = Counter()
    for char, count in letters.items():
        scripts[_script(char)] += count
    total = scripts.total()
    if not total:
        return None
    kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
    if kana >= _KANA_SHARE * total and kana + scripts["CJK"] > total / 2:
        return "ja"
    script = scripts.most_common(1)[0][0]
    accented = sum(count for char, count in letters.items() if _script(char) == "LATIN" and not char.isascii())
    if script == "LATIN":
        return UNDETERMINED if accented >= _ACCENTED_SHARE * total else None
    return _LANGUAGE_BY_SCRIPT.get(script, UNDETERMINED)


def is_mostly_latin(text: str) -> bool:
    """Whether at least half of the letters of a text are Latin; also if it has no letters."""
    latin = [_script(char) == "LATIN" for char in text if char.isalpha()]
    return 2 * sum(latin) >= len(latin)


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words of letters, marks and digits, in any script.

    In scripts that do not separate words by spaces, each character with its marks is a word of its own.

    >>> split_words("L'été, Müller: 3 кошки"), split_words("2 猫")
    (['l', 'été', 'müller', '3', 'кошки'], ['2', '猫'])
    """
    words: list[str] = []
    is_open = False
    for char in unicodedata.normalize("NFC", text).lower():
        category = unicodedata.category(char)
        if category == "Cf":
            continue  # Invisible joiners stand within words.
        if category[0] == "M" and words and (is_open or _is_spaceless(words[-1][0])):
            words[-1] += char
        elif category[0] not in "LMN":
            is_open = False
        elif _is_spaceless(char):
            words.append(char)
            is_open = False
        elif is_open:
            words[-1] += char
        else:
            words.append(char)
            is_open = True
    return words


def split_characters(word: str) -> list[str]:
    """Split a word into its characters of scripts without spaces, each with its marks, and the rest between them.

    >>> split_characters("-5度です"), split_characters("C++")
    (['-5', '度', 'で', 'す'], ['C++'])
    """
    parts: list[str] = []
    for char in word:
        is_mark = unicodedata.category(char)[0] == "M"
        if parts and (is_mark or not (_is_spaceless(char) or _is_spaceless(parts[-1][0]))):
            parts[-1] += char
        else:
            parts.append(char)
    return parts


def _is_spaceless(char: str) -> bool:
    return _script(char) in _SCRIPTS_WITHOUT_SPACES


@cache
def _script(char: str) -> str:
    """Return the script of a character: the first word of its Unicode name, whatever its width."""
    name = unicodedata.name(char, "").removeprefix("HALFWIDTH ").removeprefix("FULLWIDTH ")
    return name.replace("-", " ").partition(" ")[0]
