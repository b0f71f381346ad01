"""Every shipped card with its metric: the score of a model that gives the reference, and of one that says nothing."""

from __future__ import annotations

import gzip
import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.evaluation.metrics.task_metrics import extra_metrics, metric_value
from metalm_cli.tasks import Card, Cards, Example, ExampleMaker
from metalm_cli.tasks.derived_card import default_split

CARDS = Cards()
ROW_LIMIT = 60
ZERO_FOR_ITSELF = ("rouge2", "trivia_f1")
"""Additional metrics whose official scripts give 0 to some texts for themselves: one word, or articles alone."""
DOCUMENT = {"id": "1", "document": "A long document.", "article": "A long article.", "dialogue": "Ann: Hi!"}
SENTENCE_PAIR = {"sentence1": "Tea is hot .", "sentence2": "Hot is the tea .", "idx": 0}
NLI = {"uid": "u", "premise": "A cat sleeps.", "hypothesis": "An animal sleeps.", "reason": ""}
TRIVIA = {"question": "Which?", "question_id": "q", "question_source": ""}
PARAGRAPH = {"paragraph": "It rains.", "question": "What falls?", "answer": "Rain", "idx": {}}
STORY = {f"input_sentence_{number}": f"Sentence {number}." for number in range(1, 5)}
RECORD = {
    "passage": "Ann Lee won in Oslo.\n@highlight\nBob Ray came second",
    "query": "It was the second title for @placeholder.",
    "entities": ["Oslo", "Ann Lee", "Lee", "Bob Ray"],
    "idx": {"passage": 0, "query": 0},
}
TRIPLES = [["Mars Hill", "JOINED", "1973"]]
PICTURE = {"bytes": b"not opened", "path": "1.jpg"}
CAPTIONS = [
    "A dog sits on a red sofa.",
    "A dog on a sofa that is red.",
    "A cat sleeps below it.",
    "One cat is asleep.",
]


def vqa_answers(answers: list[str]) -> list[dict[str, Any]]:
    """Return answers of people as VQAv2 lists them."""
    return [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(answers, start=1)]


VQA_ROW = {
    "question_type": "what is",
    "multiple_choice_answer": "t-shirt",
    "answers": vqa_answers(["t-shirt"] * 4 + ["t shirt", "shirt", "A T-shirt.", "shirt", "shirt", "blouse"]),
    "image_id": 1,
    "answer_type": "other",
    "question_id": 1000,
    "question": "What is worn?",
    "image": PICTURE,
}
HUB_ROWS: dict[str, list[dict[str, Any]]] = {
    "ag_news": [{"text": f"News {label}.", "label": label} for label in (0, 1, 3)],
    "anli_r3": [{**NLI, "label": label} for label in (0, 1, 2)],
    "cnn_dailymail": [{**DOCUMENT, "highlights": text} for text in ("It rained .\nAgain .", "3-0")],
    "cosmos_qa": [
        {"context": "c", "question": "q", **{f"answer{n}": f"{n} cats." for n in range(4)}, "label": label}
        for label in (0, 3)
    ],
    "dart": [
        {"tripleset": TRIPLES, "target": "Mars Hill joined.", "references": []},
        {"tripleset": TRIPLES, "target": "x", "references": ["It joined in 1973.", "Mars Hill joined in 1973."]},
    ],
    "gigaword": [{**DOCUMENT, "summary": text} for text in ("nec up ## percent", "ok")],
    "multirc": [{**PARAGRAPH, "label": label} for label in (0, 1)],
    "paws_wiki": [{**SENTENCE_PAIR, "id": 1, "label": label} for label in (0, 1)],
    "record": [{**RECORD, "answers": answers} for answers in (["Ann Lee", "Lee"], ["Oslo"])],
    "samsum": [{**DOCUMENT, "summary": text} for text in ("Ann says hi.", "Bob is late.")],
    "story_cloze": [
        {**STORY, "sentence_quiz1": "She won.", "sentence_quiz2": "She won!", "answer_right_ending": right}
        for right in (1, 2)
    ],
    "stsb": [{**SENTENCE_PAIR, "label": label} for label in (0.0, 2.5, 5.0)],
    "trivia_qa": [
        {**TRIVIA, "answer": {"value": value, "aliases": aliases}}
        for value, aliases in (("C++", ["C Plus Plus"]), ("The The", []), ("−5 °C", ["-5"]))
    ],
    "web_nlg": [
        {
            "gem_id": "web_nlg_en-1",
            "input": ["Mars_Hill | joined | 1973"],
            "target": "It did.",
            "references": references,
        }
        for references in ([], ["Mars Hill joined in 1973."])
    ],
    "vqav2": [VQA_ROW, {**VQA_ROW, "question": "How many?", "answers": vqa_answers(["2"] * 10)}],
    "okvqa": [VQA_ROW],
    "gqa": [{"imageId": "n1", "question": "Is it wet?", "answer": text} for text in ("yes", "no")],
    "coco_captions": [{"filepath": "val2014", "filename": f"{n}.jpg", "sentences": CAPTIONS[n:]} for n in (0, 1)],
    "nocaps": [{"image": PICTURE, "annotations_captions": CAPTIONS[n:]} for n in (0, 1)],
    "flickr30k": [{"image": PICTURE, "caption": CAPTIONS[n:]} for n in (0, 1)],
    "nlvr2": [
        {"left_image": PICTURE, "right_image": PICTURE, "sentence": "Both are wet.", "label": label}
        for label in ("True", "False")
    ],
    "snli_ve": [{"image": PICTURE, "hypothesis": "It rains.", "label": label} for label in (0, "contradiction")],
    "e_snli_ve": [
        {"Flickr30kID": "1.jpg", "hypothesis": "It rains.", "gold_label": "neutral", "explanation": "It may."},
    ],
    "winogrande": [
        {"sentence": "Ann thanked Eve, as _ had helped.", "option1": "Ann", "option2": "Eve", "answer": answer}
        for answer in "12"
    ],
}
"""Rows in the format of the hub."""


def examples_of(card: Card, path: Path, folder: Path | None) -> list[Example]:
    """Return the first examples of a card: of the miniature world, of local data, or of rows in the hub's format."""
    role = default_split(card)
    if card.world is not None:
        source = open_examples(card, role, card_path=path)
        return [example for example in islice(source, ROW_LIMIT) if example is not None]
    split = card.split(role, local=True)
    name = card.local.name if card.local is not None else card.name
    file = None if folder is None or split is None else folder / name / f"{split.name}.jsonl.gz"
    if card.name in HUB_ROWS:
        rows = HUB_ROWS[card.name]
    elif file is not None and file.is_file():
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in islice(lines, ROW_LIMIT)]
    else:
        pytest.skip(f"METALM_DATA has no {split.name if split is not None else role} split of {name}")
    make = ExampleMaker(card, image_root="." if card.images else None)
    examples = (make(row, index, lambda: "a row") for index, row in enumerate(rows))
    return [example for example in examples if example is not None]


def empty_score(card: Card, examples: list[Example]) -> float:
    """Return what the official script of a card's data set gives to empty answers.

    SQuAD 2.0 scores an empty answer 1 where a question has no answer. TriviaQA's exact match removes articles, so that
    an alias of articles alone equals the empty answer. All others score it 0.
    """
    if card.name == "squad_v2":
        return 100 * sum(example.answers == ("unanswerable",) for example in examples) / len(examples)
    if card.name == "trivia_qa":
        return 100 * sum(example.answers == ("The The",) for example in examples) / len(examples)
    return 0.0


@pytest.mark.parametrize("name", sorted(CARDS.paths))
def test_references_score_100_and_empty_answers_what_the_official_script_says(name: str) -> None:
    card = CARDS[name]
    examples = examples_of(
        card, CARDS.paths[name], Path(os.environ["METALM_DATA"]) if "METALM_DATA" in os.environ else None
    )
    references = [example.answers[0] for example in examples]
    value = metric_value(card.metric.name, references, examples).value
    assert value > 0 if card.metric.name == "cider" else value == pytest.approx(100)
    extra = extra_metrics(card, references, examples)
    exact = {metric: value for metric, value in extra.items() if metric not in ZERO_FOR_ITSELF}
    assert list(exact.values()) == pytest.approx([100] * len(exact))
    empty = metric_value(card.metric.name, [""] * len(examples), examples).value
    assert empty == pytest.approx(empty_score(card, examples))


@pytest.mark.parametrize(
    ("answers", "text", "score"),
    [
        (("(A)",), "", 0),
        (("(A)",), ")", 0),
        (("(A)",), "(A) ", 1),
        (("-5",), "5", 0),
        (("] )",), "[", 0),
        (("] )",), "] )", 1),
        (("Yes",), "yes", 0),
    ],
)
def test_bbh_is_scored_literally(answers, text, score) -> None:
    # The answer of Suzgun et al. 2022 is right if it is the target, letter for letter.
    assert metric_value(CARDS["bbh"].metric.name, [text], [Example("bbh", 0, {}, answers)]).value == 100 * score
