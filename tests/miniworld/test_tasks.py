"""Labelled tasks: reproducible rows, disjoint splits, balanced labels, and bag-of-words accuracy near chance."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.miniworld.tasks import task_rows
from metalm_cli.tasks.card import CLUSTERS
from metalm_cli.tasks.registry import Cards
from metalm_cli.templates.lint.linter import lint_collection
from metalm_cli.templates.template import TemplateCollection
from sentence_parser import ORDERS, parse_text

SPLITS = ("train", "validation", "test")
BALANCED = {
    "nli": ("premise", "hypothesis"),
    "paraphrase": ("sentence1", "sentence2"),
    "pronouns": ("text",),
    "outcomes": ("context",),
    "yes_no": ("passage", "question"),
    "grammar": ("sentence",),
}
"""Tasks in which counting words must not help, with their text columns."""


def answer(row: dict) -> object:
    return row["label"] if "label" in row else row["index"]


def digest(rows: list[dict]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@pytest.mark.parametrize("task", task_rows.TASKS)
def test_sizes_and_splits_without_a_text_in_common(task):
    rows_by_split = {split: task_rows.rows(task, split) for split in SPLITS}
    assert 2000 <= len(rows_by_split["train"]) <= 2005
    assert all(200 <= len(rows_by_split[split]) <= 205 for split in SPLITS[1:])
    texts = [json.dumps(row, sort_keys=True) for split in SPLITS for row in rows_by_split[split]]
    assert len(set(texts)) == len(texts)


def test_subjects_of_rows_are_in_one_split():
    """Compared names and closed-book questions do not occur again in another split."""
    pairs_by_split, questions_by_split = [], []
    for split in SPLITS:
        facts = {fact for row in task_rows.rows("paraphrase", split) for fact in parse_text(row["sentence1"])}
        pairs_by_split.append({(order, *sorted(names)) for order, *names in facts if order in ORDERS})
        questions_by_split.append({row["question"] for row in task_rows.rows("facts", split)})
    assert min(map(len, pairs_by_split)) > 20
    assert min(map(len, questions_by_split)) > 150
    for sets in (pairs_by_split, questions_by_split):
        assert not any(first & second for first, second in itertools.combinations(sets, 2))


def test_other_processes_make_the_same_rows():
    code = (
        "import hashlib, json, sys; from metalm_cli.miniworld.tasks import task_rows; "
        "tasks = (*task_rows.TASKS, *task_rows.LEXICAL_TASKS); "
        "rows = [task_rows.rows(task, split) for task in tasks for split in ('test', 'train')]; "
        "print(hashlib.sha256(json.dumps(rows).encode()).hexdigest()); "
        "print([name for name in ('torch', 'transformers', 'numpy', 'pydantic') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    tasks = (*task_rows.TASKS, *task_rows.LEXICAL_TASKS)
    rows = [task_rows.rows(task, split) for task in tasks for split in ("test", "train")]
    assert run.stdout.split("\n")[0] == digest(rows)
    assert run.stdout.split("\n")[1] == "[]"


def test_rows_are_copies():
    task_rows.rows("nli", "test")[0]["label"] = "spoilt"
    assert task_rows.rows("nli", "test")[0]["label"] != "spoilt"


def test_rows_are_generated_fast():
    task_rows.rows("nli", "train")
    task_rows._rows_by_split.cache_clear()
    for task in task_rows.TASKS:
        start = time.process_time()
        task_rows.rows(task, "train")
        assert time.process_time() - start < 2, task


@pytest.mark.parametrize(("task", "split"), [("nlx", "train"), ("nli", "dev")])
def test_unknown_names_are_rejected(task, split):
    with pytest.raises(MetalmError, match=r"has no (task nlx|split dev)"):
        task_rows.rows(task, split)


@pytest.mark.parametrize("task", [*BALANCED, "reviews"])
def test_labels_are_balanced(task):
    for split in SPLITS:
        counts = Counter(answer(row) for row in task_rows.rows(task, split))
        assert max(counts.values()) < 1.1 * min(counts.values()), (task, split, counts)


# -- counting words ---------------------------------------------------------------------------------------------------


def bag_of_words(row: dict, fields: tuple[str, ...], apart: bool) -> Counter[str]:
    """Return the bag of words of a row, with its texts together or apart; options are always apart."""
    bag: Counter[str] = Counter()
    texts = {field: row[field] for field in fields} | dict(enumerate(row.get("options", ())))
    for key, text in texts.items():
        prefix = key if apart or isinstance(key, int) else ""
        bag.update(f"{prefix} {word}" for word in re.findall(r"[\w'-]+", text.lower()))
    return bag


def classifier_accuracy(train: list, test: list, seed: int = 0) -> float:
    """Return the accuracy of a logistic regression on (bag, label) pairs, trained by full-batch gradient descent."""
    vocabulary = {word: index for index, word in enumerate(sorted({word for bag, _ in train for word in bag}))}
    classes = sorted({label for _, label in train}, key=str)

    def matrix(rows: list) -> tuple[np.ndarray, np.ndarray]:
        counts = np.zeros((len(rows), len(vocabulary) + 1), np.float32)
        counts[:, -1] = 1
        for index, (bag, _) in enumerate(rows):
            for word, count in bag.items():
                if word in vocabulary:
                    counts[index, vocabulary[word]] = count
        return counts, np.array([classes.index(label) for _, label in rows])

    x, y = matrix(train)
    weights = np.zeros((x.shape[1], len(classes)), np.float32)
    target = np.eye(len(classes), dtype=np.float32)[y]
    for _ in range(150):
        scores = x @ weights
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        weights += 0.3 * (x.T @ (target - scores)) / len(x) - 1e-4 * weights
    test_features, test_targets = matrix(test)
    return float(((test_features @ weights).argmax(axis=1) == test_targets).mean())


def task_accuracy(task: str, fields: tuple[str, ...], apart: bool) -> float:
    pairs = {
        split: [(bag_of_words(row, fields, apart), answer(row)) for row in task_rows.rows(task, split)]
        for split in SPLITS
    }
    return classifier_accuracy(pairs["train"], pairs["validation"] + pairs["test"])


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("task", BALANCED)
def test_counting_words_stays_near_chance(task, apart):
    rows = task_rows.rows(task, "train")
    chance = max(Counter(answer(row) for row in rows).values()) / len(rows)
    assert abs(task_accuracy(task, BALANCED[task], apart) - chance) <= 0.055


def test_counting_words_is_able_to_learn():
    """The same classifier learns sentiment, and detects a word that reveals the label."""
    assert task_accuracy("reviews", ("text",), False) > 0.65
    rows = [
        (Counter(f"{row['sentence']} {row['label'][:3]}".split()), row["label"])
        for row in task_rows.rows("grammar", "train")
    ]
    assert classifier_accuracy(rows[:1500], rows[1500:]) > 0.95


# -- cards and templates ----------------------------------------------------------------------------------------------


def world_cards() -> list:
    return Cards().select(["world"])


def test_every_cluster_has_a_task_and_every_task_a_card():
    cards = world_cards()
    assert {card.cluster for card in cards} == set(CLUSTERS)
    assert sorted(card.world for card in cards) == sorted(task_rows.TASKS)


def test_cards_read_every_row():
    for card in Cards().select(["world", "lexical"]):
        for role in SPLITS:
            examples = open_examples(card, role)
            assert len(list(examples)) == len(examples) == len(task_rows.rows(card.world, role))


def test_templates_are_many_and_clean():
    cards, collection = Cards().select(["world", "lexical"]), TemplateCollection("flan")
    for card in cards:
        templates = collection.templates_for(card)
        assert collection.path_for(card).stem == card.name
        assert len(templates) >= 5
        assert [template.inverted for template in templates].index(False) == 0
        assert sum(template.inverted for template in templates) <= 1
    rows = {card.name: list(itertools.islice(open_examples(card, "train"), 30)) for card in cards}
    findings = [
        str(template)
        for template in lint_collection(collection, cards, lambda card: rows[card.name], include_unserved=False)
    ]
    assert not findings
