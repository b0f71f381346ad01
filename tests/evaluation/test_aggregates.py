"""Aggregates of suites, compared with published scores and with their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from metalm_cli.common.registry import Registry, aggregates
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import aggregates as module
from metalm_cli.evaluation.metrics.aggregates import TaskScores


def task(name: str, *scores: float, cluster: str = "one", group: str = "", n: int = 10, chance=None) -> TaskScores:
    return TaskScores(name, cluster, group or name, n, chance, np.array(scores, dtype=float)[:, None])


def compute(name: str, *tasks: TaskScores) -> float:
    (value,) = module.compute(name, tasks)
    return float(value)


def test_the_published_score_of_bert_large_on_glue() -> None:
    # gluebenchmark.com/leaderboard, BERT-Large (Devlin et al. 2018): its scores by task, and the score 80.5.
    tasks = [
        task("cola", 60.5),
        task("sst2", 94.9),
        task("mrpc", 89.3, 85.4),
        task("stsb", 87.6, 86.5),
        task("qqp", 72.1, 89.3),
        task("mnli", 86.7, group="mnli"),
        task("mnli_mismatched", 85.9, group="mnli"),
        task("qnli", 92.7),
        task("rte", 70.1),
        task("wnli", 65.1),
    ]
    assert compute("metrics_then_tasks", *tasks) == pytest.approx(80.5, abs=0.05)
    assert compute("mean_over_tasks", *tasks) != pytest.approx(80.5, abs=0.05), "only the first metric"


def test_the_published_score_of_bert_on_superglue() -> None:
    # Wang et al. 2019 (SuperGLUE), table 3, BERT++ on the test sets: its scores by task, and the average 71.5.
    tasks = [
        task("boolq", 79.0),
        task("cb", 90.4, 84.8),
        task("copa", 73.8),
        task("multirc", 70.0, 24.1),
        task("record", 72.0, 71.3),
        task("rte", 79.0),
        task("wic", 69.6),
        task("wsc", 64.4),
    ]
    assert compute("metrics_then_tasks", *tasks) == pytest.approx(71.5, abs=0.05)


def test_weighting_by_examples_is_the_mean_over_the_questions_of_all_tasks() -> None:
    # As evaluate.py of github.com/hendrycks/test: np.mean(np.concatenate(all_cors)).
    random = np.random.default_rng(0)
    answers = [random.integers(0, 2, size) for size in (100, 7, 31)]
    tasks = [task(str(i), 100 * float(right.mean()), n=len(right)) for i, right in enumerate(answers)]
    assert compute("weighted_by_examples", *tasks) == pytest.approx(100 * np.mean(np.concatenate(answers)))
    assert compute("mean_over_tasks", *tasks) == pytest.approx(100 * np.mean([right.mean() for right in answers]))


def test_means_over_clusters_and_groups() -> None:
    tasks = [
        task("a", 10, cluster="nli"),
        task("b", 30, cluster="nli"),
        task("c", 80, cluster="qa", group="g"),
        task("d", 40, cluster="qa", group="g"),
        task("e", 0, cluster="qa"),
    ]
    assert compute("mean_over_clusters", *tasks) == pytest.approx((20 + (60 + 0) / 2) / 2)
    assert compute("mean_over_tasks", *tasks) == pytest.approx((10 + 30 + 60 + 0) / 4)


def test_chance_is_0_and_the_best_score_100() -> None:
    tasks = [task("four", 25, chance=25.0), task("two", 100, chance=50.0), task("worse", 40, chance=50.0)]
    assert compute("chance_normalised", *tasks) == pytest.approx((0 + 100 - 20) / 3)


@pytest.mark.parametrize("name", aggregates.names())
def test_resamples_are_aggregated_one_by_one(name: str) -> None:
    random = np.random.default_rng(1)
    values = [random.uniform(0, 100, (2, 5)) for _ in range(4)]
    tasks = [TaskScores(str(i), f"c{i % 2}", f"g{i // 2}", i + 1, 20.0, value) for i, value in enumerate(values)]
    together = module.compute(name, tasks)
    single = [
        compute(name, *(task(t.name, *t.values[:, b], cluster=t.cluster, group=t.group, n=t.examples, chance=20.0)
                        for t in tasks))
        for b in range(5)
    ]  # fmt: skip
    assert together == pytest.approx(single)


def test_a_function_of_a_plugin_is_an_aggregate(tmp_path, monkeypatch) -> None:
    (tmp_path / "median_of_tasks.py").write_text(
        "import numpy as np\n"
        "def median(tasks):\n    return np.median([task.values[0] for task in tasks], axis=0)\n"
        "def wrong(tasks):\n    return 1.0\n"
        "def failing(tasks):\n    return tasks[9]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = {name: (f"median_of_tasks:{name}", "d") for name in ("median", "wrong", "failing")}
    monkeypatch.setattr(module, "aggregates", Registry("aggregate", names))
    tasks = [task("a", 10), task("b", 20), task("c", 90)]
    assert compute("median", *tasks) == 20
    with pytest.raises(MetalmError, match="the aggregate wrong returns no number for each resample"):
        module.compute("wrong", tasks)
    with pytest.raises(MetalmError, match="the aggregate failing fails") as caught:
        module.compute("failing", tasks)
    assert caught.value.why == "IndexError: list index out of range"
    with pytest.raises(MetalmError, match="no aggregate is named medain"):
        module.compute("medain", tasks)
