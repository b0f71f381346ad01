"""The audit of a hold-out: 13 words are found, 12 are not; what it does about them; what the base has read."""

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

from metalm_cli.config.schema.tasks import TaskData
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import load_cards, open_training_tasks, select_tasks
from metalm_cli.errors import MetalmError
from metalm_cli.provenance import audit as module
from metalm_cli.provenance.audit import Audit, apply_audit, audit
from metalm_cli.provenance.ngram_index import SpanIndex, hash_ngrams, ngrams, words_of

WORDS = [f"{first}{second}" for first in "bdfglmnprst" for second in ("anu", "edo", "iri", "oka", "ulm", "awn")]


def prose(seed: int, count: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


class Bench:
    """Cards in a folder: ``asked`` is trained on, ``kept`` is held out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def card(self, name: str, cluster: str, **rows: list[str]) -> None:
        splits = {}
        for role, texts in rows.items():
            lines = [json.dumps({"text": text, "label": at % 2}) + "\n" for at, text in enumerate(texts)]
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

    def options(self, **more: Any) -> TaskData:
        given = {"tasks": ["asked"], "hold_out": ["kept"], "templates": {"collection": "plain"}, **more}
        return TaskData(cards=[str(self.folder / "cards")], **given)

    def run(self, lineages: tuple[dict[str, Any], ...] = (), **more: Any) -> tuple[TaskCorpus, Audit]:
        options = self.options(**more)
        where: dict[str, Any] = {"data_root": self.folder / "root", "offline": True, "cache": self.folder / "cache"}
        corpus, chosen = open_training_tasks(options, seed=0, **where)
        return corpus, audit(corpus, chosen.held_out, load_cards(options), lineages, **where)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_thirteen_words_in_a_row_are_found_and_twelve_are_not(bench: Bench) -> None:
    held = prose(1, 40)
    train = [prose(seed, 30) for seed in range(10, 20)]
    train[3][5:18] = held[20:33]
    train[7][5:17] = held[20:32]
    bench.card("asked", "sentiment", train=[" ".join(one) for one in train])
    bench.card("kept", "misc", validation=[" ".join(prose(2, 40)), " ".join(held).upper().replace(" ", ", ")])
    corpus, found = bench.run()
    assert found.rows == {"asked": [3]}
    [pair] = found.pairs
    assert (pair.train, pair.held_out, pair.rows, pair.of, pair.evaluation_rows) == ("asked", "kept", 1, 10, 1)
    [shown] = pair.examples
    assert shown.words == " ".join(held[20:33])
    assert shown.train.endswith("asked/train.jsonl:4")
    assert shown.held_out.endswith("kept/validation.jsonl:2")
    apply_audit(corpus, found)
    assert corpus.tasks[0].left_out == {3}
    drawn = {corpus.get(number).example.row for number in range(100)}
    assert drawn == set(range(10)) - {3}


def test_short_texts_are_compared_as_a_whole(bench: Bench) -> None:
    question = "What is the capital of old Sardinia?"
    train = [
        "what is the capital of old sardinia",
        "So: " + question,
        "the capital of old Sardinia",
        " ".join(prose(1, 20)),
    ]
    bench.card("asked", "sentiment", train=train)
    bench.card("kept", "misc", test=[question, "the capital of old Sardinia"])
    _, found = bench.run()
    assert found.rows == {"asked": [0]}, "seven words are all of it; five are too few; inside another text is not all"


def test_what_is_done_about_it(bench: Bench) -> None:
    shared = " ".join(prose(1, 20))
    bench.card("asked", "sentiment", train=[shared, " ".join(prose(2, 20))])
    bench.card("kept", "misc", validation=[shared])
    corpus, found = bench.run(decontaminate="report")
    apply_audit(corpus, found)
    assert not corpus.tasks[0].left_out
    assert "train nevertheless" in found.notes()[0]
    corpus, found = bench.run(decontaminate="fail")
    with pytest.raises(MetalmError) as caught:
        apply_audit(corpus, found)
    text = str(caught.value)
    assert "1 of asked with kept" in text
    assert " ".join(prose(1, 13)) in text
    assert caught.value.exit_code == 2


def test_a_task_that_the_audit_empties_is_an_error(bench: Bench) -> None:
    shared = " ".join(prose(1, 20))
    bench.card("asked", "sentiment", train=[shared])
    bench.card("kept", "misc", validation=[shared])
    corpus, found = bench.run()
    with pytest.raises(MetalmError, match="leaves nothing of asked"):
        apply_audit(corpus, found)


def test_rows_that_are_not_at_hand_are_said(bench: Bench) -> None:
    bench.card("asked", "sentiment", train=[" ".join(prose(1, 20))])
    bench.card("kept", "misc", train=[" ".join(prose(1, 20))], validation=[" ".join(prose(2, 20))])
    (bench.folder / "root" / "kept" / "validation.jsonl").unlink()
    _, found = bench.run()
    assert list(found.not_audited) == ["kept/validation"]
    assert not found.pairs, "training rows of what is held out are not evaluated on"
    assert "nothing was compared" in found.notes()[0]
    assert "kept" in found.notes()[1]


def test_unlabelled_evaluation_rows_are_compared_too(bench: Bench) -> None:
    shared = " ".join(prose(1, 20))
    bench.card("asked", "sentiment", train=[shared, " ".join(prose(2, 20))])
    bench.card("kept", "misc", test=["x"])
    (bench.folder / "root" / "kept" / "test.jsonl").write_text(json.dumps({"text": shared, "label": -1}) + "\n")
    assert bench.run()[1].rows == {"asked": [0]}


def test_only_rows_that_are_used_are_compared(bench: Bench) -> None:
    rows = [" ".join(prose(seed, 20)) for seed in range(50)]
    bench.card("asked", "sentiment", train=rows)
    bench.card("kept", "misc", validation=rows)
    corpus, found = bench.run(mixture={"cap_examples": 10})
    assert found.rows["asked"] == sorted({corpus.get(number).example.row for number in range(100)})
    assert found.trained == {"asked": 10}


def test_a_result_is_kept_until_what_was_compared_changes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = " ".join(prose(1, 20))
    bench.card("asked", "sentiment", train=[shared, " ".join(prose(2, 20))])
    bench.card("kept", "misc", validation=[" ".join(prose(3, 20))])
    _, first = bench.run()
    compared: list[int] = []
    comparison = module._Comparison

    def counted(splits: Any) -> Any:
        compared.append(1)
        return comparison(splits)

    monkeypatch.setattr(module, "_Comparison", counted)
    assert bench.run()[1] == first
    assert not compared
    (bench.folder / "root" / "kept" / "validation.jsonl").write_text(json.dumps({"text": shared, "label": 0}) + "\n")
    assert bench.run()[1].rows == {"asked": [0]}
    assert compared


def test_what_the_base_has_read_is_reported(bench: Bench, tmp_path: Path) -> None:
    shared = " ".join(prose(1, 20))
    bench.card("asked", "sentiment", train=[" ".join(prose(2, 20))])
    bench.card("kept", "misc", validation=[shared, " ".join(prose(3, 20))])
    folder = bench.folder / "root" / "books"
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
    _, found = bench.run(({"data": [books, other, gone, hub, world]},))
    assert found.base.seen == {"kept": 1}
    assert found.base.read == ["books", "world"]
    assert set(found.base.not_read) == {"other", "gone", "pile"}
    assert found.rows == {"asked": []}
    assert any("seen in pretraining: 1 of 2" in note for note in found.notes())
    for source in (books, world):
        assert bench.run(({"data": [source]},))[1].base.read == [source["name"]], "another base is another audit"


def test_the_lineage_holds_counts_and_hashes_but_no_places(bench: Bench) -> None:
    shared = " ".join(prose(1, 20))
    bench.card("asked", "sentiment", train=[shared, " ".join(prose(2, 20))])
    bench.card("kept", "misc", validation=[shared])
    said = bench.run()[1].lineage()
    assert said["overlapping"] == {"asked": 1}
    assert said["pairs"][0]["rows"] == 1
    assert len(said["held_out"][0]["content"]["validation"]) == 64
    assert str(bench.folder) not in json.dumps(said)


def test_hashes_tell_spans_apart_as_words_do() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcd", k=rng.choice([3, 6, 9, 12, 13, 14, 30]))) for _ in range(400)]
    hashes, owners = hash_ngrams(texts)
    spans = [(span, at) for at, text in enumerate(texts) for span in ngrams(words_of(text))]
    assert owners.tolist() == [at for _, at in spans]
    numbers: dict[int, set[tuple[str, ...]]] = {}
    for value, (span, _) in zip(hashes.tolist(), spans, strict=True):
        numbers.setdefault(value, set()).add(span)
    assert all(len(one) == 1 for one in numbers.values()), "different spans have different hashes"
    assert len(numbers) == len({span for span, _ in spans}), "equal spans have equal hashes"


def test_the_index_finds_what_a_plain_search_finds() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 60, 200).astype(np.uint64) << np.uint64(57)
    rows = rng.integers(0, 30, 200)
    tasks = np.sort(rng.integers(0, 4, 30))
    index = SpanIndex(hashes, rows, tasks)
    asked = rng.integers(0, 120, 300).astype(np.uint64) << np.uint64(57)
    at, spans = index.find(asked)
    assert at.tolist() == [n for n, one in enumerate(asked) if one in set(hashes.tolist())]
    which, found = index.tasks_of(spans)
    got = {(int(at[one]), int(task)) for one, task in zip(which, found, strict=True)}
    expected = {(n, int(tasks[rows[m]])) for n, m in itertools.product(range(300), range(200)) if asked[n] == hashes[m]}
    assert got == expected
    met = np.zeros(len(index.hashes), bool)
    met[spans] = True
    assert np.flatnonzero(index.rows_with(met)).tolist() == sorted(
        {int(rows[m]) for m in range(200) if hashes[m] in set(asked.tolist())}
    )


def test_real_tasks(data_root: Path, tmp_path: Path) -> None:
    options = TaskData(tasks=["boolq", "drop", "sst2"], hold_out=["nli"], on_missing_data="skip")
    where: dict[str, Any] = {"data_root": data_root, "offline": True, "cache": tmp_path}
    corpus, chosen = open_training_tasks(options, seed=0, **where)
    start = time.monotonic()
    found = audit(corpus, chosen.held_out, load_cards(options), **where)
    first = time.monotonic() - start
    start = time.monotonic()
    assert audit(corpus, chosen.held_out, load_cards(options), **where) == found
    assert time.monotonic() - start < first / 4
    counts = {(pair.train, pair.held_out): pair.rows for pair in found.pairs}
    assert counts["drop", "qnli"] > 100, "both ask about the same encyclopedia's passages"
    assert counts["boolq", "anli_r1"] > 0
    assert not found.rows["sst2"]
    apply_audit(corpus, found)
    task = next(one for one in corpus.tasks if one.card.name == "drop")
    for row in itertools.islice(task.left_out, 5):
        assert task.train[row] is not None


def test_unknown_names_and_nothing_left() -> None:
    with pytest.raises(MetalmError, match="no cluster or task is named nly") as caught:
        select_tasks(TaskData(tasks=["core"], hold_out=["nly"]))
    assert "did you mean nli?" in str(caught.value)
