"""Parity with lm_eval's ``hf`` backend for encoder–decoders (``backend=seq2seq``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness_tasks import write_task
from tiny_seq2seq import save_seq2seq

pytest.importorskip("lm_eval", reason="lm_eval is not installed: python -m pip install -e '.[harness]'")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from metalm_cli.harness.model import HarnessModel

LIMIT = 8
CONTEXTS = ("The girl had a red ball", "She said:\n\n", "", "A fox can hide well in the forest ", "Once upon a time")
RESTS = (" and a dog", " it barked twice, and the girl laughed", " yes", "The dog")


@pytest.fixture(scope="module", params=["t5", "mt5"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    save_seq2seq(request.param, folder)
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    theirs = HFLM(str(folder), backend="seq2seq", softmax_dtype="float64", batch_size=4, **options)
    return theirs, HarnessModel(str(folder), **options)


def test_log_likelihoods_are_those_of_the_hf_backend(both: tuple[Any, Any]) -> None:
    pairs = [(context * 2, rest) for context in CONTEXTS for rest in RESTS]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    theirs, ours = (model.loglikelihood(requests, disable_tqdm=True) for model in both)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert len({round(value, 3) for value, _ in ours}) > len(RESTS)


@pytest.mark.parametrize("shots", [0, 2])
def test_two_tasks(both: tuple[Any, Any], shots: int, data_root: Path, tmp_path: Path) -> None:
    changes = {"fewshot_split": "train", "fewshot_config": {"sampler": "first_n"}}
    names = [write_task(name, tmp_path, data_root, **changes) for name in ("copa", "arc_easy")]
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    theirs, ours = (
        lm_eval.simple_evaluate(
            model=model,
            tasks=names,
            task_manager=manager,
            limit=LIMIT,
            num_fewshot=shots,
            bootstrap_iters=0,
            log_samples=True,
        )
        for model in both
    )
    for name in names:
        expected, actual = (
            [response for sample in results["samples"][name] for (response,) in sample["resps"]]
            for results in (theirs, ours)
        )
        assert len(expected) >= 2 * LIMIT
        assert [value for value, _ in actual] == pytest.approx([value for value, _ in expected], abs=1e-4), name
        scores = {key: value for key, value in theirs["results"][name].items() if key.startswith("acc")}
        assert scores
        assert {key: ours["results"][name][key] for key in scores} == scores, name


def test_generation_is_that_of_the_hf_backend(both: tuple[Any, Any]) -> None:
    options = {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False}
    texts = [context for context in CONTEXTS if context]
    requests = [Instance("generate_until", {}, (text, dict(options)), index) for index, text in enumerate(texts)]
    theirs, ours = (model.generate_until(requests, disable_tqdm=True) for model in both)
    # The hf backend adds the length of the context to the limit, although the decoder does not read the context.
    assert all(text.strip() for text in ours)
    assert all(longer.strip().startswith(text.strip()) for text, longer in zip(ours, theirs, strict=True))
