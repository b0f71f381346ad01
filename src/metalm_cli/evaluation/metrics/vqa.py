"""VQA accuracy: agreement with ten people, after the normalisation of the official evaluation.

Source: Antol et al. 2015; Goyal et al. 2017 (VQAv2). The rules of the official script are kept where they are odd: it
normalises nothing if all people gave the same answer, and writes ``somebody'd`` without its apostrophe.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

AGREEING_PEOPLE = 3
"""An answer is right if this many of the other people gave it."""
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Marks that are removed where they touch a space, and otherwise become one."""
_NUMBER_WORDS = ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(max(0, index - 1)) for index, word in enumerate(_NUMBER_WORDS)}
ARTICLES = frozenset({"a", "an", "the"})
MAX_PERIODS = 32
"""Periods that are removed from an answer; the script gives a flag in place of this number."""
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've "
    "might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've "
    "shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll "
    "someone's something'd something'd've something'll that's there'd there'd've there're there's they'd "
    "they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've "
    "when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't "
    "would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've "
)


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:index] + word[index + 1 :] for index, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {miswritten: word for word in _CONTRACTIONS.split() for miswritten in _without_one_apostrophe(word)}
"""The contraction that a word with a missing apostrophe is read as."""
CONTRACTIONS["somebody'd"] = "somebodyd"


def normalise_vqa(answer: str) -> str:
    """Normalise an answer as the official evaluation does.

    >>> normalise_vqa("The  two dogs, dont they?"), normalise_vqa("1,000"), normalise_vqa("T-shirt.")
    ("2 dogs don't they", '1000', 't shirt')
    """
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    text, has_number = answer, _COMMA_IN_NUMBER.search(answer) is not None
    for mark in PUNCTUATION:
        is_removed = has_number or f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if is_removed else " ")
    words = [NUMBERS.get(word, word) for word in _PERIOD.sub("", text, count=MAX_PERIODS).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(text: str, references: Sequence[str]) -> float:
    """Return the accuracy of an answer, 0 to 1: the mean over people of min(matches / 3, 1) with all other people.

    Args:
        text: The answer.
        references: Answers of people, at least one, each as often as it was given; VQAv2 has ten.

    Source: https://visualqa.org/evaluation.html; Goyal et al. 2017.

    >>> round(vqa_accuracy("blue", ["blue"] * 3 + ["navy"] * 7), 6)
    0.9
    """
    answers = [_one_line(reference) for reference in references]
    text = _one_line(text)
    if len(set(answers)) > 1:
        answers, text = [normalise_vqa(answer) for answer in answers], normalise_vqa(text)
    if len(answers) == 1:
        return float(text == answers[0])
    matches = answers.count(text)
    shares = [min(1.0, (matches - (answer == text)) / AGREEING_PEOPLE) for answer in answers]
    return sum(shares) / len(shares)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
