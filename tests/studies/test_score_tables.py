"""Tables, claims and sentences of a study, and the hash of a decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.comparison import OVER_CLUSTERS, compare
from metalm_cli.evaluation.results.result_reader import read_result
from metalm_cli.studies.results import StudyResults
from metalm_cli.studies.score_tables import (
    claim_table,
    conclusions,
    decoder_hash,
    headline,
    ours_text,
    pair_table,
    paper_text,
)
from study_fixtures import SMALL, correct, small_study, write_result


def write_seed(out: Path, seed: int, *models: dict[str, int], **options) -> None:
    """Write the results of the three models of a seed, by the number of correct answers of 100 for each task."""
    for number, counts in enumerate(models, 1):
        path = out / f"seed-{seed}" / "results" / f"scores{'' if number == 1 else f'-{number}'}.json"
        write_result(path, {f"world_{task}": correct(count) for task, count in counts.items()}, **options)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two seeds: on reviews the MetaLM is far better in both; on nli each model wins once, by the same margin."""
    folder = tmp_path / "out"
    held_out = {"held_out": ["world_nli"]}
    write_seed(
        folder, 0, {"reviews": 90, "nli": 80}, {"reviews": 52, "nli": 48}, {"reviews": 50, "nli": 50}, **held_out
    )
    write_seed(
        folder, 1, {"reviews": 90, "nli": 48}, {"reviews": 52, "nli": 80}, {"reviews": 50, "nli": 50}, **held_out
    )
    return folder


def results_of(out: Path, text: str = SMALL) -> StudyResults:
    return StudyResults(small_study(out.parent / "files", text), "cpu", out)


def test_scores_are_means_over_seeds(out):
    reviews, nli = results_of(out).task_results("scores", "tuned-metalm", "tuned-gpt")
    assert (reviews.difference.first, reviews.difference.second, reviews.chance) == pytest.approx((90, 52, 50))
    assert reviews.difference.first_interval[0] < 90 < reviews.difference.first_interval[1]
    assert reviews.difference.by_seed == pytest.approx((38, 38))
    assert (reviews.held_out, nli.held_out) == (False, True)
    assert (nli.difference.first, nli.difference.second) == pytest.approx((64, 64))
    assert nli.difference.by_seed == pytest.approx((32, -32))
    assert (reviews.verdict, nli.verdict) == ("agrees", "undecided")


def test_claims_with_their_verdicts(out):
    twin, chance = results_of(out).claims()
    assert (twin.first, twin.second, twin.seeds) == ("MetaLM", "GPT", 2)
    assert twin.difference.value == pytest.approx(19)
    assert (twin.verdict, twin.expectation_held) == ("undecided", False)  # seeds disagree on nli
    assert (chance.verdict, chance.expectation_held) == ("agrees", False)
    assert [task.verdict for task in chance.tasks] == ["agrees", "undecided"]
    assert ours_text(chance) == "1 of 2 tasks (reviews); needed: 1"
    assert ours_text(twin).startswith("77.0 − 58.0 = +19.0 (")
    assert paper_text(twin) == "79.1 − 65.0 = +14.1; table 2"
    headers, rows = claim_table([twin, chance])
    assert all(len(row) == len(headers) for row in rows)
    assert rows[1][2:] == ["–", "agrees", "not agrees", "no"]
    sentences = headline([twin, chance])
    assert sentences.startswith(
        "MetaLM is ahead of GPT by 19.0 points on the mean of 2 clusters (2 tasks), 2 seeds (95%"
    )
    assert sentences.endswith(", so the difference may be chance). Of 2 claims, 1 agree, 0 disagree, 1 undecided.")


def test_the_headline_names_the_better_model(out):
    text = SMALL.replace("first: tuned-metalm", "first: tuned-gpt", 1).replace(
        "second: tuned-gpt", "second: tuned-metalm"
    )
    text = text.replace("expected: agrees", "expected: agrees\n    over: tasks\n    tasks: [world_reviews]")
    (claim, _) = results_of(out, text).claims()
    assert claim.verdict == "disagrees"
    assert headline([claim]).startswith("MetaLM is ahead of GPT by 38.0 points on reviews, 2 seeds (95% interval ")
    assert headline([claim]).endswith(", clear of 0).")
    assert " to -" not in headline([claim])


@pytest.mark.parametrize(
    ("change", "verdict"),
    [("margin: 50", "agrees"), ("direction: below", "undecided"), ("tasks: [world_reviews]", "agrees")],
)
def test_keys_of_a_claim(out, change, verdict):
    text = SMALL.replace("expected: agrees", f"expected: agrees\n    {change}")
    assert results_of(out, text).claims()[0].verdict == verdict


def test_recorded_scores_of_another_model(out):
    text = SMALL.replace(
        "second: chance",
        "second: recorded\n    margin: 5\n"
        "    recorded: {label: a linear head, scores: {world_reviews: 91.5, world_nli: 99}}",
    )
    claim = results_of(out, text).claims()[1]
    assert claim.second == "a linear head"
    assert [task.difference.value for task in claim.tasks] == pytest.approx([-1.5, -35])
    assert claim.tasks[0].difference.second_interval == pytest.approx((91.5, 91.5))
    assert [task.verdict for task in claim.tasks] == ["undecided", "disagrees"]
    with pytest.raises(MetalmError, match="is about the task world_nil"):
        results_of(out, text.replace("world_nli: 99", "world_nil: 99")).claims()


def test_claims_without_results_and_unknown_tasks(out, tmp_path):
    results = results_of(tmp_path / "empty" / "out")
    claims = results.claims()
    assert [claim.missing for claim in claims] == ["no results yet of the evaluation scores"] * 2
    assert headline(claims) == "No claim has a result yet."
    assert claim_table(claims)[1][0][1:] == [
        "no results yet of the evaluation scores",
        "79.1 − 65.0 = +14.1; table 2",
        "–",
        "agrees",
        "–",
    ]
    text = SMALL.replace("over: each", "over: each\n    tasks: [world_review]")
    with pytest.raises(MetalmError, match="the claim chance is about the task world_review, which its evaluation"):
        results_of(out, text).claims()


def test_an_added_seed_counts(out):
    write_seed(out, 5, {"reviews": 90, "nli": 80}, {"reviews": 52, "nli": 48}, {"reviews": 50, "nli": 50})
    (out / "seed-6" / "results").mkdir(parents=True)  # begun, without results
    assert results_of(out).claims()[0].seeds == 3


def test_without_a_chance_level_nothing_is_above_it(tmp_path):
    out = tmp_path / "out"
    write_seed(out, 0, {"gist": 99}, {"gist": 1}, {"gist": 1}, chance=None)
    results = results_of(out)
    assert "of 0: MetaLM none; GPT none" in conclusions(results, "scores", "tuned-metalm", "tuned-gpt")[0]
    headers, rows = pair_table(results, "scores", "tuned-metalm", None)
    assert headers == ["task", "chance", "MetaLM (95%)"]
    assert rows[0][:2] == ["gist", "–"]
    assert rows[0][2].startswith("99.0 (9")
    assert results.claims()[1].missing == "no task of the claim has both scores"


def test_conclusions(out, tmp_path):
    above, different, limits = conclusions(results_of(out), "scores", "tuned-metalm", "tuned-gpt")
    assert above == "Above chance (95% interval), of 2: MetaLM reviews; GPT none."
    assert "MetaLM better on reviews; GPT better on none; on the other 1 " in different
    assert limits.startswith("2 seeds, intervals over examples and seeds: of 2 intervals, about 0.1 ")
    alone = tmp_path / "alone" / "out"
    write_seed(alone, 0, {"reviews": 40, "nli": 50}, {"reviews": 80, "nli": 50}, {"reviews": 1, "nli": 1})
    _, different, limits = conclusions(results_of(alone), "scores", "tuned-metalm", "tuned-gpt")
    assert different.endswith("MetaLM better on none; GPT better on reviews; equal on nli.")
    assert limits.startswith("1 seed, intervals over examples only")


def test_the_table_has_a_row_for_each_task_and_number_of_demonstrations(tmp_path):
    out = tmp_path / "out"
    clusters = {"world_reviews": "sentiment", "world_nli": "nli"}
    write_seed(
        out, 0, {"reviews": 60, "nli": 20}, {"reviews": 50, "nli": 40}, {"reviews": 1, "nli": 1},
        shots=(0, 2), held_out=list(clusters), clusters=clusters,
    )  # fmt: skip
    results = results_of(out)
    headers, rows = pair_table(results, "scores", "tuned-metalm", "tuned-gpt")
    assert headers == ["task", "shots", "chance", "MetaLM", "GPT", "difference (95%)"]
    assert [row[:2] for row in rows] == [
        ["reviews", "0"], ["reviews", "2"], ["nli", "0"], ["nli", "2"],
        ["mean of 2 clusters", "0"], ["mean of 2 clusters", "2"],
    ]  # no stars, as all tasks are held out  # fmt: skip
    assert rows[4][2:5] == ["–", "40.0", "45.0"]
    folder = out / "seed-0" / "results"
    compared = compare(read_result(folder / "scores.json"), read_result(folder / "scores-2.json")).means
    mean = results.mean_difference("scores", "tuned-metalm", "tuned-gpt", shots=2)
    (of_clusters,) = [entry for entry in compared if entry.name == OVER_CLUSTERS and entry.shots == 2]
    assert (mean.first, mean.second) == pytest.approx((of_clusters.first, of_clusters.second))
    assert mean.interval == pytest.approx(of_clusters.interval, abs=0.6)


def test_stars_mark_held_out_tasks(out):
    _, rows = pair_table(results_of(out), "scores", "tuned-metalm", "tuned-gpt")
    assert [row[0] for row in rows] == ["reviews", "nli *", "mean of 2 clusters"]
    assert rows[0][-1].startswith("+38.0 (+")


def test_damaged_results_are_errors(out):
    (out / "seed-0" / "results" / "scores-2.json").write_text("{")
    with pytest.raises(MetalmError, match="damaged"):
        results_of(out).claims()


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
