"""Parity with lm_eval's ``hf`` backend: log-likelihoods and accuracies of its tasks, on real data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness_tasks import TASKS, write_task
from tiny_models import make_decoder, tokenizer_of

pytest.importorskip("lm_eval", reason="lm_eval is not installed: python -m pip install -e '.[harness]'")

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from metalm_cli import harness
from metalm_cli.harness.model import HarnessModel

LIMIT = 8


def evaluate(model: Any, names: list[str], folder: Path, **options: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return lm_eval.simple_evaluate(
        model=model, tasks=names, task_manager=manager, limit=LIMIT, bootstrap_iters=0, log_samples=True, **options
    )


def compare(theirs: dict[str, Any], ours: dict[str, Any], names: list[str]) -> None:
    for name in names:
        expected, actual = (
            [response for sample in results["samples"][name] for (response,) in sample["resps"]]
            for results in (theirs, ours)
        )
        assert len(expected) >= 2 * LIMIT
        assert [value for value, _ in actual] == pytest.approx([value for value, _ in expected], abs=1e-4), name
        assert [greedy for _, greedy in actual] == [greedy for _, greedy in expected], name
        scores = {key: value for key, value in theirs["results"][name].items() if key.startswith(("acc", "f1"))}
        assert scores, name
        assert {key: ours["results"][name][key] for key in scores} == scores, name


@pytest.fixture(scope="module")
def tasks(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("tasks")
    return folder, [write_task(name, folder, data_root) for name in TASKS]


def both(folder: str | Path) -> tuple[Any, Any]:
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    return HFLM(str(folder), softmax_dtype="float64", batch_size=4, **options), HarnessModel(str(folder), **options)


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "byte"), ("llama", "llama")])
def test_tasks_with_random_weights(family: str, kind: str, tasks: tuple[Path, list[str]], tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind)
    positions = {"n_positions": 1024} if family == "gpt2" else {"max_position_embeddings": 1024}
    make_decoder(family, vocab_size=len(tokenizer), **positions).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    theirs, ours = both(tmp_path)
    compare(evaluate(theirs, tasks[1], tasks[0]), evaluate(ours, tasks[1], tasks[0]), tasks[1])


@pytest.mark.parametrize("name", ["stories260k-llama", "tinystories-656k"])
def test_tasks_with_trained_weights(
    name: str, tasks: tuple[Path, list[str]], checkpoints: Callable[[str], Path]
) -> None:
    theirs, ours = both(checkpoints(name))
    chosen = [task for task in tasks[1] if "boolq" not in task]
    compare(evaluate(theirs, chosen, tasks[0]), evaluate(ours, chosen, tasks[0]), chosen)


def test_frozen_demonstrations_are_read_once(data_root: Path, tmp_path: Path) -> None:
    changes = {"fewshot_split": "train", "fewshot_config": {"sampler": "first_n"}}
    names = [write_task(name, tmp_path, data_root, **changes) for name in ("copa", "hellaswag")]
    tokenizer = tokenizer_of("byte")
    make_decoder("gpt2", vocab_size=len(tokenizer), n_positions=2048).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    theirs, ours = both(tmp_path / "model")
    results = evaluate(theirs, names, tmp_path, num_fewshot=5)
    compare(results, evaluate(ours, names, tmp_path, num_fewshot=5), names)
    samples = [sample for name in names for sample in results["samples"][name]]
    contexts = [ours.tok_encode(sample["arguments"][0][0]) for sample in samples]
    assert ours.scorer.positions < sum(map(len, contexts)) / 2


def test_the_command_line_runs_lm_eval(
    tasks: tuple[Path, list[str]],
    checkpoints: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_defaults(*arguments: Any, **options: Any) -> Any:  # indexing lm_eval's 14,000 tasks takes seconds
        return TaskManager(*arguments, **{**options, "include_defaults": False})

    monkeypatch.setattr("lm_eval.tasks.TaskManager", without_defaults)
    command = ["--model", "metalm", "--model_args", f"pretrained={checkpoints('stories260k-llama')}", "--tasks"]
    command += [tasks[1][4], "--include_path", str(tasks[0]), "--limit", "4", "--batch_size", "auto"]
    monkeypatch.setattr("sys.argv", ["untouched"])
    assert harness.main([*command, "--output_path", str(tmp_path), "--log_samples"]) == 0
    stdout = capsys.readouterr().out
    assert "metalm ({'pretrained'" in stdout
    assert "|local_copa|" in stdout.replace(" ", "")
    assert list(tmp_path.rglob("results_*.json"))
    assert harness.main([*command[:4], "pretrained=nowhere", *command[4:]]) == 2
    assert harness.main([*command[:5], "no_such_task"]) == 1
    assert "Traceback" not in capsys.readouterr().err
