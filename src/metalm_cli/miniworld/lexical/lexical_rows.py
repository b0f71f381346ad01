"""Rows of the lexical tasks, correct by construction: questions on the meanings of words, held out in part.

A word is either a training word or a held-out word, in all tasks of the family alike. Validation and test rows are
made of held-out words; the names of classes, the uses and the rest of the sentences are the same in all splits. Rows
come in groups in which every word and every frame occurs with each label equally often, so that a word alone, the
frame and the length say nothing about the label. Only ``lexical_sentiment`` is about the word alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from metalm_cli.miniworld.english import capitalise, with_article
from metalm_cli.miniworld.lexical.adjectives_verbs import OPINIONS, SYNONYMS
from metalm_cli.miniworld.lexical.nouns import (
    CONFUSABLE_KINDS,
    CONFUSABLE_USES,
    KINDS,
    TOPICS,
    UNSUITABLE_USES,
    USES,
)
from metalm_cli.miniworld.lexical.word_class import WordClass, noun_phrase
from metalm_cli.miniworld.rng import SeededRandom

LEXICAL_SPLIT_SIZES = {"train": 2000, "validation": 400, "test": 400}
"""Number of rows of each split; validation and test share the held-out words, but no row."""
OPTION_COUNT = 4
"""Options of a row that asks for a kind, a use or a topic."""
_MAX_ATTEMPTS = 20_000
_CROSSED = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Pairs of places of two things and their two counterparts: first those that match."""

RowDict = dict[str, Any]
GroupMaker = Callable[[SeededRandom, bool], list[RowDict]]
"""Function that makes a group of rows, of training words or of held-out words."""

_SUBJECTS = ("Anna", "Peter", "Clara", "Hugo", "Nina", "Paul", "my uncle", "a neighbour")
_VERBS = ("noticed", "drew", "painted", "described", "dreamed of", "talked about", "pointed at", "wrote about")
_TIMES = ("", "", "", "", " yesterday", " again")
_WORKS = (
    *("film", "play", "concert", "meal", "trip", "novel", "party", "evening", "visit", "show", "talk", "story"),
    *("speech", "weekend", "lunch", "tour", "exhibition", "performance", "holiday", "wedding"),
)
_OPINION_FRAMES = (
    "The {work} was {adjective}.",
    "Everybody said that the {work} was {adjective}.",
    "We found the {work} {adjective}.",
    "{Subject} called the {work} {adjective}.",
    "The {work}{time} was really {adjective}.",
    "In one word, the {work} was {adjective}.",
)
_PERSON_FRAMES = (
    "{Subject} was {word}{time}.",
    "{Subject} looked {word}{time}.",
    "I heard that {subject} was {word}.",
    "Nobody knew why {subject} was so {word}.",
)
_THING_FRAMES = (
    "It was {word}.",
    "{Subject} said that it was {word}.",
    "I had heard that it was {word}.",
    "Nobody told me how {word} it was.",
)
_ACTION_FRAMES = (
    "{Subject} {word} it{time}.",
    "I was told that {subject} {word} it.",
    "Nobody knew why {subject} {word} it.",
    "It was {subject} who {word} it.",
)
_SYNONYM_FRAMES = {"person": _PERSON_FRAMES, "thing": _THING_FRAMES, "action": _ACTION_FRAMES}
_TOPIC_FRAMES = (
    "{Subject} {verb} the {first} and the {second}{time}.",
    "This is about the {first}, and that about the {second}.",
    "The {first} and the {second} were on the first page.",
    "First came the {first}, then the {second}.",
)
_USE_FRAMES = (
    "Would {subject} use {thing} for {use}?",
    "{Subject} has {thing} for {use}. Is that normal?",
    "{Subject} needs something for {use}. Would {thing} do?",
    "{Subject} takes {thing} for {use}. Does that make sense?",
)
_LIST_FRAMES = (
    "In the picture there are {items}.",
    "{Subject} {verb} {items}{time}.",
    "On the list there are {items}.",
    "The story is about {items}.",
)
_REFERENCE_FRAMES = (
    "{Subject} {verb} {first} and {second}. People asked about the {kind}.",
    "There were {first} and {second} in the picture. {Subject} liked the {kind} best.",
    "The children had to draw {first} and {second}. The {kind} took a long time.",
    "{Subject} wanted to describe {first} and {second}, but forgot the {kind}.",
)


def _pick(rng: SeededRandom, word_class: WordClass, is_training: bool, count: int = 1) -> list[str]:
    return rng.sample(word_class.words(is_training), count)


def _fill(rng: SeededRandom, frames: Sequence[str]) -> str:
    """Return a frame whose subject, verb, time and work are filled in; its other slots stay."""
    subject = rng.choice(_SUBJECTS)
    values = {
        "Subject": capitalise(subject),
        "subject": subject,
        "verb": rng.choice(_VERBS),
        "time": rng.choice(_TIMES),
        "work": rng.choice(_WORKS),
    }
    frame = rng.choice(frames)
    for slot, value in values.items():
        frame = frame.replace(f"{{{slot}}}", value)
    return frame


def _two_kinds(rng: SeededRandom) -> tuple[WordClass, WordClass]:
    while True:
        first, second = rng.sample(tuple(KINDS), 2)
        if frozenset((first, second)) not in CONFUSABLE_KINDS:
            return KINDS[first], KINDS[second]


def _label_pairs(labels: tuple[str, str], rows: Sequence[RowDict]) -> list[RowDict]:
    """Label four rows: the first two with the first label, the last two with the second."""
    return [row | {"label": labels[index // 2]} for index, row in enumerate(rows)]


def make_sentiment_rows(rng: SeededRandom, is_training: bool) -> list[RowDict]:
    """Make two rows: the same sentence with an adjective of praise, and with one of blame."""
    frame = _fill(rng, _OPINION_FRAMES)
    return [
        {"text": frame.format(adjective=_pick(rng, opinion, is_training)[0]), "label": label}
        for label, opinion in OPINIONS.items()
    ]


def _make_option_rows(
    rng: SeededRandom, is_training: bool, classes: dict[str, WordClass], confusable: frozenset[frozenset[str]]
) -> list[RowDict]:
    """Make four rows with the same four classes as options, one about a thing of each."""
    while True:
        names = rng.sample(tuple(classes), OPTION_COUNT)
        if not any(pair <= frozenset(names) for pair in confusable):
            break
    return [
        {"thing": noun_phrase(_pick(rng, classes[name], is_training)[0]), "options": names, "index": index}
        for index, name in enumerate(names)
    ]


def make_kind_rows(rng: SeededRandom, is_training: bool) -> list[RowDict]:
    """Make four rows with the same four kinds as options."""
    return _make_option_rows(rng, is_training, KINDS, CONFUSABLE_KINDS)


def make_purpose_rows(rng: SeededRandom, is_training: bool) -> list[RowDict]:
    """Make four rows with the same four uses as options."""
    return _make_option_rows(rng, is_training, USES, CONFUSABLE_USES)


def make_entailment_rows(rng: SeededRandom, is_training: bool) -> list[RowDict]:
    """Make four rows about two things: a sentence about a thing entails the sentence about its kind only."""
    kinds = _two_kinds(rng)
    frame = _fill(rng, ("{Subject} {verb} {thing}{time}.",))
    premises = [frame.format(thing=noun_phrase(_pick(rng, kind, is_training)[0])) for kind in kinds]
    hypotheses = [frame.format(thing=with_article(kind.name)) for kind in kinds]
    rows = [{"premise": premises[i], "hypothesis": hypotheses[j]} for i, j in _CROSSED]
    return _label_pairs(("entailment", "not_entailment"), rows)


def make_paraphrase_rows(rng: SeededRandom, is_training: bool) -> list[RowDict]:
    """Make four rows from two pairs of synonyms: a sentence, and the same with a synonym or with another word."""
    kind = rng.choice(tuple(SYNONYMS))
    groups = [rng.sample(group, 2) for group in rng.sample(SYNONYMS[kind].groups(is_training), 2)]
    frame = _fill(rng, _SYNONYM_FRAMES[kind])
    rows = [
        {"sentence1": frame.format(word=groups[i][0]), "sentence2": frame.format(word=groups[j][1])}
        for i, j in _CROSSED
    ]
    return _label_pairs(("equivalent", "not_equivalent"), rows)


def make_use_rows(rng: SeededRandom, is_training: bool) -> list[RowDict]:
    """Make four rows about two things, each with its own use and with the use of the other."""
    first = rng.choice(tuple(UNSUITABLE_USES))
    uses = (USES[first], USES[rng.choice(UNSUITABLE_USES[first])])
    things = [noun_phrase(_pick(rng, use, is_training)[0]) for use in uses]
    frame = _fill(rng, _USE_FRAMES)
    rows = [{"question": frame.format(thing=things[i], use=uses[j].name)} for i, j in _CROSSED]
    return _label_pairs(("yes", "no"), rows)


def make_topic_rows(rng: SeededRandom, is_training: bool) -> list[RowDict]:
    """Make four rows with the same four topics as options, and one sentence with two nouns of each topic."""
    topics = rng.sample(tuple(TOPICS), OPTION_COUNT)
    frame = _fill(rng, _TOPIC_FRAMES)
    rows: list[RowDict] = []
    for index, topic in enumerate(topics):
        first, second = _pick(rng, TOPICS[topic], is_training, 2)
        rows.append({"text": frame.format(first=first, second=second), "options": topics, "index": index})
    return rows


def make_group_rows(rng: SeededRandom, is_training: bool) -> list[RowDict]:
    """Make four rows of three things: all of one kind, or one of them of another kind."""
    first, second = (_pick(rng, kind, is_training, 3) for kind in _two_kinds(rng))
    order = rng.shuffled(range(3))
    mixed = [[*first[:2], second[2]], [*second[:2], first[2]]]
    rows = [{"things": ", ".join(things[place] for place in order)} for things in (first, second, *mixed)]
    return _label_pairs(("yes", "no"), rows)


def make_reference_rows(rng: SeededRandom, is_training: bool) -> list[RowDict]:
    """Make four rows: two things and a later mention of one of them by its kind, each with both things."""
    kinds = _two_kinds(rng)
    words = [_pick(rng, kind, is_training)[0] for kind in kinds]
    first, second = rng.shuffled([noun_phrase(word) for word in words])
    frame = _fill(rng, _REFERENCE_FRAMES)
    texts = [frame.format(first=first, second=second, kind=kind.name) for kind in kinds]
    rows = [{"text": texts[i], "mention": f"the {kinds[i].name}", "thing": f"the {words[j]}"} for i, j in _CROSSED]
    return _label_pairs(("yes", "no"), rows)


def make_contents_rows(rng: SeededRandom, is_training: bool) -> list[RowDict]:
    """Make four rows: two lists that differ in one thing, each with a question on both kinds."""
    kinds = _two_kinds(rng)
    others = [
        kind
        for kind in KINDS.values()
        if not any(kind is own or frozenset((kind.name, own.name)) in CONFUSABLE_KINDS for own in kinds)
    ]
    fillers = [noun_phrase(_pick(rng, kind, is_training)[0]) for kind in rng.sample(others, 2)]
    frame, order = _fill(rng, _LIST_FRAMES), rng.shuffled(range(3))
    passages = []
    for kind in kinds:
        things = [noun_phrase(_pick(rng, kind, is_training)[0]), *fillers]
        first, second, third = (things[place] for place in order)
        passages.append(frame.format(items=f"{first}, {second} and {third}"))
    questions = [f"Is one of them {with_article(kind.name)}?" for kind in kinds]
    rows = [{"passage": passages[i], "question": questions[j]} for i, j in _CROSSED]
    return _label_pairs(("yes", "no"), rows)


LEXICAL_GROUP_MAKERS: dict[str, GroupMaker] = {
    "lexical_sentiment": make_sentiment_rows,
    "lexical_kinds": make_kind_rows,
    "lexical_entailment": make_entailment_rows,
    "lexical_paraphrase": make_paraphrase_rows,
    "lexical_uses": make_use_rows,
    "lexical_purposes": make_purpose_rows,
    "lexical_topics": make_topic_rows,
    "lexical_groups": make_group_rows,
    "lexical_reference": make_reference_rows,
    "lexical_contents": make_contents_rows,
}
"""Function that makes a group of rows of each task."""


@lru_cache(maxsize=len(LEXICAL_GROUP_MAKERS))
def lexical_rows_by_split(task: str) -> dict[str, tuple[RowDict, ...]]:
    """Return the rows of a lexical task by split; all rows are different, within and across splits."""
    seen_texts: set[str] = set()
    rows_by_split: dict[str, tuple[RowDict, ...]] = {}
    for split, size in LEXICAL_SPLIT_SIZES.items():
        rows: list[RowDict] = []
        for attempt in range(_MAX_ATTEMPTS):
            if len(rows) >= size:
                break
            rng = SeededRandom("lexical task", task, split, attempt)
            group = LEXICAL_GROUP_MAKERS[task](rng, split == "train")
            texts = {repr(sorted(row.items())) for row in group}
            if len(texts) < len(group) or seen_texts & texts:
                continue
            seen_texts |= texts
            rows += rng.shuffled(group)
        rows_by_split[split] = tuple(rows)
    return rows_by_split
