"""Evaluation of dual encoders: zero-shot classification, retrieval in both directions, and linear probes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import contrastive_fixtures as pairs
import tiny_runs as micro
from metalm_cli.evaluation.embeddings.embedding_evaluator import ensemble
from metalm_cli.evaluation.embeddings.linear_probe import fit_and_predict
from metalm_cli.evaluation.metrics.retrieval import chance_of_recall, ranks_of_relevant, recall_at
from metalm_cli.inference import load

CLASSES = """
name: colours
cluster: misc
description: A task of the tests
file: colours.jsonl
splits: {train: "rows[:40]", validation: "rows[40:]"}
fields: {}
images: {image: image}
answer: {label: colour, class_names: [red, green, blue, white, black], verbalizers: {red: "red", green: "green",
  blue: "blue", white: "white", black: "black"}}
metric: {name: accuracy, source: the tests}
licence: Apache-2.0
citation: the tests
"""
CLASS_TEMPLATES = """
templates:
  - {name: plain, parts: [{image: image}], target: "a {{ answer }} square"}
  - {name: left, parts: [{image: image}], target: "a {{ answer }} square on the left"}
  - {name: right, parts: [{image: image}], target: "a {{ answer }} square on the right"}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    pairs.write_pairs(folder)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    colours = [{"image": row["image"], "colour": row["captions"][0].split()[1]} for row in rows]
    (folder / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in colours))
    (folder / "colours.yaml").write_text(CLASSES)
    (folder / "templates" / "colours.yaml").write_text(CLASS_TEMPLATES)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    arguments = ["train.steps=40", "train.batch_size=16", "train.validate_every=0", "train.checkpoint_every=0"]
    assert micro.metalm("finetune", folder / "micro.yaml", *arguments, "--out", folder / "run") == 0
    return folder / "run"


def evaluated(run: Path, folder: Path, task: str, *options: str) -> dict[str, Any]:
    """The record of a task's only template."""
    out = run / "results" / f"{task}{len(list(run.glob('results/*')))}.json"
    assert micro.metalm("evaluate", run, "--task", folder / f"{task}.yaml", "--out", out, *options) == 0
    record = json.loads(out.read_text())
    (setting,) = record["tasks"][task]["settings"]
    (template,) = setting["templates"]
    return {**template, "metric": record["tasks"][task]["metric"], "protocol": record["protocol"]}


def test_recall_is_that_of_sorted_similarities() -> None:
    similarity = np.random.default_rng(0).normal(size=(8, 12))
    relevant = [[query, (query + 5) % 12] for query in range(8)]
    ranks = ranks_of_relevant(similarity, relevant)
    for query, items in enumerate(relevant):
        order = np.argsort(-similarity[query]).tolist()
        assert ranks[query] == min(order.index(item) for item in items)
    recall = recall_at(similarity, relevant, [1, 3])
    assert recall == {1: float((ranks < 1).mean()), 3: float((ranks < 3).mean())}
    assert recall_at(np.ones((4, 4)), [[0], [1], [2], [3]], [1]) == {1: 0.0}, "equal vectors score nothing"


def test_chance_is_that_of_random_orders() -> None:
    rng = np.random.default_rng(0)
    hits = [bool(set(rng.permutation(9)[:4].tolist()) & {0, 1}) for _ in range(4000)]
    assert chance_of_recall(9, 2, 4) == pytest.approx(np.mean(hits), abs=0.03)


def test_an_ensemble_normalises_before_and_after_the_mean() -> None:
    vectors = torch.tensor([[30.0, 0.0], [0.0, 0.1], [0.0, 0.1]])
    vector = ensemble(vectors)
    assert float(vector.norm()) == pytest.approx(1)
    assert vector[1] == pytest.approx(2 * float(vector[0]))
    mean_first = torch.nn.functional.normalize(vectors.mean(0), dim=0)
    assert float(mean_first[0]) > 0.99, "the other order would only hear the longest vector"


def test_retrieval_is_that_of_the_embeddings(folder: Path, run: Path) -> None:
    record = evaluated(run, folder, "pairs", "--templates", str(folder / "templates"))
    assert (record["metric"], record["protocol"], record["n"]) == ("recall@1", "zero_shot", 20)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()][-20:]
    model = load(run)
    texts = [text for row in rows for text in row["captions"]]
    similarity = model.embed_images([folder / row["image"] for row in rows]) @ model.embed_texts(texts).T
    for count in (1, 5, 10):
        best_texts = similarity.topk(count, dim=1).indices // 2
        own = torch.arange(20)[:, None]
        # Equal captions are equally similar, so that ties decide which of them are among the first.
        at_most = 100 * float((best_texts == own).any(1).double().mean())
        assert record["extra"][f"image_to_text@{count}"] <= at_most + 1e-6
        assert record["extra_chance"][f"text_to_image@{count}"] == pytest.approx(100 * count / 20)
        low, high = record["extra_intervals"][f"text_to_image@{count}"]
        assert low <= record["extra"][f"text_to_image@{count}"] <= high
    assert record["extra_chance"]["image_to_text@1"] == pytest.approx(100 * 2 / 40)
    mean = (record["extra"]["image_to_text@1"] + record["extra"]["text_to_image@1"]) / 2
    assert record["score"] == pytest.approx(mean)
    assert record["chance"]["uniform"] == pytest.approx(5)
    columns = record["also_each"]["image_to_text@5"]
    assert 100 * np.mean(columns["value"]) == pytest.approx(record["extra"]["image_to_text@5"])


def test_zero_shot_classes_are_those_of_the_embeddings(folder: Path, run: Path) -> None:
    options = ["--templates", str(folder / "templates"), "--save-samples"]
    single = evaluated(run, folder, "colours", *options)
    three = evaluated(run, folder, "colours", *options, "--template", "all")
    assert (single["template"], three["template"]) == ("plain", "ensemble of 3")
    assert single["chance"]["uniform"] == pytest.approx(20)
    rows = [json.loads(line) for line in (folder / "colours.jsonl").read_text().splitlines()][40:]
    model = load(run)
    images = model.embed_images([folder / row["image"] for row in rows])
    for record, endings in ((single, [""]), (three, ["", " on the left", " on the right"])):
        classes = [
            ensemble(model.embed_texts([f"a {colour} square{ending}" for ending in endings]))
            for colour in pairs.COLOURS
        ]
        nearest = (images @ torch.stack(classes).T).argmax(1).tolist()
        right = [list(pairs.COLOURS)[index] == row["colour"] for index, row in zip(nearest, rows, strict=True)]
        assert record["score"] == pytest.approx(100 * np.mean(right))
        assert record["each"]["value"] == [float(value) for value in right]


def test_the_linear_probe_is_that_of_scikit_learn(folder: Path, run: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    options = ["--templates", str(folder / "templates"), "--protocol", "linear_probe"]
    record = evaluated(run, folder, "colours", *options)
    rows = [json.loads(line) for line in (folder / "colours.jsonl").read_text().splitlines()]
    model = load(run)
    processor = model.processors["vision"]
    features = model.pool([processor.prepare(folder / row["image"]) for row in rows]).numpy()
    labels = np.array([list(pairs.COLOURS).index(row["colour"]) for row in rows])
    regression = LogisticRegression(C=0.316, max_iter=1000).fit(features[:40], labels[:40])
    assert record["score"] == pytest.approx(100 * regression.score(features[40:], labels[40:]))
    scores = np.array(fit_and_predict(features[:40], labels[:40], features[40:], 5))
    assert scores == pytest.approx(regression.predict_log_proba(features[40:]), abs=1e-6)
    assert np.array(fit_and_predict(features[:40], labels[:40] % 2, features[40:], 5))[:, 2:].max() == -1e3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--protocol", "in_context"], ["in_context is not one of a dual encoder", "zero_shot or linear_probe"]),
        (["--shots", "2"], ["a dual encoder has no demonstrations"]),
        (["--protocol", "linear_probe"], ["the options of pairs are not classes", "zero_shot"]),
    ],
)
def test_what_cannot_be_evaluated_is_one_error(
    folder: Path, run: Path, options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    templates = ["--templates", str(folder / "templates")]
    assert micro.metalm("evaluate", run, "--task", folder / "pairs.yaml", *templates, *options) == 2
    printed = " ".join(capsys.readouterr().err.split())
    for word in words:
        assert word in printed


def test_a_picture_that_cannot_be_read_is_counted(folder: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    (copy / "50.png").write_bytes(b"not an image")
    record = evaluated(run, copy, "pairs", "--templates", str(folder / "templates"))
    assert (record["n"], record["skipped"]) == (19, 1)
    assert "50.png" in record["note"]


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_unseen_combinations_are_classified(tmp_path: Path, shuffled: bool) -> None:
    """Two thousand pairs, and a class whose words training never has together; shuffled captions teach nothing."""
    pairs.write_pairs(tmp_path, 2000, shuffled=shuffled, without=("white", "left"))
    arguments = ["train.steps=300", "train.batch_size=64", "train.validate_every=0", "train.checkpoint_every=0"]
    assert micro.metalm("finetune", tmp_path / "micro.yaml", *arguments, "--out", tmp_path / "run") == 0
    model = load(tmp_path / "run")
    kinds = [(colour, place) for colour in pairs.COLOURS for place in pairs.PLACES]
    classes = model.embed_texts([pairs.caption(*kind) for kind in kinds])
    pictures = [(kind, pairs.picture(*kind, 10_000 + number)) for number in range(10) for kind in kinds]
    pictures += [(("white", "left"), pairs.picture("white", "left", 20_000 + number)) for number in range(20)]
    nearest = (model.embed_images([image for _, image in pictures]) @ classes.T).argmax(1).tolist()
    right = [kinds[index] == kind for index, (kind, _) in zip(nearest, pictures, strict=True)]
    if shuffled:
        assert np.mean(right[:100]) < 0.3
    else:
        assert np.mean(right[:100]) >= 0.9
        assert np.mean(right[100:]) >= 0.9
