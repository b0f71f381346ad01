"""Score summary of the demo: means over seeds on the same examples, conclusions only if intervals and seeds agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metalm_cli.demo import score_summary
from metalm_cli.demo.expectations import Expectation
from metalm_cli.demo.score_summary import (
    conclusions,
    decoder_hash,
    mean_rows,
    pretraining_note,
    result_rows,
    result_table,
    single_task_table,
)
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.comparison import OVER_CLUSTERS, compare
from metalm_cli.evaluation.results.result_reader import read_result

N = 100


def write(folder: Path, name: str, tasks: dict[str, list[float]], shots: int = 0, chance: float | None = 50.0) -> None:
    """Write a result file in which each example of each task has a value from 0 to 1."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    task_records = {
        f"world_{task}": {
            "cluster": "nli" if task == "nli" else "sentiment",
            "metric": "accuracy",
            "seen": {"label": "held out" if task == "nli" else "seen", "why": ""},
            "split": "validation",
            "card_sha256": "a",
            "templates_sha256": "b",
            "settings": [
                {
                    "shots": shots,
                    "score": 100 * sum(values) / len(values),
                    "templates": [
                        {
                            "template": "one",
                            "score": 100 * sum(values) / len(values),
                            "n": len(values),
                            "chance": {"uniform": chance, "majority": None},
                            "each": {"row": list(range(len(values))), "value": values},
                        }
                    ],
                }
            ],
        }
        for task, values in tasks.items()
    }
    record = {"format": 2, "protocol": "instruct", "complete": True, "model": {}, "settings": {}, "tasks": task_records}
    (folder / "results" / f"{name}.json").write_text(json.dumps(record))


def correct(count: int) -> list[float]:
    """Values of which the first ``count`` are correct."""
    return [1.0] * count + [0.0] * (N - count)


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    """Two seeds: on reviews the MetaLM is far better in both; on nli each model wins once, by the same margin."""
    folders = [tmp_path / "seed-0", tmp_path / "seed-1"]
    for index, folder in enumerate(folders):
        write(folder, "instructed", {"reviews": correct(90), "nli": correct((80, 48)[index])})
        write(folder, "instructed-2", {"reviews": correct(52), "nli": correct((48, 80)[index])})
    return folders


def test_scores_are_means_over_seeds(seeds):
    reviews, nli = result_rows(seeds, "instructed")
    assert (reviews.metalm[0], reviews.twin[0], reviews.chance) == (90, 52, 50)
    assert reviews.metalm[1] < 90 < reviews.metalm[2]
    assert reviews.difference[0] == pytest.approx(38)
    assert reviews.seed_differences == pytest.approx((38, 38))
    assert (reviews.held_out, nli.held_out) == (False, True)
    assert (nli.metalm[0], nli.twin[0]) == (64, 64)
    assert nli.seed_differences == pytest.approx((32, -32))


def test_seeds_that_disagree_support_no_conclusion(seeds, tmp_path):
    reviews, nli = result_rows(seeds, "instructed")
    assert (reviews.winner, nli.winner) == (1, 0)
    assert (reviews.beats_chance(0), reviews.beats_chance(1)) == (True, False)
    assert nli.metalm[1] > 50  # above chance by the interval alone, but not in one of the seeds
    assert not nli.beats_chance(0)
    assert result_rows(seeds[:1], "instructed")[1].winner == 1
    above, different, limits = conclusions([reviews, nli])
    assert "MetaLM reviews; GPT none." in above
    assert "MetaLM better on reviews; GPT better on none; on the other 1 " in different
    assert limits.startswith("2 seeds")
    assert conclusions([]) == []


def test_a_better_twin_is_named(tmp_path):
    write(tmp_path, "instructed", {"reviews": correct(40)})
    write(tmp_path, "instructed-2", {"reviews": correct(80)})
    (line,) = result_rows([tmp_path], "instructed")
    assert line.winner == 2
    assert "GPT better on reviews" in conclusions([line])[1]
    assert "One seed" in conclusions([line])[2]


def test_without_a_chance_level_nothing_is_above_it(tmp_path):
    write(tmp_path, "instructed", {"gist": correct(99)}, chance=None)
    write(tmp_path, "instructed-2", {"gist": correct(1)}, chance=None)
    lines = result_rows([tmp_path], "instructed")
    assert "of 0: MetaLM none; GPT none" in conclusions(lines)[0]
    assert result_table(lines)[1][0][1] == "–"
    write(tmp_path, "frozen-score", {"gist": correct(99)}, chance=None)
    assert single_task_table([tmp_path])[1][0][:2] == ["gist", "–"]


def test_equal_scores_are_called_equal(tmp_path):
    write(tmp_path, "instructed", {"reviews": correct(40), "nli": correct(50)})
    write(tmp_path, "instructed-2", {"reviews": correct(40), "nli": correct(49)})
    lines = result_rows([tmp_path], "instructed")
    assert [line.is_equal for line in lines] == [True, False]
    assert "; equal on reviews; on the other 1 the difference may be chance." in conclusions(lines)[1]
    assert conclusions(lines[:1])[1].endswith("; equal on reviews.")


# -- in context -------------------------------------------------------------------------------------------------------


def write_in_context(folder: Path, name: str, counts: dict[str, tuple[int, int]]) -> None:
    """Write a result file with two numbers of demonstrations and the given counts of correct answers by task."""
    write(folder, name, {task: correct(first) for task, (first, _) in counts.items()})
    path = folder / "results" / f"{name}.json"
    record = json.loads(path.read_text())
    write(folder, name, {task: correct(second) for task, (_, second) in counts.items()}, shots=2)
    for task, other in json.loads(path.read_text())["tasks"].items():
        record["tasks"][task]["settings"] += other["settings"]
        record["tasks"][task]["seen"]["label"] = "held out"
    path.write_text(json.dumps(record))


@pytest.fixture
def in_context(tmp_path: Path) -> list[Path]:
    """Results of pretrained models with two seeds."""
    folders = [tmp_path / "seed-0", tmp_path / "seed-1"]
    for index, folder in enumerate(folders):
        write_in_context(folder, "in-context", {"reviews": (60, 70), "nli": ((20, 60)[index], 50)})
        write_in_context(folder, "in-context-2", {"reviews": (50, 50), "nli": (40, 51)})
    return folders


def test_means_of_one_seed_equal_those_of_results_compare(in_context):
    folder = in_context[0] / "results"
    compared_means = compare(read_result(folder / "in-context.json"), read_result(folder / "in-context-2.json")).means
    means = mean_rows(in_context[:1])
    cluster_means = [mean for mean in compared_means if mean.name == OVER_CLUSTERS]
    assert [(mean.shots, mean.clusters) for mean in means] == [(0, 2), (2, 2)]
    for mean, compared in zip(means, cluster_means, strict=True):
        assert (mean.metalm, mean.twin) == pytest.approx((compared.first, compared.second))
        assert mean.difference[1:] == pytest.approx(compared.interval)


def test_means_in_context_are_over_seeds(in_context):
    none, two = mean_rows(in_context)
    assert (none.metalm, none.twin, none.difference[0]) == pytest.approx((50, 45, 5))
    assert none.difference[1] < 5 < none.difference[2]
    assert (two.metalm, two.twin) == pytest.approx((60, 50.5))


def test_the_table_has_a_row_for_each_task_and_number_of_demonstrations(in_context):
    lines = result_rows(in_context, "in-context")
    heads, rows = result_table(lines, mean_rows(in_context))
    assert heads[:2] == ["task", "shots"]
    assert [row[:2] for row in rows] == [
        ["reviews", "0"],
        ["reviews", "2"],
        ["nli", "0"],
        ["nli", "2"],
        ["mean of 2 clusters", "0"],
        ["mean of 2 clusters", "2"],
    ]  # no stars, as all tasks are held out
    assert all(len(row) == len(heads) for row in rows)
    assert rows[4][2:5] == ["–", "50.0", "45.0"]
    above, different, _ = conclusions(lines)
    assert "MetaLM reviews (0, 2-shot); GPT none." in above
    assert "of 4: MetaLM better on reviews (0, 2-shot); GPT better on none; on the other 2 " in different


def test_the_note_names_the_pretraining_of_the_encoder(tmp_path):
    folders = [tmp_path / "seed-0", tmp_path / "seed-1"]
    assert " tokens" not in pretraining_note(folders)
    for folder, tokens in zip(folders, (397_074, 398_100), strict=True):
        (folder / "encoder").mkdir(parents=True)
        line = json.dumps({"step": 5, "split": "train", "tokens": tokens})
        (folder / "encoder" / "metrics.jsonl").write_text(f'{line}\n{{"step": 5, "split": "validation"}}\n')
    assert " alone on about 398,000 tokens; " in pretraining_note(folders)


def test_tables_have_a_cell_for_each_header(seeds):
    lines = result_rows(seeds, "instructed")
    heads, rows = result_table(lines)
    assert all(len(row) == len(heads) for row in rows)
    assert rows[1][0] == "nli *"
    assert rows[0][-1].startswith("+38.0 (+")


def test_expectations_are_compared_with_results(seeds, monkeypatch):
    monkeypatch.setitem(score_summary.EXPECTED, "world_reviews", Expectation(True, "easy"))
    monkeypatch.setitem(score_summary.EXPECTED, "world_nli", Expectation(False, "new"))
    heads, rows = score_summary.expectation_table(result_rows(seeds, "instructed"))
    assert rows == [["reviews", "above chance", "MetaLM", "easy"], ["nli *", "not", "neither", "new"]]
    assert len(heads) == 4


def test_missing_and_damaged_results_are_errors(tmp_path):
    with pytest.raises(MetalmError, match="cannot be read"):
        result_rows([tmp_path], "instructed")
    write(tmp_path, "instructed", {"reviews": correct(1)})
    (tmp_path / "results" / "instructed-2.json").write_text("{")
    with pytest.raises(MetalmError, match="damaged"):
        result_rows([tmp_path], "instructed")


def test_the_hash_covers_only_the_decoder(tmp_path):
    weights = {"decoder.a": torch.ones(3, 2), "decoder.b": torch.zeros(4), "encoders.text.a": torch.ones(2)}
    for name, changed in (
        ("one", {}),
        ("encoder", {"encoders.text.a": torch.zeros(2)}),
        ("decoder", {"decoder.b": torch.ones(4)}),
    ):
        (tmp_path / name).mkdir()
        save_file({**weights, **changed}, tmp_path / name / "model.safetensors")
    hashes = {name: decoder_hash(tmp_path / name) for name in ("one", "encoder", "decoder")}
    assert hashes["one"] == hashes["encoder"] != hashes["decoder"]
    save_file({"model.a": torch.ones(1)}, tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(MetalmError, match="cannot be read"):
        decoder_hash(tmp_path / "encoder")
    (tmp_path / "one" / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(MetalmError, match="cannot be read"):
        decoder_hash(tmp_path / "one")
