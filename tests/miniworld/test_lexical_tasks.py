"""The lexical tasks: words in one class, no held-out word in training, right labels, labels independent of frames."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalm_cli.miniworld import miniworld_documents
from metalm_cli.miniworld.lexical.adjectives_verbs import OPINIONS, SYNONYMS
from metalm_cli.miniworld.lexical.lexical_rows import LEXICAL_SPLIT_SIZES
from metalm_cli.miniworld.lexical.nouns import CONFUSABLE_KINDS, CONFUSABLE_USES, KINDS, TOPICS, UNSUITABLE_USES, USES
from metalm_cli.miniworld.tasks import task_rows
from metalm_cli.tasks.registry import Cards

TEMPLATES = Path(__file__).parents[2] / "templates" / "flan"
CLASSES = [*KINDS.values(), *USES.values(), *TOPICS.values(), *OPINIONS.values()]
TRAINED = [
    *(word for words in CLASSES for word in words.trained),
    *(word for synonyms in SYNONYMS.values() for group in synonyms.trained for word in group),
]
HELD_OUT = [
    *(word for words in CLASSES for word in words.held_out),
    *(word for synonyms in SYNONYMS.values() for group in synonyms.held_out for word in group),
]
KIND_OF = {word: kind.name for kind in KINDS.values() for word in (*kind.trained, *kind.held_out)}
USE_OF = {word: use.name for use in USES.values() for word in (*use.trained, *use.held_out)}
TOPIC_OF = {word: topic.name for topic in TOPICS.values() for word in (*topic.trained, *topic.held_out)}
OPINION_OF = {word: name for name, opinion in OPINIONS.items() for word in (*opinion.trained, *opinion.held_out)}
SYNONYMS_OF = {
    word: group for synonyms in SYNONYMS.values() for group in (*synonyms.trained, *synonyms.held_out) for word in group
}
WORDS = frozenset(TRAINED + HELD_OUT)
NAMES = re.compile(rf"\b({'|'.join([*KINDS, *USES])})\b")
MATCHES = ("yes", "entailment", "equivalent")
CROSSED = ("entailment", "paraphrase", "uses", "groups", "reference", "contents")
"""Tasks with two labels in which every word occurs with both labels."""


WITH_OPTIONS = ("kinds", "purposes", "topics")
"""Tasks with four options."""


def tokens(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def texts_of(row: dict) -> list[str]:
    return [value for key, value in row.items() if isinstance(value, str) and key != "label"]


def all_rows(split: str) -> Iterator[tuple[str, dict]]:
    for task in task_rows.LEXICAL_TASKS:
        for row in task_rows.rows(task, split):
            yield task, row


def base_forms(token: str) -> set[str]:
    """Return the words that a token can be a form of: plural, past, participle, adverb."""
    forms = {token}
    for ending in ("s", "es", "d", "ed", "ing", "ly"):
        if token.endswith(ending):
            forms |= {token.removesuffix(ending), token.removesuffix(ending) + "e"}
    if token.endswith(("ies", "ied")):
        forms.add(token[:-3] + "y")
    if token.endswith("ves"):
        forms |= {token[:-3] + "f", token[:-3] + "fe"}
    return forms


def forms_of_held_out_words(texts: list[str]) -> set[str]:
    held_out = set(HELD_OUT)
    return {token for text in texts for token in tokens(text) if base_forms(token) & held_out}


def test_no_word_is_in_two_classes():
    assert [word for word, count in Counter(TRAINED + HELD_OUT).items() if count > 1] == []


@pytest.mark.parametrize("words", CLASSES, ids=lambda words: words.name)
def test_a_third_of_the_words_of_a_class_is_held_out(words):
    total = len(words.trained) + len(words.held_out)
    assert 12 <= total <= 24
    assert 0.3 <= len(words.held_out) / total <= 0.4


@pytest.mark.parametrize("kind", SYNONYMS)
def test_a_third_of_the_groups_of_synonyms_is_held_out(kind):
    trained, held_out = SYNONYMS[kind]
    assert 0.3 <= len(held_out) / len(trained + held_out) <= 0.41


def test_no_training_row_contains_a_held_out_word():
    assert forms_of_held_out_words([json.dumps(row) for _, row in all_rows("train")]) == set()


def test_no_template_contains_a_held_out_word():
    paths = [TEMPLATES / f"{task}.yaml" for task in task_rows.LEXICAL_TASKS]
    assert forms_of_held_out_words([path.read_text() for path in paths]) == set()


def test_forms_of_words_are_found():
    assert forms_of_held_out_words(["two wasps, wolves and three mosquitoes, puzzled"]) == {
        "wasps",
        "mosquitoes",
        "puzzled",
    }


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_rows_ask_about_held_out_words_only(split):
    """Every row has a held-out word, and no training word, not even in its frame."""
    trained, held_out = set(TRAINED), set(HELD_OUT)
    for task, row in all_rows(split):
        words = {token for text in texts_of(row) for token in tokens(text)}
        assert words & held_out, (task, row)
        assert not words & trained, (task, row)


def test_the_world_contains_no_held_out_word():
    documents = [row["text"] for row in miniworld_documents(800)]
    reviews = [row["text"] for row in task_rows.rows("reviews", "train")]
    assert forms_of_held_out_words(documents + reviews) == set()


@pytest.mark.slow
def test_no_task_of_the_world_contains_a_held_out_word():
    rows = [
        json.dumps(row)
        for task in task_rows.TASKS
        for split in LEXICAL_SPLIT_SIZES
        for row in task_rows.rows(task, split)
    ]
    assert forms_of_held_out_words(rows) == set()


def test_sizes():
    for task in task_rows.LEXICAL_TASKS:
        rows = {split: task_rows.rows(task, split) for split in LEXICAL_SPLIT_SIZES}
        assert {split: len(rows[split]) for split in rows} == {"train": 2000, "validation": 400, "test": 400}
        texts = [json.dumps(row, sort_keys=True) for split in rows for row in rows[split]]
        assert len(set(texts)) == len(texts)


# -- labels, determined again from the texts --------------------------------------------------------------------------


def words_in(text: str, table: dict[str, str]) -> list[str]:
    """Return the words of a table in a text, in the order of the text."""
    return [token for token in tokens(text) if token in table]


def kind_named(text: str) -> str:
    return next(name for name in KINDS if re.search(rf"\b{name}\b", text))


def is_right(task: str, row: dict) -> bool | None:
    """Return whether the statement of a row with two labels is true."""
    match task.removeprefix("lexical_"):
        case "entailment":
            (word,) = words_in(row["premise"], KIND_OF)
            return KIND_OF[word] == kind_named(row["hypothesis"])
        case "paraphrase":
            (first,), (second,) = (words_in(row[key], SYNONYMS_OF) for key in ("sentence1", "sentence2"))
            assert first != second
            return SYNONYMS_OF[first] == SYNONYMS_OF[second]
        case "uses":
            (word,) = words_in(row["question"], USE_OF)
            named_use = next(name for name in USES if name in row["question"])
            pair = {named_use, USE_OF[word]}
            assert len(pair) == 1 or any(
                pair == {use, other} for use in UNSUITABLE_USES for other in UNSUITABLE_USES[use]
            )
            return len(pair) == 1
        case "groups":
            return len({KIND_OF[word] for word in row["things"].split(", ")}) == 1
        case "reference":
            first, second = words_in(row["text"], KIND_OF)
            (thing,) = words_in(row["thing"], KIND_OF)
            assert thing in (first, second)
            assert row["text"].count(row["mention"].removeprefix("the ")) == 1
            return KIND_OF[thing] == kind_named(row["mention"])
        case "contents":
            kinds = [KIND_OF[word] for word in words_in(row["passage"], KIND_OF)]
            assert len(kinds) == len(set(kinds)) == 3
            named_kind = kind_named(row["question"])
            assert not any({named_kind, kind} in CONFUSABLE_KINDS for kind in kinds)
            return named_kind in kinds
    return None


@pytest.mark.parametrize("split", LEXICAL_SPLIT_SIZES)
def test_labels_are_right(split):
    counts: Counter = Counter()
    for task, row in all_rows(split):
        if task == "lexical_sentiment":
            assert {OPINION_OF[word] for word in words_in(row["text"], OPINION_OF)} == {row["label"]}
        elif task == "lexical_kinds":
            (word,) = words_in(row["thing"], KIND_OF)
            assert row["options"][row["index"]] == KIND_OF[word]
            assert not any(pair <= set(row["options"]) for pair in CONFUSABLE_KINDS)
        elif task == "lexical_purposes":
            (word,) = words_in(row["thing"], USE_OF)
            assert row["options"][row["index"]] == USE_OF[word]
            assert not any(pair <= set(row["options"]) for pair in CONFUSABLE_USES)
        elif task == "lexical_topics":
            words = words_in(row["text"], TOPIC_OF)
            assert len(words) == len(set(words)) == 2
            assert {TOPIC_OF[word] for word in words} == {row["options"][row["index"]]}
        else:
            assert is_right(task, row) == (row["label"] in MATCHES), row
        counts[task, row.get("label", row.get("index"))] += 1
    for (task, _), count in counts.items():
        assert count == LEXICAL_SPLIT_SIZES[split] / sum(other == task for other, _ in counts)


# -- the label is independent of everything but the words together ----------------------------------------------------


def frame_of(row: dict) -> str:
    """Return the texts of a row with a mark in place of each word, kind and use."""
    text = NAMES.sub("WORD", " / ".join(texts_of(row)))
    text = re.sub(r"[A-Za-z]+", lambda match: "WORD" if match[0] in WORDS else match[0], text)
    return re.sub(r"\b(a|an) WORD", "WORD", text)


@pytest.mark.parametrize("split", LEXICAL_SPLIT_SIZES)
@pytest.mark.parametrize("task", task_rows.LEXICAL_TASKS)
def test_frames_do_not_reveal_the_label(task, split):
    """Every frame occurs equally often with each label, so no classifier of frames is better than chance."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for row in task_rows.rows(task, split):
        counts[frame_of(row)][row.get("label", row.get("index"))] += 1
    labels = 4 if task.removeprefix("lexical_") in WITH_OPTIONS else 2
    assert all(len(count) == labels and len(set(count.values())) == 1 for count in counts.values())


@pytest.mark.parametrize("split", LEXICAL_SPLIT_SIZES)
@pytest.mark.parametrize("task", CROSSED)
def test_counting_words_does_not_reveal_the_label(task, split):
    """Every token of every column occurs equally often with each label; a linear classifier cannot tell them apart."""
    counts: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for row in task_rows.rows(f"lexical_{task}", split):
        for column, text in row.items():
            if column != "label":
                counts[column, row["label"]].update(tokens(text))
    columns = {column for column, _ in counts}
    for column in columns:
        first, second = (count for (name, _), count in counts.items() if name == column)
        assert first == second


@pytest.mark.parametrize("split", LEXICAL_SPLIT_SIZES)
@pytest.mark.parametrize("task", WITH_OPTIONS)
def test_options_do_not_reveal_the_answer(task, split):
    """Every list of options occurs with each of its answers equally often."""
    counts: dict[tuple[str, ...], Counter] = defaultdict(Counter)
    for row in task_rows.rows(f"lexical_{task}", split):
        counts[tuple(row["options"])][row["index"]] += 1
    assert all(sorted(count) == [0, 1, 2, 3] and len(set(count.values())) == 1 for count in counts.values())


# -- cards ------------------------------------------------------------------------------------------------------------


def test_the_lexical_tasks_are_a_group_of_their_own():
    cards = Cards()
    lexical, world = cards.select(["lexical"]), cards.select(["world"])
    assert [card.name for card in lexical] == [card.world for card in lexical]
    assert sorted(card.name for card in lexical) == sorted(task_rows.LEXICAL_TASKS)
    assert len({card.cluster for card in lexical}) >= 7
    assert sorted(card.world for card in world) == sorted(task_rows.TASKS)
    assert {card.name for card in lexical + world} <= {card.name for card in cards.select(["all"])}
    assert not {card.name for card in lexical} & {card.name for card in cards.select(["non_core", "nli", "sentiment"])}
