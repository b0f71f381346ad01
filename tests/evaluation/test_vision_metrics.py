"""Metrics of questions about images, captions and retrieval, on values of their published definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metalm_cli.evaluation.metrics.caption_metrics import bleu4, bleu_counts, caption_tokens, cider, rouge_l
from metalm_cli.evaluation.metrics.retrieval import recall_at
from metalm_cli.evaluation.metrics.task_metrics import extra_metrics, metric_value, score_of_example
from metalm_cli.evaluation.metrics.vqa import CONTRACTIONS, normalise_vqa, vqa_accuracy
from metalm_cli.tasks import Cards, Example


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_is_that_of_the_subsets_of_nine(matches: int, accuracy: float) -> None:
    answers = ["blue"] * matches + ["navy"] * (10 - matches)
    assert vqa_accuracy("blue", answers) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("the t-shirt", "t shirt"),
        ("red , blue", "red blue"),
        ("red/blue", "red blue"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("an apple a day", "apple day"),
        ("it's", "it's"),
        ("what?", "what"),
        ("black & white", "black & white"),
    ],
)
def test_the_official_normalisation(text: str, normalised: str) -> None:
    assert normalise_vqa(text) == normalised


def test_nothing_is_normalised_if_all_people_agree() -> None:
    assert vqa_accuracy("Yes", ["yes"] * 10) == 0
    assert vqa_accuracy("Yes", ["yes"] * 9 + ["no"]) == 1


def test_the_table_of_contractions_is_the_official_one() -> None:
    assert len(CONTRACTIONS) == 114
    assert {word.replace("'", "") for word in CONTRACTIONS.values()} >= {"theredve", "yalldve", "owsat", "twas"}


CAPTIONS = [
    ("a dog sits on a red sofa", ["a dog sits on a sofa", "the brown dog is on a red sofa"]),
    ("a cat", ["a cat sleeps under the table", "one cat is asleep"]),
    ("two men play ball", ["two men play football", "men play ball on grass"]),
]


def test_bleu4_of_the_definition() -> None:
    """Papineni et al. 2002: 12 of 13 words, 8 of 10 pairs, 4 of 7 triples, 1 of 5 quadruples, lengths 13 and 14."""
    counts = [bleu_counts(text.split(), [reference.split() for reference in all_]) for text, all_ in CAPTIONS]
    sums = np.array(counts).sum(axis=0)
    assert sums[2:6].tolist() == [13, 10, 7, 5]
    precision = sums[6:] / sums[2:6]
    brevity = math.exp(1 - sums[1] / sums[0]) if sums[0] < sums[1] else 1
    expected = brevity * math.exp(np.log(precision).mean())
    assert float(bleu4(np.array(counts, dtype=float), np.zeros(3))) == pytest.approx(expected, rel=1e-6)
    assert sums[:2].tolist() == [13, 14]


def test_rouge_l_takes_precision_and_recall_of_different_references() -> None:
    text, references = "a b c d", ["a b c x y z", "a b"]
    precision, recall = 3 / 4, 2 / 2
    assert rouge_l(text, references) == pytest.approx(2.44 * precision * recall / (recall + 1.44 * precision))
    assert rouge_l("", references) == rouge_l("q", references) == 0


def test_cider_of_the_definition_on_single_words() -> None:
    """Captions of one word: only the order 1 counts, so that a match is 10 / 4 for each reference that has it."""
    texts, references = [["cat"], ["dog"], ["cat"]], [[["cat"], ["cow"]], [["dog"]], [["sun"]]]
    assert cider(texts, references) == pytest.approx([10 / 4 / 2, 10 / 4, 0])


def test_cider_weighs_rare_words_and_lengths() -> None:
    references = [[["a", "cat"]], [["a", "dog"]], [["a", "cow"]]]
    exact, common, longer = cider([["a", "cat"], ["a", "bird"], ["a", "cow", "x", "x"]], references)
    assert exact == pytest.approx(10 / 2)  # the orders 1 and 2 of four; "a" is in all images and weighs nothing
    assert common == 0
    own_norms = math.log(3) * math.sqrt(1 + 2**2), math.log(3) * math.sqrt(3)
    similarity = (math.log(3) / own_norms[0] + math.log(3) / own_norms[1]) / 4
    assert longer == pytest.approx(10 * similarity * math.exp(-(2**2) / (2 * 6**2)))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man's t-shirt.", "a man 's t-shirt"),
        ("They don't, can't and won't!", "they do n't ca n't and wo n't"),
        ("It cannot be (really); \u201cquoted\u201d -- no...", "it can not be really quoted no"),
        ("3.5 of 1,000 at 10:30 p.m.", "3.5 of 1,000 at 10:30 p.m."),
        ("Mr. Lee, 2nd St.", "mr. lee 2nd st."),
        ("I'm sure they'll've", "i 'm sure they 'll 've"),
    ],
)
def test_tokens_of_captions(text: str, tokens: str) -> None:
    assert caption_tokens(text) == tokens.split()


def test_the_scores_of_a_task_are_those_of_its_scorers() -> None:
    examples = [Example("t", row, {}, tuple(references)) for row, (_, references) in enumerate(CAPTIONS)]
    predictions = [text for text, _ in CAPTIONS]
    card = Cards()["flickr8k"]
    score = metric_value(card.metric.name, predictions, examples)
    tokens = [[reference.split() for reference in references] for _, references in CAPTIONS]
    values = cider([text.split() for text in predictions], tokens)
    assert score.value == pytest.approx(100 * np.mean(values))
    assert score.error is not None
    extra = extra_metrics(card, predictions, examples)
    assert set(extra) == {"coco_bleu4", "coco_rougeL"}
    rouge = [rouge_l(text, references) for text, references in CAPTIONS]
    assert extra["coco_rougeL"] == pytest.approx(100 * np.mean(rouge))
    assert score_of_example("cider", predictions[0], examples[0]) is None
    assert score_of_example("coco_bleu4", "a dog sits on a sofa", examples[0]) == pytest.approx(1)


def test_vqa_accuracy_takes_all_answers_of_people() -> None:
    example = Example("t", 0, {}, ("red", "red", "crimson", *["dark red"] * 7))
    assert metric_value("vqa_accuracy", ["Red."], [example]).value == pytest.approx(60)


def test_recall_counts_the_best_relevant_item_and_ties_against_it() -> None:
    similarity = np.array([[0.1, 0.9, 0.5, 0.2], [0.3, 0.3, 0.3, 0.3], [0.4, 0.1, 0.2, 0.3]])
    relevant = [[2, 3], [0], [0]]
    assert recall_at(similarity, relevant, [1, 2, 3, 4]) == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 2 / 3, 4: 1.0})
    with pytest.raises(ValueError, match="needs a relevant item"):
        recall_at(similarity, [[0], [], [1]], [1])
