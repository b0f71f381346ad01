"""Text metrics against values computed by hand, and the published cases of the official scripts."""

from __future__ import annotations

import gzip
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from metalm_cli.evaluation.metrics import normalisation, text_metrics
from metalm_cli.evaluation.metrics.task_metrics import score_of_example
from metalm_cli.tasks import Example


@pytest.mark.parametrize(
    ("text", "normal"),
    [("The  Cat's hat, a lie.", "cats hat lie"), ("An  answer!", "answer"), ("theatre", "theatre"), ("a the an", "")],
)
def test_squads_normalisation(text, normal) -> None:
    assert normalisation.normalise_squad(text) == normal


# Values of SQuAD's evaluate-v1.1.py: F1 is 0 without a common word, and a text of punctuation or articles is empty. The
# last two rows deviate in F1, where the script gives an answer equal to its reference 0.
@pytest.mark.parametrize(
    ("prediction", "reference", "f1", "exact"),
    [
        ("the Broncos!", "Broncos", 1.0, 1.0),
        ("red ball", "a ball of red wool", 2 / 3, 0.0),
        ("red red", "red", 2 / 3, 0.0),
        ("blue", "red", 0.0, 0.0),
        ("", "red", 0.0, 0.0),
        ("the", "a", 0.0, 1.0),
        ("", "!", 0.0, 1.0),
        ("-", "+", 0.0, 1.0),
        ("5", "-5", 1.0, 1.0),
        ("15", "1.5", 1.0, 1.0),
        ("C", "C++", 1.0, 1.0),
        ("12", "1/2", 1.0, 1.0),
        ("5", "−5", 0.0, 0.0),
        ("müller", "MÜLLER", 1.0, 1.0),
        ("Mueller", "Müller", 0.0, 0.0),
        ("北京。", "北京", 0.0, 0.0),
        ("unanswerable", "an unanswerable question", 2 / 3, 0.0),
        (")", ")", 1.0, 1.0),
        ("the", "the ", 1.0, 1.0),
    ],
)
def test_squads_metrics(prediction, reference, f1, exact) -> None:
    assert text_metrics.squad_f1(prediction, reference) == pytest.approx(f1)
    assert text_metrics.squad_em(prediction, reference) == exact


# Values of SQuAD's evaluate-v2.0.py, in which the empty answer of unanswerable questions is a word here.
@pytest.mark.parametrize(
    ("prediction", "references", "f1", "exact"),
    [
        ("", ["unanswerable"], 1.0, 1.0),
        ("Unanswerable.", ["unanswerable"], 1.0, 1.0),
        ("the", ["unanswerable"], 1.0, 1.0),
        ("red", ["unanswerable"], 0.0, 0.0),
        ("", ["red"], 0.0, 0.0),
        ("unanswerable", ["red"], 0.0, 0.0),
        ("unanswerable question", ["unanswerable"], 0.0, 0.0),
        ("unanswerable", ["an unanswerable question"], 0.0, 0.0),
        ("red ball", ["blue", "a ball of red wool"], 2 / 3, 0.0),
        ("", ["the Yom Kippur war", "."], 0.0, 0.0),
        ("?", ["."], 1.0, 1.0),
        ("15", ["1.5"], 1.0, 1.0),
    ],
)
def test_squad_2s_metrics(prediction, references, f1, exact) -> None:
    example = Example("task", 0, {}, tuple(references))
    assert score_of_example("squad_v2_f1", prediction, example) == pytest.approx(f1)
    assert score_of_example("squad_v2_em", prediction, example) == exact


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "f1"),
    [
        ("The Broncos!", "broncos", 1.0, 1.0),
        ("red ball", "a ball of red wool", 0.0, 4 / 6),
        ("“New York”.", "New York", 1.0, 1.0),
        ("(A)", "A", 1.0, 1.0),
        ("A", "the", 0.0, 0.0),
        ("a b a", "b", 0.0, 0.5),
        ("", "(A)", 0.0, 0.0),
        ("", ".", 0.0, 0.0),
        ("", "the", 0.0, 0.0),
        ("-", "+", 0.0, 0.0),
        ("?", "!", 0.0, 0.0),
        (")", "[", 0.0, 0.0),
        ("[", "[", 1.0, 1.0),
        ('" "', '""', 0.0, 0.0),
        ("5", "-5", 0.0, 0.0),
        ("-5", "\u22125", 1.0, 1.0),
        ("15", "1.5", 0.0, 0.0),
        ("15", "1,5", 0.0, 0.0),
        ("1,200.", "1200", 1.0, 1.0),
        ("3", "3.0", 1.0, 1.0),
        ("3.", "3.0", 1.0, 1.0),
        ("30", "3.0", 0.0, 0.0),
        ("3.10", "3.1", 0.0, 0.0),
        ("10.0.1", "10.1", 0.0, 0.0),
        ("5!", "5", 0.0, 0.0),
        ("130", "1:30", 0.0, 0.0),
        ("C", "C++", 0.0, 0.0),
        ("C", "C#", 0.0, 0.0),
        ("12", "1/2", 0.0, 0.0),
        ("50", "50%", 0.0, 0.0),
        ("$5", "€5", 0.0, 0.0),
        ("(0, 1]", "[0, 1)", 0.0, 0.0),
        ("2*(x+1)", "2*x+1", 0.0, 0.0),
        ("x2", "x²", 0.0, 0.0),
        ("mu\u0308ller", "Müller", 1.0, 1.0),
        ("Muller", "Müller", 0.0, 0.0),
        ("北京。", "北京", 1.0, 1.0),
        ("北京大学", "北京", 0.0, 4 / 6),
        ("5度", "-5度", 0.0, 0.5),
        ("да!", "Да", 1.0, 1.0),
        ("нет", "Да", 0.0, 0.0),
    ],
)
def test_exact_match_and_token_f1_keep_what_distinguishes_answers(prediction, reference, exact, f1) -> None:
    assert text_metrics.exact_match(prediction, reference) == exact
    assert text_metrics.token_f1(prediction, reference) == pytest.approx(f1)
    assert text_metrics.exact_match(reference, reference) == text_metrics.token_f1(reference, reference) == 1


def test_articles_of_other_languages_remain() -> None:
    assert text_metrics.exact_match("a casa", "casa", "pt") == 0
    assert text_metrics.exact_match("a house", "house", "en-GB") == 1


# Values of Super-NaturalInstructions' evaluation.py: as SQuAD with articles, and ROUGE-L with stemming in English.
@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "rouge"),
    [
        ("", "the", 0.0, 0.0),
        ("a", "the", 0.0, 0.0),
        ("", "A", 0.0, 0.0),
        ("The dog!", "the dog", 1.0, 1.0),
        ("dog", "the dog", 0.0, 2 / 3),
        ("?", "!", 1.0, 0.0),
        ("+", "+", 1.0, 0.0),
        ("5", "-5", 1.0, 1.0),
        ("1.5", "15", 1.0, 0.0),
        ("walking dogs", "walked a dog", 0.0, 0.8),
        ("Müller", "müller", 1.0, 1.0),
    ],
)
def test_super_natural_instructions_metrics(prediction, reference, exact, rouge) -> None:
    assert text_metrics.super_ni_em(prediction, reference) == exact
    assert text_metrics.super_ni_rouge(prediction, reference, "en") == pytest.approx(rouge)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Spider-Man", "spider man"),
        ("snake_case", "snake case"),
        ("O’Neill’s ‘hat’", "o neill s hat"),
        ("`a´ dog", "dog"),
        ("Sunset Blvd.", "sunset blvd"),
        ("A.", ""),
        ("“x”", "“x”"),
    ],
)
def test_trivia_qas_normalisation(text, normal) -> None:
    assert normalisation.normalise_trivia(text) == normal


def test_trivia_qa_splits_words_where_squad_joins_them() -> None:
    assert (
        text_metrics.trivia_em("Spider-Man", "spider man"),
        text_metrics.squad_em("Spider-Man", "spider man"),
    ) == (1, 0)
    assert text_metrics.trivia_f1("the Spider-Man", "man") == pytest.approx(2 / 3)
    assert text_metrics.trivia_f1("", "the") == 0, "no word in common scores 0, as in the official script"


# Values of TriviaQA's triviaqa_evaluation.py.
@pytest.mark.parametrize(
    ("prediction", "reference", "exact"),
    [("", "!", 1), ("-5", "5", 1), ("1.5", "15", 0), ("1.5", "1 5", 1), ("C", "C++", 1), ("", "C", 0), ("é", "e", 0)],
)
def test_trivia_qa_on_signs_and_symbols(prediction, reference, exact) -> None:
    assert text_metrics.trivia_em(prediction, reference) == exact


# Values of DROP's drop_eval.py: a hyphen separates words, also before a number.
@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "f1"),
    [
        ("", "30", 0, 0),
        ("5", "-5", 1, 1),
        ("15", "1.5", 0, 0),
        ("1.50", "1.5", 1, 1),
        ("1,200", "1200", 1, 1),
        ("30", "30%", 1, 1),
        ("", "%", 1, 1),
        ("the", "-", 1, 1),
        ("x", "-", 0, 0),
    ],
)
def test_drop_on_signs_and_symbols(prediction, reference, exact, f1) -> None:
    assert text_metrics.drop_em(prediction, reference) == exact
    assert text_metrics.drop_f1(prediction, reference) == f1


# Cases of DROP's own tests (allenai/allennlp, drop_eval): predictions, references, exact match and F1.
DROP = [
    (["78"], ["78.0"], 1.0, 1.0),
    (["td"], ["td", "td"], 0.0, 0.5),
    (["td", "td"], ["td"], 0.0, 0.5),
    (["the", "fat", "cat", "the fat", "fat cat", "the fat cat"], ["cat"], 0.0, 0.17),
    (["cat"], ["the", "fat", "cat", "the fat", "fat cat", "the fat cat"], 0.0, 0.17),
    (["the", "fat", "cat", "the fat", "fat cat", "the fat cat"], ["cat", "cat dog"], 0.0, 0.25),
    (["td"], ["the td"], 1.0, 1.0),
    (["the a NOT an ARTICLE the an a"], ["NOT ARTICLE"], 1.0, 1.0),
    (["John Elton"], ["Elton John"], 0.0, 1.0),
    (["50 yard"], ["yard 50"], 0.0, 1.0),
    (["order word right"], ["right word order"], 0.0, 1.0),
    (["Per.i.o.d...."], [".P....e.r,,i;;;o...d,,"], 1.0, 1.0),
    (["Spa     c  e   s     "], ["    Spa c     e s"], 1.0, 1.0),
    (["78-yard"], ["78 yard"], 1.0, 1.0),
    (["78 yard"], ["78-yard"], 1.0, 1.0),
    (["78"], ["78-yard"], 0.0, 0.67),
    (["78-yard"], ["78"], 0.0, 0.67),
    (["This was a triumph"], ["tHIS Was A TRIUMPH"], 1.0, 1.0),
    (["Green bay packers"], ["Green bay packers"], 1.0, 1.0),
    (["Green bay", "packers"], ["Green bay", "packers"], 1.0, 1.0),
    (["Green", "bay", "packers"], ["Green", "bay", "packers"], 1.0, 1.0),
    ([""], ["army"], 0.0, 0.0),
    (["packers"], ["Green bay packers"], 0.0, 0.5),
    (["packers"], ["Green bay"], 0.0, 0.0),
    (["yard"], ["36 yard td"], 0.0, 0.0),
    (["23 yards"], ["43 yards"], 0.0, 0.0),
    (["56 yards"], ["56 yd"], 0.0, 0.5),
    (["26"], ["26 yard td"], 0.0, 0.5),
    (["78-yard", "56", "28", "40", "44", "touchdown"], ["78-yard", "56 yard", "1 yard touchdown"], 0.0, 0.28),
    (["23", "23 yard"], ["23-yard", "56 yards"], 0.0, 0.5),
    (["John Karman", "Joe Hardy"], ["Joe Karman", "John Hardy"], 0.0, 0.5),
    (["ottoman", "Kantakouzenous"], ["ottoman", "army of Kantakouzenous"], 0.0, 0.75),
    (["a"], ["a", "b"], 0.0, 0.5),
    (["b"], ["b", "a"], 0.0, 0.5),
]


@pytest.mark.parametrize(("predicted", "reference", "exact", "f1"), DROP)
def test_official_drop_cases(predicted, reference, exact, f1) -> None:
    assert text_metrics.drop_scores(predicted, reference) == (exact, f1)


@pytest.mark.parametrize("text", ["12.0", "12.0  ", "12.000", "12", "  1.2e1  ", "$12"])
def test_drop_reads_numbers_as_numbers(text) -> None:
    assert normalisation.normalise_drop(text) == "12.0"


def test_drops_normalisation() -> None:
    assert normalisation.normalise_drop("12.0 persons") == "12.0 persons"
    assert normalisation.normalise_drop("S.K. Singh") == "sk singh"


def test_drop_on_texts() -> None:
    # The official annotations are 17 August, August, 17; a text is one span unless semicolons separate several.
    answers = ("17 August", "August", "17")
    assert text_metrics.best_over_references(text_metrics.drop_em, "17 August", answers) == 1
    assert (text_metrics.drop_em("span1", "span1; span2"), text_metrics.drop_f1("span1", "span1; span2")) == (0, 0.5)
    assert text_metrics.drop_em("b; a thing", "thing; b") == 1
    assert (
        text_metrics.drop_f1("", "army"),
        text_metrics.drop_f1("none", "none"),
        text_metrics.drop_f1("none", "None; two"),
    ) == (0, 1, 0.5)


def test_official_clues_case() -> None:
    predicted = [["a", "b"], [], ["c"], ["d", "e"]]
    reference = [["b", "c", "d"], [], [], ["f", "g"]]
    assert sum(map(text_metrics.s1, predicted, reference)) / 4 == 0.35


def test_s1_is_of_sets() -> None:
    assert text_metrics.s1(["a", "b", "a"], ["b", "a"]) == 1
    assert text_metrics.s1(["Paris"], ["paris"]) == 0
    assert text_metrics.s1([], [""]) == 0, (
        "no answer differs from an empty answer: the card states which one its data set uses"
    )
    assert text_metrics.s1([""], [""]) == 1
    assert text_metrics.listed_s1("Paris;  New York ", "New York; Rome") == 0.5
    assert text_metrics.listed_s1("None", "none") == 1
    assert text_metrics.listed_s1("", "none") == 1
    assert text_metrics.listed_s1("Paris", "none") == 0


@pytest.mark.parametrize(
    ("name", "empty", "value"),
    [("clues_conll03", [""], 51.33), ("clues_wikiann", [""], 62.83), ("clues_squad_v2", [], 49.5)],
)
def test_empty_answers_score_what_clues_publishes_for_them(name, empty, value) -> None:
    path = Path(os.environ.get("METALM_DATA", "no data")) / name / "test.jsonl.gz"
    if not path.is_file():
        pytest.skip("METALM_DATA has no CLUES")
    rows = [json.loads(line)["answer"] for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert round(100 * sum(text_metrics.s1(empty, reference) for reference in rows) / len(rows), 2) == value


def test_rouge_by_hand() -> None:
    # Lin 2004, section 3.1: S1 is the reference; S2 and S3 share 2 bigram-free orders of it.
    reference, second, third = "police killed the gunman", "police kill the gunman", "the gunman kill police"
    assert text_metrics.rouge(second, reference, "rougeL") == pytest.approx(3 / 4)
    assert text_metrics.rouge(third, reference, "rougeL") == pytest.approx(2 / 4)
    assert (
        text_metrics.rouge(second, reference, "rouge2")
        == text_metrics.rouge(third, reference, "rouge2")
        == pytest.approx(1 / 3)
    )
    # 3 of 4 predicted words are among 6: precision 3/4, recall 3/6.
    assert text_metrics.rouge("The cat, the hat", "the CAT sat on the mat", "rouge1") == pytest.approx(
        2 * 0.75 * 0.5 / 1.25
    )
    assert text_metrics.rouge("the hat the cat", "the cat sat on the mat", "rougeL") == pytest.approx(2 * 2 / 10)
    for empty, other in (("", "word"), ("word", ""), ("", ""), ("…", "word"), ("one", "one")):
        assert text_metrics.rouge(empty, other, "rouge2") == 0
    assert text_metrics.rouge("one", "one", "rouge1") == 1
    assert text_metrics.rouge("walking", "walked", "rouge1") == 0, "there is no stemming"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("ru", "Кошка спит на крыше"),
        ("en", "Кошка спит на крыше"),
        ("zh-CN", "猫在屋顶上睡觉"),
        ("ja", "猫は屋根で寝ている"),
        ("th", "แมวนอนบนหลังคา"),
        ("ar", "القطة تنام"),
        ("hi", "बिल्ली सो रही है"),
        ("de", "Müller schläft"),
        ("en", "???"),
    ],
)
def test_rouge_of_a_text_is_1_for_itself_in_any_script(language, text) -> None:
    assert text_metrics.rouge(text, text, "rougeL", language) == 1
    assert text_metrics.rouge("", text, "rougeL", language) == 0
    assert text_metrics.rouge("§§ …", text, "rougeL", language) == 0


def test_rouge_by_language() -> None:
    # Two of four words, in both orders.
    assert text_metrics.rouge("кошка ест на полу", "Кошка спит на крыше.", "rougeL", "ru") == 0.5
    assert text_metrics.rouge("猫在床上", "猫在屋顶", "rougeL", "zh") == 0.5
    assert text_metrics.rouge("Möller", "Müller", "rougeL", "de") == 0, "an accented letter is part of its word"
    assert text_metrics.rouge("Mu\u0308ller", "Müller", "rougeL", "de") == 1
    assert text_metrics.rouge("m ller", "Müller", "rougeL", "en") == 1, "rouge-score's words are of ASCII letters"
    assert text_metrics.super_ni_rouge("perro gato", "gato perro negro", "spanish") == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 7 - 4 = 3, or $1,234.50.", "1234.50"),
        ("it is -5", "-5"),
        ("5-3", "3"),
        ("x = \u221212", "-12"),
        ("1,234,567 people", "1234567"),
        ("choose 1,2", "2"),
        (".5 litres", ".5"),
        ("18.", "18"),
        ("1e+20", "1e20"),
        ("2.5E3", "2500"),
        ("none", None),
    ],
)
def test_the_last_number(text, number) -> None:
    assert text_metrics.last_number(text) == (None if number is None else Decimal(number))
