"""The hold-out audit: 13 words are found, 12 are not; excluding rows and failing; data of the base model."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import load_cards, open_training_tasks, select_tasks
from metalm_cli.errors import MetalmError
from metalm_cli.provenance import audit as module
from metalm_cli.provenance.audit import Audit, apply_audit, audit
from metalm_cli.provenance.ngram_index import NgramIndex, hash_ngrams, ngrams, words_of

WORDS = [f"{first}{second}" for first in "bdfglmnprst" for second in ("anu", "edo", "iri", "oka", "ulm", "awn")]


def prose(seed: int, count: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


class CardFolder:
    """Cards in a folder: ``trained`` is trained on, ``heldout`` is held out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def card(self, name: str, cluster: str, **rows: list[str]) -> None:
        splits = {}
        for role, texts in rows.items():
            lines = [json.dumps({"text": text, "label": index % 2}) + "\n" for index, text in enumerate(texts)]
            (self.folder / f"{name}-{role}.jsonl").write_text("".join(lines), encoding="utf-8")
            splits[role] = role
        card = {
            "name": name,
            "cluster": cluster,
            "description": "A test.",
            "hub": {"id": f"nobody/{name}"},
            "usage": "train_and_eval" if "train" in rows else "eval",
            "splits": splits,
            "fields": {"text": "text"},
            "answer": {"label": "label", "class_names": ["a", "b"], "verbalizers": {"a": "no", "b": "yes"}},
            "metric": {"name": "accuracy", "source": "this test"},
            "licence": "none",
            "citation": "none",
        }
        place = self.folder / "root" / name
        place.mkdir(parents=True)
        for role in rows:
            (self.folder / f"{name}-{role}.jsonl").rename(place / f"{role}.jsonl")
        (self.folder / "cards").mkdir(exist_ok=True)
        (self.folder / "cards" / f"{name}.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")

    def options(self, **changes: Any) -> TaskDataConfig:
        settings = {
            "tasks": ["trained"],
            "hold_out": ["heldout"],
            "templates": {"collection": "plain"},
            **changes,
        }
        return TaskDataConfig(cards=[str(self.folder / "cards")], **settings)

    def run(self, lineages: tuple[dict[str, Any], ...] = (), **changes: Any) -> tuple[TaskCorpus, Audit]:
        options = self.options(**changes)
        locations: dict[str, Any] = {"data_root": self.folder / "root", "offline": True, "cache": self.folder / "cache"}
        corpus, selection = open_training_tasks(options, seed=0, **locations)
        return corpus, audit(corpus, selection.held_out, load_cards(options), lineages, **locations)


@pytest.fixture
def card_folder(tmp_path: Path) -> CardFolder:
    return CardFolder(tmp_path)


def test_thirteen_words_in_a_row_are_found_and_twelve_are_not(card_folder: CardFolder) -> None:
    held_out = prose(1, 40)
    train = [prose(seed, 30) for seed in range(10, 20)]
    train[3][5:18] = held_out[20:33]
    train[7][5:17] = held_out[20:32]
    card_folder.card("trained", "sentiment", train=[" ".join(words) for words in train])
    card_folder.card(
        "heldout", "misc", validation=[" ".join(prose(2, 40)), " ".join(held_out).upper().replace(" ", ", ")]
    )
    corpus, result = card_folder.run()
    assert result.rows == {"trained": [3]}
    [pair] = result.pairs
    assert (pair.train, pair.held_out, pair.rows, pair.of, pair.evaluation_rows) == (
        "trained",
        "heldout",
        1,
        10,
        1,
    )
    [overlap] = pair.examples
    assert overlap.words == " ".join(held_out[20:33])
    assert overlap.train.endswith("trained/train.jsonl:4")
    assert overlap.held_out.endswith("heldout/validation.jsonl:2")
    corpus = apply_audit(corpus, result)
    assert corpus.tasks[0].row_count == 9
    drawn = {corpus.get(number).example.row for number in range(100)}
    assert drawn == set(range(10)) - {3}


def test_short_texts_are_compared_as_a_whole(card_folder: CardFolder) -> None:
    question = "What is the capital of old Sardinia?"
    train = [
        "what is the capital of old sardinia",
        "So: " + question,
        "the capital of old Sardinia",
        " ".join(prose(1, 20)),
    ]
    card_folder.card("trained", "sentiment", train=train)
    card_folder.card("heldout", "misc", test=[question, "the capital of old Sardinia"])
    _, result = card_folder.run()
    assert result.rows == {"trained": [0]}, "the whole text of seven words; five are too few; a part does not match"


def test_overlaps_are_reported_or_fail(card_folder: CardFolder) -> None:
    shared = " ".join(prose(1, 20))
    card_folder.card("trained", "sentiment", train=[shared, " ".join(prose(2, 20))])
    card_folder.card("heldout", "misc", validation=[shared])
    corpus, result = card_folder.run(decontaminate="report")
    assert apply_audit(corpus, result) is corpus
    assert "are trained on nevertheless" in result.notes()[0]
    corpus, result = card_folder.run(decontaminate="fail")
    with pytest.raises(MetalmError) as caught:
        apply_audit(corpus, result)
    text = str(caught.value)
    assert "1 of trained with heldout" in text
    assert " ".join(prose(1, 13)) in text
    assert caught.value.exit_code == 2


def test_a_task_that_the_audit_empties_is_an_error(card_folder: CardFolder) -> None:
    shared = " ".join(prose(1, 20))
    card_folder.card("trained", "sentiment", train=[shared])
    card_folder.card("heldout", "misc", validation=[shared])
    corpus, result = card_folder.run()
    with pytest.raises(MetalmError, match="the audit excludes all training rows of trained"):
        apply_audit(corpus, result)


def test_rows_that_are_not_available_are_reported(card_folder: CardFolder) -> None:
    card_folder.card("trained", "sentiment", train=[" ".join(prose(1, 20))])
    card_folder.card("heldout", "misc", train=[" ".join(prose(1, 20))], validation=[" ".join(prose(2, 20))])
    (card_folder.folder / "root" / "heldout" / "validation.jsonl").unlink()
    _, result = card_folder.run()
    assert list(result.not_audited) == ["heldout/validation"]
    assert not result.pairs, "training rows of held-out tasks are not compared"
    assert "nothing was compared" in result.notes()[0]
    assert "heldout" in result.notes()[1]


def test_unlabelled_evaluation_rows_are_compared(card_folder: CardFolder) -> None:
    shared = " ".join(prose(1, 20))
    card_folder.card("trained", "sentiment", train=[shared, " ".join(prose(2, 20))])
    card_folder.card("heldout", "misc", test=["x"])
    (card_folder.folder / "root" / "heldout" / "test.jsonl").write_text(
        json.dumps({"text": shared, "label": -1}) + "\n"
    )
    assert card_folder.run()[1].rows == {"trained": [0]}


def test_only_rows_that_are_used_are_compared(card_folder: CardFolder) -> None:
    rows = [" ".join(prose(seed, 20)) for seed in range(50)]
    card_folder.card("trained", "sentiment", train=rows)
    card_folder.card("heldout", "misc", validation=rows)
    corpus, result = card_folder.run(mixture={"cap_examples": 10})
    assert result.rows["trained"] == sorted({corpus.get(number).example.row for number in range(100)})
    assert result.trained == {"trained": 10}


def test_a_result_is_cached_until_the_compared_rows_change(
    card_folder: CardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = " ".join(prose(1, 20))
    card_folder.card("trained", "sentiment", train=[shared, " ".join(prose(2, 20))])
    card_folder.card("heldout", "misc", validation=[" ".join(prose(3, 20))])
    _, first = card_folder.run()
    compared: list[int] = []
    comparison = module._Comparison

    def counting_comparison(splits: Any) -> Any:
        compared.append(1)
        return comparison(splits)

    monkeypatch.setattr(module, "_Comparison", counting_comparison)
    assert card_folder.run()[1] == first
    assert not compared
    (card_folder.folder / "root" / "heldout" / "validation.jsonl").write_text(
        json.dumps({"text": shared, "label": 0}) + "\n"
    )
    assert card_folder.run()[1].rows == {"trained": [0]}
    assert compared


def test_overlap_with_the_base_models_data_is_reported(card_folder: CardFolder, tmp_path: Path) -> None:
    shared = " ".join(prose(1, 20))
    card_folder.card("trained", "sentiment", train=[" ".join(prose(2, 20))])
    card_folder.card("heldout", "misc", validation=[shared, " ".join(prose(3, 20))])
    folder = card_folder.folder / "root" / "books"
    folder.mkdir()
    text = json.dumps({"meta": {"set": "x"}, "story": f"Once {shared} indeed"}) + "\n"
    (folder / "00.jsonl").write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    file = {"name": "00.jsonl", "sha256": sha256, "size": len(text)}
    books = {"name": "books", "kind": "path", "location": "/elsewhere", "rows": 1, "files": [file]}
    other = {**books, "name": "other", "files": [{**file, "sha256": "0" * 64}]}
    gone = {**books, "name": "gone", "files": [{**file, "name": "01.jsonl", "sha256": "1" * 64}]}
    hub: dict[str, Any] = {
        "name": "pile",
        "kind": "hub",
        "location": "some/pile",
        "revision": "abc",
        "rows": None,
        "files": [],
    }
    world = {"name": "world", "kind": "world", "location": "seed 3", "rows": 20, "files": []}
    _, result = card_folder.run(({"data": [books, other, gone, hub, world]},))
    assert result.base.seen == {"heldout": 1}
    assert result.base.read == ["books", "world"]
    assert set(result.base.not_read) == {"other", "gone", "pile"}
    assert result.rows == {"trained": []}
    assert any("seen in pretraining: 1 of 2" in note for note in result.notes())
    for source in (books, world):
        assert card_folder.run(({"data": [source]},))[1].base.read == [source["name"]], "another base is another audit"


def test_the_lineage_holds_counts_and_hashes_but_no_paths(card_folder: CardFolder) -> None:
    shared = " ".join(prose(1, 20))
    card_folder.card("trained", "sentiment", train=[shared, " ".join(prose(2, 20))])
    card_folder.card("heldout", "misc", validation=[shared])
    record = card_folder.run()[1].lineage()
    assert record["overlapping"] == {"trained": 1}
    assert record["pairs"][0]["rows"] == 1
    assert len(record["held_out"][0]["content"]["validation"]) == 64
    assert str(card_folder.folder) not in json.dumps(record)


def test_equal_ngrams_have_equal_hashes_and_different_ones_do_not() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcd", k=rng.choice([3, 6, 9, 12, 13, 14, 30]))) for _ in range(400)]
    hashes, owners = hash_ngrams(texts)
    spans = [(span, index) for index, text in enumerate(texts) for span in ngrams(words_of(text))]
    assert owners.tolist() == [owner for _, owner in spans]
    ngrams_of_hash: dict[int, set[tuple[str, ...]]] = {}
    for value, (span, _) in zip(hashes.tolist(), spans, strict=True):
        ngrams_of_hash.setdefault(value, set()).add(span)
    assert all(len(ngrams_with_hash) == 1 for ngrams_with_hash in ngrams_of_hash.values()), (
        "different spans have different hashes"
    )
    assert len(ngrams_of_hash) == len({span for span, _ in spans}), "equal spans have equal hashes"


def test_the_index_finds_what_a_plain_search_finds() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 60, 200).astype(np.uint64) << np.uint64(57)
    rows = rng.integers(0, 30, 200)
    tasks = np.sort(rng.integers(0, 4, 30))
    index = NgramIndex(hashes, rows, tasks)
    queries = rng.integers(0, 120, 300).astype(np.uint64) << np.uint64(57)
    positions, spans = index.find(queries)
    assert positions.tolist() == [n for n, query in enumerate(queries) if query in set(hashes.tolist())]
    ngram_positions, ngram_tasks = index.tasks_of(spans)
    task_pairs = {
        (int(positions[position]), int(task)) for position, task in zip(ngram_positions, ngram_tasks, strict=True)
    }
    expected = {
        (n, int(tasks[rows[m]])) for n, m in itertools.product(range(300), range(200)) if queries[n] == hashes[m]
    }
    assert task_pairs == expected
    shared = np.zeros(len(index.hashes), bool)
    shared[spans] = True
    assert np.flatnonzero(index.rows_with(shared)).tolist() == sorted(
        {int(rows[m]) for m in range(200) if hashes[m] in set(queries.tolist())}
    )


def test_real_tasks(data_root: Path, tmp_path: Path) -> None:
    options = TaskDataConfig(tasks=["boolq", "drop", "sst2"], hold_out=["nli"], on_missing_data="skip")
    locations: dict[str, Any] = {"data_root": data_root, "offline": True, "cache": tmp_path}
    corpus, selection = open_training_tasks(options, seed=0, **locations)
    start = time.monotonic()
    result = audit(corpus, selection.held_out, load_cards(options), **locations)
    first = time.monotonic() - start
    start = time.monotonic()
    assert audit(corpus, selection.held_out, load_cards(options), **locations) == result
    assert time.monotonic() - start < first / 4
    counts = {(pair.train, pair.held_out): pair.rows for pair in result.pairs}
    assert counts["drop", "qnli"] > 100, "both have questions about passages of the same encyclopedia"
    assert counts["boolq", "anli_r1"] > 0
    assert not result.rows["sst2"]
    before, after = (
        next(task for task in tasks if task.card.name == "drop")
        for tasks in (corpus.tasks, apply_audit(corpus, result).tasks)
    )
    assert after.row_count == before.row_count - counts["drop", "qnli"]
    assert not set(after.rows.array().tolist()) & set(result.rows["drop"])


def test_unknown_names_and_nothing_left() -> None:
    with pytest.raises(MetalmError, match="no cluster or task is named nly") as caught:
        select_tasks(TaskDataConfig(tasks=["core"], hold_out=["nly"]))
    assert "did you mean nli?" in str(caught.value)
