"""``metalm evaluate``: scoring of models on tasks."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import typer

from metalm_cli.cli import console
from metalm_cli.cli.options import evaluate as options
from metalm_cli.cli.options.groups import expand_groups
from metalm_cli.cli.options.shared import Offline
from metalm_cli.common.signals import StopSignals
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.evaluation.results.result_paths import result_paths

if TYPE_CHECKING:
    from metalm_cli.data.examples.truncation import EncoderLimit
    from metalm_cli.evaluation.settings import EvaluationSettings
    from metalm_cli.tasks import Card, Cards


@expand_groups
def evaluate(
    model: options.Model = None,
    *,
    tasks: options.TaskOptions,
    prompts: options.PromptOptions,
    answers: options.AnswerOptions,
    checks: options.CheckOptions,
    output: options.OutputOptions,
    versus: options.Versus = None,
    harness: options.Harness = None,
    offline: Offline = False,
) -> None:
    """Score models on tasks, and write the results with all settings that are needed to repeat them.

    Means over clusters include the paper's core tasks.
    Answers are cached, so that an interrupted evaluation continues where it stopped.
    """
    from metalm_cli.cli.commands.evaluation.evaluate_run import EvaluationRun, print_note
    from metalm_cli.cli.silence_libraries import silence_libraries
    from metalm_cli.tasks import Cards

    if harness:
        shots = None if prompts.shots is None else _parse_shots(prompts.shots)
        _run_harness(model, harness, tasks.limit, shots, output.out, offline)
        return
    _check_choices(prompts, answers)
    tasks = _with_cards_of_paths(tasks)
    registry = Cards(tasks.cards or ())
    selected = select_cards(registry, tasks.task_names, tasks.cluster_names, tasks.all_cards)
    sources = [model or newest_metalm(), *(versus or [])]
    paths = result_paths(sources, output.out, answers.protocol, tasks.names, output.save_samples)
    signals = StopSignals(at_once=True)
    try:
        with signals:
            silence_libraries(offline)
            run = EvaluationRun(
                sources,
                paths,
                registry,
                selected,
                data_root=tasks.data_root,
                offline=offline,
                require_held_out=checks.held_out,
                ignore_cache=output.fresh,
                save_samples=output.save_samples,
            )
            run.run(_settings(tasks, prompts, answers, offline), prompts.style, checks.contamination or ())
    except KeyboardInterrupt:
        restart = "starts again" if output.fresh else "continues with the saved answers"
        print_note(f"stopped by {signals.pending}; the same command {restart}")
        raise typer.Exit(int(Exit.STOPPED)) from None


def _check_choices(prompts: options.PromptOptions, answers: options.AnswerOptions) -> None:
    """Check options whose values are names.

    Raises:
        MetalmError: An unknown value, or options that exclude each other.
    """
    from metalm_cli.evaluation.settings import PROTOCOLS
    from metalm_cli.templates.render import DemonstrationLayout, Route

    for option, value, allowed in (
        ("--protocol", answers.protocol, ("auto", *PROTOCOLS)),
        ("--demonstrations", prompts.demonstrations, ("frozen", "drawn")),
        ("--demonstration-layout", prompts.demonstration_layout, (None, *get_args(DemonstrationLayout))),
        ("--input-route", prompts.input_route, (None, *get_args(Route))),
    ):
        _check_choice(option, value, allowed)
    if answers.sampled_answers > 1 and answers.temperature <= 0:
        raise MetalmError(
            f"--temperature {answers.temperature}: sampled answers need a value above 0", remedy="raise it"
        )


def _settings(
    tasks: options.TaskOptions, prompts: options.PromptOptions, answers: options.AnswerOptions, offline: bool
) -> EvaluationSettings:
    """Settings as far as the options decide them."""
    from metalm_cli.evaluation.settings import EvaluationSettings

    return EvaluationSettings(
        template=prompts.template or "",
        split=tasks.split,
        limit=tasks.limit,
        length=prompts.sequence_length,
        batch_size=answers.batch_size,
        also_fit=tuple(_parse_encoder_limit(encoder, offline) for encoder in prompts.match_lengths_of or ()),
        protocol=answers.protocol,  # type: ignore[arg-type]
        shots=_parse_shots(prompts.shots or "0"),
        draw_per_example=prompts.demonstrations == "drawn",
        max_answer_tokens=answers.max_answer_tokens,
        normalise=answers.normalise,
        samples=answers.sampled_answers,
        temperature=answers.temperature,
        seed=answers.seed,
    )


def select_cards(cards: Cards, tasks: Sequence[str], clusters: Sequence[str], all_cards: bool) -> list[Card]:
    """Cards that ``--task`` and ``--cluster`` select.

    Raises:
        MetalmError: Neither option is given, or a name is unknown.
    """
    from metalm_cli.tasks import CLUSTERS
    from metalm_cli.tasks.registry import GROUP_NAMES

    if not tasks and not clusters:
        raise MetalmError(
            "no tasks are selected",
            remedy="select tasks (--task rte), clusters (--cluster nli), or all of the paper's tasks (--cluster core)",
        )
    unknown = [name for name in clusters if name not in (*CLUSTERS, *GROUP_NAMES)]
    if unknown:
        raise MetalmError(
            f"no cluster is named {unknown[0]}",
            why=f"clusters: {', '.join(CLUSTERS)}; groups: {', '.join(GROUP_NAMES)}",
            remedy="choose one of these"
            + (f"; {unknown[0]} is a task: --task {unknown[0]}" if unknown[0] in cards.paths else ""),
        )
    selected = cards.select([*tasks, *clusters], all_cards)
    if not selected:
        raise MetalmError(f"no task is in {', '.join(clusters)}", remedy="add --all-cards, or select tasks with --task")
    return selected


def newest_metalm() -> str:
    """Find the newest finished run that holds a MetaLM, and print its path.

    Raises:
        MetalmError: The run does not exist.
    """
    from metalm_cli.runs.find import RUNS, newest_finished

    run = newest_finished(RUNS, _has_encoders)
    if run is None:
        raise MetalmError(
            "no model is named, and no finished run holds a MetaLM",
            where=str(RUNS.absolute()),
            remedy="name a run folder, a model folder or a hub id; metalm pretrain and metalm finetune create runs",
        )
    console.stderr().print(f"model    {run} (the newest finished run)", markup=False, soft_wrap=True)
    return str(run)


def _has_encoders(run: Path) -> bool:
    """Whether a run's model, or the base of its adapter, has encoders."""
    import json

    for name in ("model/config.json", "adapter/metalm_adapter.json"):
        try:
            config = json.loads((run / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return isinstance(config, dict) and bool(config.get("model_type") == "metalm" or config.get("connectors"))
    return False


def _with_cards_of_paths(tasks: options.TaskOptions) -> options.TaskOptions:
    """Return the options with the paths among the task names as cards, and the names of their tasks in their place."""
    from metalm_cli.tasks.registry import card_files, card_name, is_path

    paths = [name for name in tasks.task_names if is_path(name)]
    if not paths:
        return tasks
    names = [
        task
        for name in tasks.task_names
        for task in (map(card_name, card_files(Path(name))) if is_path(name) else [name])
    ]
    return replace(tasks, task=names, cards=[*(tasks.cards or ()), *map(Path, paths)])


def _parse_shots(shots: str) -> tuple[int, ...]:
    """Parse the numbers of ``--shots``.

    Raises:
        MetalmError: The text is not a list of numbers.
    """
    parts = [part.strip() for part in shots.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise MetalmError(
            f"--shots {shots} is not a list of numbers", remedy="write numbers of demonstrations, such as --shots 0,1,4"
        )
    return tuple(dict.fromkeys(map(int, parts)))


def _check_choice(option: str, value: str | None, allowed: Sequence[str | None]) -> None:
    if value not in allowed:
        raise MetalmError(
            f"unknown value {value} for {option}",
            why=f"expected one of {', '.join(filter(None, allowed))}",
            remedy="choose one of these",
        )


def _run_harness(
    model: str | None,
    tasks: Sequence[str],
    limit: int | None,
    shots: tuple[int, ...] | None,
    out: Path | None,
    offline: bool,
) -> None:
    """Run lm-evaluation-harness, and exit with its code."""
    from metalm_cli.harness import harness_command

    if shots is not None and len(shots) != 1:
        raise MetalmError(
            "--harness takes a single number of demonstrations", remedy="write --shots 0, or another number"
        )
    command = harness_command(
        model or newest_metalm(),
        options.split_names(tasks),
        limit=limit,
        shots=None if shots is None else shots[0],
        out=out,
        offline=offline,
    )
    code = subprocess.run(command).returncode
    raise typer.Exit(128 - code if code < 0 else code)  # a negative code is a signal


def _parse_encoder_limit(text: str, offline: bool) -> EncoderLimit:
    """Parse a value of ``--match-input-lengths-of`` into the length limit of an encoder.

    Raises:
        MetalmError: The text is not TOKENIZER:LENGTH, or the tokenizer cannot be loaded.
    """
    from metalm_cli.common.hub import model_folder
    from metalm_cli.data.examples.truncation import EncoderLimit
    from metalm_cli.models.encoders import load_tokenizer

    name, _, length = text.rpartition(":")
    if not name or not length.isdecimal() or int(length) < 8:
        raise MetalmError(
            f"--match-input-lengths-of {text} is not TOKENIZER:LENGTH",
            remedy="write the folder or hub id of a tokenizer, a colon, and the encoder's length in tokens (8 or more)",
        )
    folder = model_folder(name, offline=offline, weights=False)
    return EncoderLimit.of(load_tokenizer(folder, False), int(length))
