"""Tables, claims and sentences of a study, and the hash of a decoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.comparison import OVER_CLUSTERS, compare
from metalm_cli.evaluation.results.result_reader import read_result
from metalm_cli.studies.page import study_figures
from metalm_cli.studies.results import StudyResults
from metalm_cli.studies.score_tables import (
    claim_table,
    conclusions,
    cost_table,
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


def test_a_model_against_itself_in_another_evaluation(out):
    exchanged = "  - {name: exchanged, title: docks exchanged, models: [tuned-metalm], options: --task x, summary: s}\n"
    text = SMALL.replace("claims:\n", f"{exchanged}claims:\n").replace(
        "second: tuned-gpt", "second: tuned-metalm\n    second_evaluation: exchanged", 1
    )
    results = results_of(out, text)
    assert results.claims()[0].missing == "no results yet of the evaluation exchanged"
    write_result(
        out / "seed-1" / "results" / "exchanged.json", {"world_reviews": correct(50), "world_nli": correct(48)}
    )
    claim = results_of(out, text).claims()[0]
    assert (claim.second, claim.seeds) == ("MetaLM (docks exchanged)", 1)  # seed 0 has no second result
    assert [task.difference.value for task in claim.tasks] == pytest.approx([40, 0])
    assert claim.verdict == "agrees"


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


def write_separate(out: Path, seed: int, model: str, count: int, milliseconds: float | None) -> None:
    path = out / f"seed-{seed}" / "results" / f"scores-{model}.json"
    write_result(path, {"world_reviews": correct(count)})
    if milliseconds is not None:
        record = json.loads(path.read_text())
        cost = {"examples": 100, "milliseconds": milliseconds, "positions": 16.5, "flops": 2e9, "memory": 2**20}
        record["tasks"]["world_reviews"]["settings"][0]["templates"][0]["cost"] = cost
        path.write_text(json.dumps(record))


@pytest.fixture
def separate(tmp_path: Path) -> StudyResults:
    """Two seeds of three models that were evaluated separately; the reference has a cost in one seed only."""
    out = tmp_path / "out"
    for seed, (metalm, reference) in enumerate(((20.0, 100.0), (30.0, None))):
        write_separate(out, seed, "tuned-metalm", 90, metalm)
        write_separate(out, seed, "tuned-gpt", 70, 50.0)
        write_separate(out, seed, "reference", 50, reference)
    text = SMALL.replace("    options: --cluster", "    separately: true\n    options: --cluster")
    text = text.replace("over: each\n    at_least: 1", "measure: milliseconds\n    at_most: 0.25")
    text = text.replace("second: chance", "second: reference") + (
        "figures:\n  - name: sizes\n    title: Scores by size\n    axis: positions\n    lines:\n"
        "      - {label: MetaLM, points: {32: tuned-metalm, 8: tuned-gpt}}\n"
        "    levels: [{label: GPT-2, model: reference}, {label: a head, score: 81.5}]\n"
    )
    return results_of(out, text)


def test_a_claim_about_a_cost_is_judged_by_the_ratio_of_each_seed(separate):
    (_, cost) = separate.claims()
    assert (cost.ratios, cost.verdict) == (pytest.approx((0.2, 0.3)), "undecided")
    assert ours_text(cost) == "0.25 times (0.20 to 0.30); at most 0.25 claimed"
    assert headline([cost]) == "MetaLM against GPT-2, milliseconds of an example: " + ours_text(cost) + "."
    for limit, verdict in ((0.3, "agrees"), (0.1, "disagrees")):
        claim = cost.claim.model_copy(update={"at_most": limit})
        assert separate._judge(claim).verdict == verdict
    assert separate._judge(cost.claim.model_copy(update={"measure": "flops"})).ratios == (1.0, 1.0)


def test_the_costs_and_the_figure_have_all_models(separate):
    headers, rows = cost_table(separate)
    assert [row[:2] for row in rows] == [["MetaLM", "16.5"], ["GPT", "16.5"], ["GPT-2", "16.5"]]
    assert rows[0][headers.index("ms")] == "25.0"
    (figure,) = study_figures(separate)
    assert [row[:3] for row in figure.table.rows] == [
        ["MetaLM", "8", "70.0"],
        ["MetaLM", "32", "90.0"],
        ["GPT-2", "–", "50.0"],
        ["a head", "–", "81.5"],
    ]
    low, high = (float(value) for value in figure.table.rows[1][3:])
    assert low < 90 < high
    assert "MetaLM: 70.0 at 8, 90.0 at 32" in figure.caption


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("measure: flops", "a cost as measure needs at_most"),
        ("at_most: 0.5", "a cost as measure needs at_most"),
        ("measure: flops\n    at_most: 0.5", "chance has no cost"),
    ],
)
def test_wrong_claims_about_costs_are_errors(tmp_path, change, problem):
    text = SMALL.replace("over: each\n    at_least: 1", change)
    with pytest.raises(MetalmError, match=problem):
        small_study(tmp_path, text)
