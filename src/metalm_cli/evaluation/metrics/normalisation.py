"""Normalisation of answers: the one of each official script, and one for answers of any kind.

SQuAD, TriviaQA, DROP and Super-NaturalInstructions remove punctuation, so that signs, decimal points and symbols are
lost; their metrics are for their own data sets. :func:`normalise_words` keeps what distinguishes two answers.
"""

from __future__ import annotations

import re
import string
import unicodedata

from metalm_cli.common.languages import language_code

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_QUOTES = str.maketrans({**dict.fromkeys("‘’´`", "'"), **dict.fromkeys("“”„«»「」『』", '"')})
_QUOTED = re.compile(r"""(["'])([^"']+)\1""")
_WORD_IN_BRACKETS = re.compile(r"\(([^\W\d_][\w]*)\)")
_SENTENCE_END = re.compile(r"""(?:[.,;:?…。、，；：？！؟؛،।]|(?<=[^\W\d_])!|(?<!\d)")+$""")
_THOUSANDS = re.compile(r"(?<![\w.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_ZERO_FRACTION = re.compile(r"(?<![\w.,])([0-9]+)\.0+(?![\w.])")


def normalise_squad(text: str) -> str:
    """Normalise a text as SQuAD does: lowercase, no punctuation, no articles, single spaces.

    Source: Rajpurkar et al. 2016.

    >>> normalise_squad("The  Cat's hat, a lie.")
    'cats hat lie'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def normalise_super_ni(text: str) -> str:
    """Normalise a text as Super-NaturalInstructions does: as SQuAD, but with its articles.

    Source: Wang et al. 2022.

    >>> normalise_super_ni("The  Cat's hat, a lie.")
    'the cats hat a lie'
    """
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def normalise_trivia(text: str) -> str:
    """Normalise a text as TriviaQA does: as SQuAD, but punctuation and single quotation marks separate words.

    Source: Joshi et al. 2017.

    >>> normalise_trivia("The ‘Spider-Man’_films")
    'spider man films'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION_TO_SPACE)).split())


def normalise_drop(text: str) -> str:
    """Normalise a text as DROP does: word by word, split at spaces and hyphens, numbers as floats.

    Source: Dua et al. 2019.

    >>> normalise_drop("The 1,200-yard S.K. run")
    '1200.0 yard sk run'
    """
    words = []
    for token in re.split(" |-", text.lower()):
        word = token if is_number(token) else token.translate(_PUNCTUATION)
        words += _ARTICLES.sub(" ", str(float(word)) if is_number(word) else word).split()
    return " ".join(words)


def is_number(word: str) -> bool:
    """Whether a word is a number for DROP: whatever Python's ``float`` reads."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def normalise_words(text: str, language: str = "en") -> tuple[str, ...]:
    """Normalise a text of any kind to its words, without removing what may distinguish two answers.

    Case, spaces, the marks at the end of a word or sentence, quotation marks, brackets around a word, thousands
    separators and zeros after a decimal point are removed, and English articles before a word. Signs, decimal points,
    symbols and other brackets remain, and so does a word of marks alone.

    >>> normalise_words("The answer: 1,200.0.") == normalise_words("answer 1200")
    True
    >>> normalise_words("-5"), normalise_words("C++"), normalise_words("?")
    (('-5',), ('c++',), ('?',))
    """
    plain = unicodedata.normalize("NFC", text).casefold().translate(_QUOTES).strip()
    plain = "".join("-" if char == "\u2212" or unicodedata.category(char) == "Pd" else char for char in plain)
    quoted = _QUOTED.fullmatch(plain)
    raw_words = (quoted[2] if quoted else plain).split() or plain.split()
    words = [_strip_marks(word) for word in raw_words]
    if language_code(language) == "en":
        words = [word for index, word in enumerate(words) if not _is_article(raw_words[index], words[index + 1 :])]
    return tuple(words)


def _is_article(word: str, following: list[str]) -> bool:
    """Whether a word is an article: words follow it and, for ``a``, which is also a letter, a word of two letters."""
    if word == "a":
        return bool(following) and len(following[0]) > 1 and following[0][:2].isalpha()
    return word in ("an", "the") and bool(following)


def _strip_marks(word: str) -> str:
    """Remove the punctuation around a word, and what does not change its number; a word of marks alone remains."""
    quoted = _QUOTED.fullmatch(word)
    stripped = _SENTENCE_END.sub("", quoted[2] if quoted else word.lstrip('"¿¡')) or word
    bracketed = _WORD_IN_BRACKETS.fullmatch(stripped)
    stripped = bracketed[1] if bracketed else stripped
    return _ZERO_FRACTION.sub(r"\1", _THOUSANDS.sub(lambda number: number[0].replace(",", ""), stripped))
