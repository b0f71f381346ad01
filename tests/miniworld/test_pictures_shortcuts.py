"""Pictures of the miniature world and words about them: of no use to who reads the words alone, or looks alone."""

from __future__ import annotations

import doctest
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from metalm_cli.miniworld.pictures import picture_rows, scene
from metalm_cli.miniworld.pictures.draw import RGB, draw
from metalm_cli.miniworld.pictures.scene import KINDS, PLACES, Scene
from metalm_cli.miniworld.pictures.vqa import ABOUT

SPLITS = ("train", "validation", "test")
TEXTS = {
    "statements": ("statement", "label"),
    "explanations": ("hypothesis", "label"),
    "questions": ("question", "answer"),
}
"""The columns with the text and with the answer."""
Seen = tuple[tuple[Scene, ...], str, str]
"""Pictures, the form of the text, and the answer."""
CASES = [("statements", ""), ("explanations", ""), *(("questions", about) for about in ABOUT)]
SUBJECT = re.compile(
    rf"\ban?\b|\b(?:{'|'.join((*RGB, *KINDS))}|shapes?|animals?|things?)\b|{'|'.join(PLACES)}|in the \w+ half"
)


def form(task: str, row: dict) -> str:
    """What kind of statement, hypothesis or question it is: its words but for those that it is about.

    Nothing of questions that are not of yes or no: of these the form tells what to count, which is no shortcut.
    """
    if task == "questions" and row["answer"] not in ("yes", "no"):
        return ""
    return " ".join(SUBJECT.sub("", row[TEXTS[task][0]]).split())


def held_and_train(task: str, about: str) -> tuple[list[dict], list[dict]]:
    found = {
        split: [row for row in picture_rows.described(task, split) if row.get("about", "") == about] for split in SPLITS
    }
    return found["validation"] + found["test"], found["train"]


def test_examples_in_docstrings():
    failed, tried = doctest.testmod(scene)
    assert failed == 0
    assert tried > 0


def test_labels_and_kinds_of_questions_are_balanced():
    for split in SPLITS:
        for task, field in (("statements", "label"), ("explanations", "label"), ("questions", "about")):
            counts = Counter(row[field] for row in picture_rows.described(task, split))
            assert max(counts.values()) <= min(counts.values()) + 4, (task, split, counts)


# -- the words alone --------------------------------------------------------------------------------------------------


def by_words(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> float:
    """Accuracy of logistic regression on counts of words and pairs of words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+")
    model = LogisticRegression(max_iter=200).fit(
        counter.fit_transform([text for text, _ in train]), [a for _, a in train]
    )
    return float(model.score(counter.transform([text for text, _ in test]), [answer for _, answer in test]))


@pytest.mark.parametrize(("task", "about"), CASES)
def test_the_words_alone_tell_no_more_than_the_most_frequent_answer(task, about):
    text, answer = TEXTS[task]
    held, train = ([(row[text], row[answer]) for row in rows] for rows in held_and_train(task, about))
    frequent = max(Counter(answer for _, answer in held).values()) / len(held)
    assert by_words(train, held) <= frequent + 0.05


def test_words_would_be_read_if_they_told():
    rows = picture_rows.described("statements", "train")
    given_away = [(row["statement"] + (" indeed" if row["label"] == "true" else ""), row["label"]) for row in rows]
    assert by_words(given_away[:1500], given_away[1500:]) > 0.95


# -- the pictures alone -----------------------------------------------------------------------------------------------


def statistics(scenes: tuple[Scene, ...]) -> dict[str, float]:
    """Counts by kind, colour and place, totals, curtains, backgrounds, and the mean colours of all quarters."""
    found: dict[str, float] = {}
    for name, drawn in zip(("first", "second"), scenes, strict=False):
        facts = [f"{len(drawn.items)} things", f"curtain {drawn.curtain}", f"background {drawn.ground}"]
        facts += [part for item in drawn.items for part in (item.kind, item.colour, PLACES[item.place])]
        found |= {f"{name}: {fact}": count for fact, count in Counter(facts).items()}
        found |= {f"{name}: {count} of {fact}": 1 for fact, count in Counter(facts).items() if count > 1}
        quarters = np.asarray(draw(drawn), dtype=float).reshape(2, 32, 2, 32, 3).mean(axis=(1, 3)).ravel() / 255
        found |= {f"{name}: mean {at}": value for at, value in enumerate(quarters)}
    together = sum(len(scene.items) for scene in scenes)
    return {
        **found,
        f"{together} things in all": 1,
        f"{sum(scene.curtain is not None for scene in scenes)} curtains": 1,
    }


def by_picture(rows: list[Seen]) -> float:
    """Accuracy of logistic regression on statistics of pictures, and of these together with the form of the text.

    Each quarter of the rows is told by what is learned from the other three.
    """
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    known = {scenes: statistics(scenes) for scenes, _, _ in rows}
    features = DictVectorizer().fit_transform(
        known[scenes] | {f"{words} / {name}": value for name, value in known[scenes].items()}
        for scenes, words, _ in rows
    )
    answers = np.array([answer for *_, answer in rows])
    quarter = np.arange(len(rows)) * 4 // len(rows)
    right = 0.0
    for turn in range(4):
        model = LogisticRegression(max_iter=400, C=0.3).fit(features[quarter != turn], answers[quarter != turn])
        right += (model.predict(features[quarter == turn]) == answers[quarter == turn]).sum()
    return right / len(rows)


OF_TWO_TO_FOUR = (1 / 2 + 1 / 3 + 1 / 4) / 3
GUESS = {
    "statements": 1 / 2,
    "explanations": 1 / 3,
    "colour": OF_TWO_TO_FOUR,
    "place": OF_TWO_TO_FOUR,
    "kind": OF_TWO_TO_FOUR,
    "number": 1 / 2,
    "presence": 1 / 2,
    "order": 1 / 2,
    "neighbour": 1 / 3,
}
"""How often a guess is right that knows what may be asked: of a picture's two to four things, or three, one is the
answer; of what can be counted in it, one of two numbers."""


@pytest.mark.parametrize(("task", "about"), CASES)
def test_the_pictures_alone_tell_no_more_than_a_guess(task, about):
    held, train = held_and_train(task, about)
    rows = [(row["scenes"], form(task, row), row[TEXTS[task][1]]) for row in train + held]
    assert by_picture(rows) <= GUESS[about or task] + 0.05


def test_pictures_would_be_looked_at_if_they_told():
    rows = picture_rows.described("explanations", "train")
    sizes = ["many" if len(row["scenes"][0].items) > 2 else "few" for row in rows]
    assert by_picture([(row["scenes"], "", size) for row, size in zip(rows, sizes, strict=True)]) > 0.95


@pytest.mark.parametrize(("task", "about"), CASES)
def test_a_picture_stands_with_different_answers_equally_often(task, about):
    """Together with the form of the text too."""
    held, train = held_and_train(task, about)
    answers = defaultdict(Counter)
    for row in held + train:
        answers[row["scenes"], form(task, row)][row[TEXTS[task][1]]] += 1
    for counts in answers.values():
        assert len(counts) == (3 if task == "explanations" else 2)
        assert len(set(counts.values())) == 1
