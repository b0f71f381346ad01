"""Neither the texts nor the pictures of the miniature world predict the answers alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from metalm_cli.miniworld.pictures import picture_rows
from metalm_cli.miniworld.pictures.draw import COLOURS_RGB, draw_scene
from metalm_cli.miniworld.pictures.scene import KINDS, PLACES, Scene
from metalm_cli.miniworld.pictures.vqa import QUESTION_KINDS

SPLITS = ("train", "validation", "test")
TEXTS = {
    "statements": ("statement", "label"),
    "explanations": ("hypothesis", "label"),
    "questions": ("question", "answer"),
}
"""Columns with the text and with the answer."""
PictureRow = tuple[tuple[Scene, ...], str, str]
"""Pictures, the form of the text, and the answer."""
CASES = [("statements", ""), ("explanations", ""), *(("questions", about) for about in QUESTION_KINDS)]
SUBJECT = re.compile(
    rf"\ban?\b|\b(?:{'|'.join((*COLOURS_RGB, *KINDS))}|shapes?|animals?|things?)\b|{'|'.join(PLACES)}|in the \w+ half"
)


def text_form(task: str, row: dict) -> str:
    """Return the form of a statement, hypothesis or yes/no question: its words without the things it is about.

    For other questions, return an empty string: their form states what to count, which is not a shortcut.
    """
    if task == "questions" and row["answer"] not in ("yes", "no"):
        return ""
    return " ".join(SUBJECT.sub("", row[TEXTS[task][0]]).split())


def split_held_out(task: str, about: str) -> tuple[list[dict], list[dict]]:
    rows_by_split = {
        split: [row for row in picture_rows.scene_rows(task, split) if row.get("about", "") == about]
        for split in SPLITS
    }
    return rows_by_split["validation"] + rows_by_split["test"], rows_by_split["train"]


def test_labels_and_kinds_of_questions_are_balanced():
    for split in SPLITS:
        for task, field in (("statements", "label"), ("explanations", "label"), ("questions", "about")):
            counts = Counter(row[field] for row in picture_rows.scene_rows(task, split))
            assert max(counts.values()) <= min(counts.values()) + 4, (task, split, counts)


# -- the words alone --------------------------------------------------------------------------------------------------


def words_accuracy(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> float:
    """Return the accuracy of logistic regression on counts of words and word pairs."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+")
    model = LogisticRegression(max_iter=200).fit(
        counter.fit_transform([text for text, _ in train]), [a for _, a in train]
    )
    return float(model.score(counter.transform([text for text, _ in test]), [answer for _, answer in test]))


@pytest.mark.parametrize(("task", "about"), CASES)
def test_words_alone_predict_no_more_than_the_most_frequent_answer(task, about):
    text, answer = TEXTS[task]
    held_out_rows, train = ([(row[text], row[answer]) for row in rows] for rows in split_held_out(task, about))
    frequent = max(Counter(answer for _, answer in held_out_rows).values()) / len(held_out_rows)
    assert words_accuracy(train, held_out_rows) <= frequent + 0.05


def test_word_classifier_finds_words_that_reveal_labels():
    rows = picture_rows.scene_rows("statements", "train")
    revealing_rows = [(row["statement"] + (" indeed" if row["label"] == "true" else ""), row["label"]) for row in rows]
    assert words_accuracy(revealing_rows[:1500], revealing_rows[1500:]) > 0.95


# -- the pictures alone -----------------------------------------------------------------------------------------------


def statistics(scenes: tuple[Scene, ...]) -> dict[str, float]:
    """Return counts by kind, colour and place, totals, curtains, backgrounds, and the mean colours of all quarters."""
    features: dict[str, float] = {}
    for name, picture in zip(("first", "second"), scenes, strict=False):
        facts = [f"{len(picture.items)} things", f"curtain {picture.curtain}", f"background {picture.background}"]
        facts += [part for item in picture.items for part in (item.kind, item.colour, PLACES[item.place])]
        features |= {f"{name}: {fact}": count for fact, count in Counter(facts).items()}
        features |= {f"{name}: {count} of {fact}": 1 for fact, count in Counter(facts).items() if count > 1}
        quarters = np.asarray(draw_scene(picture), dtype=float).reshape(2, 32, 2, 32, 3).mean(axis=(1, 3)).ravel() / 255
        features |= {f"{name}: mean {index}": value for index, value in enumerate(quarters)}
    together = sum(len(scene.items) for scene in scenes)
    return {
        **features,
        f"{together} things in all": 1,
        f"{sum(scene.curtain is not None for scene in scenes)} curtains": 1,
    }


def pictures_accuracy(rows: list[PictureRow]) -> float:
    """Return the accuracy of logistic regression on statistics of pictures, alone and with the form of the text.

    The accuracy is measured by four-fold cross-validation.
    """
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    statistics_by_scenes = {scenes: statistics(scenes) for scenes, _, _ in rows}
    features = DictVectorizer().fit_transform(
        statistics_by_scenes[scenes]
        | {f"{form} / {name}": value for name, value in statistics_by_scenes[scenes].items()}
        for scenes, form, _ in rows
    )
    answers = np.array([answer for *_, answer in rows])
    folds = np.arange(len(rows)) * 4 // len(rows)
    correct = 0.0
    for fold in range(4):
        model = LogisticRegression(max_iter=400, C=0.3).fit(features[folds != fold], answers[folds != fold])
        correct += (model.predict(features[folds == fold]) == answers[folds == fold]).sum()
    return correct / len(rows)


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
"""Accuracy of a guess among the possible answers: one of the picture's two to four (or three) things, or one of the two
numbers that can be counted in it."""


@pytest.mark.parametrize(("task", "about"), CASES)
def test_pictures_alone_predict_no_more_than_a_guess(task, about):
    held_out_rows, train = split_held_out(task, about)
    rows = [(row["scenes"], text_form(task, row), row[TEXTS[task][1]]) for row in train + held_out_rows]
    assert pictures_accuracy(rows) <= GUESS[about or task] + 0.05


def test_picture_classifier_finds_contents_that_reveal_labels():
    rows = picture_rows.scene_rows("explanations", "train")
    sizes = ["many" if len(row["scenes"][0].items) > 2 else "few" for row in rows]
    assert pictures_accuracy([(row["scenes"], "", size) for row, size in zip(rows, sizes, strict=True)]) > 0.95


@pytest.mark.parametrize(("task", "about"), CASES)
def test_every_picture_has_different_answers_equally_often(task, about):
    """This holds for pictures together with the form of the text."""
    held_out_rows, train = split_held_out(task, about)
    answers = defaultdict(Counter)
    for row in held_out_rows + train:
        answers[row["scenes"], text_form(task, row)][row[TEXTS[task][1]]] += 1
    for counts in answers.values():
        assert len(counts) == (3 if task == "explanations" else 2)
        assert len(set(counts.values())) == 1
