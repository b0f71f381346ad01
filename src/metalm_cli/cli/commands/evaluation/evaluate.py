"""``metalm evaluate``: scoring of models on tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import typer

from metalm_cli.cli import console
from metalm_cli.cli.commands.evaluation.harness_run import check_harness_options, run_harness
from metalm_cli.cli.options import evaluate as options
from metalm_cli.cli.options.groups import expand_groups, used_options
from metalm_cli.cli.options.shared import Offline, parse_end_tokens
from metalm_cli.common.signals import StopSignals
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.evaluation.results.result_paths import result_paths

if TYPE_CHECKING:
    from metalm_cli.data.examples.truncation import EncoderLimit
    from metalm_cli.evaluation.request import EvaluationRequest


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
    from metalm_cli.cli.commands.evaluation.evaluation_display import EvaluationDisplay, print_note
    from metalm_cli.cli.silence_libraries import silence_libraries

    if harness:
        check_harness_options((tasks, prompts, answers, checks, output), versus)
        run_harness(
            model_to_evaluate(model),
            harness,
            limit=tasks.limit,
            shots=None if prompts.shots is None else _parse_shots(prompts.shots),
            batch_size=answers.batch_size if used_options(answers) else None,
            out=output.out,
            offline=offline,
        )
        return
    _check_choices(prompts, answers)
    request = _request(tasks, prompts, answers)
    name_parts = request.name_parts()
    sources = [model_to_evaluate(model), *map(model_to_evaluate, versus or [])]
    request = request.with_suite().with_cards_of_run(sources[0])
    selection = request.select(tasks.data_root, offline)
    paths = result_paths(sources, output.out, answers.protocol, selection.names, output.save_samples, name_parts)
    signals = StopSignals(at_once=True)
    try:
        with signals, EvaluationDisplay() as display:
            silence_libraries(offline)
            from metalm_cli.evaluation.opened_evaluation import EvaluationCallbacks
            from metalm_cli.evaluation.run_evaluation import RunSettings, evaluate_models

            run_settings = RunSettings(
                data_root=tasks.data_root,
                offline=offline,
                require_held_out=checks.held_out,
                contamination=tuple(checks.contamination or ()),
                out=tuple(paths),
                save_samples=output.save_samples,
                answers=not output.fresh,
            )
            callbacks = EvaluationCallbacks(display.progress, print_note, display.results)
            limits = tuple(_parse_encoder_limit(encoder, offline) for encoder in prompts.match_lengths_of or ())
            request = replace(request, also_fit=limits)
            evaluate_models(sources, request, selection, run_settings, callbacks)
            display.comparisons()
    except KeyboardInterrupt:
        restart = "starts again" if output.fresh else "continues with the saved answers"
        print_note(f"stopped by {signals.pending}; the same command {restart}")
        raise typer.Exit(int(Exit.STOPPED)) from None


def _check_choices(prompts: options.PromptOptions, answers: options.AnswerOptions) -> None:
    """Check options whose values are names.

    Raises:
        MetalmError: An unknown value, or options that exclude each other.
    """
    from metalm_cli.evaluation.request import AUTO, check_choice
    from metalm_cli.evaluation.settings import PROTOCOLS
    from metalm_cli.templates.render import DemonstrationLayout, Route

    for option, value, allowed in (
        ("--protocol", answers.protocol, (AUTO, *PROTOCOLS)),
        ("--demonstrations", prompts.demonstrations, (None, "frozen", "drawn")),
        ("--demonstration-layout", prompts.demonstration_layout, (None, *get_args(DemonstrationLayout))),
        ("--input-route", prompts.input_route, (None, *get_args(Route))),
    ):
        check_choice(option, value, allowed)
    if answers.sampled_answers > 1 and answers.temperature <= 0:
        raise MetalmError(
            f"--temperature {answers.temperature}: sampled answers need a value above 0", remedy="raise it"
        )


def _request(
    tasks: options.TaskOptions, prompts: options.PromptOptions, answers: options.AnswerOptions
) -> EvaluationRequest:
    """Tasks and settings as far as the options decide them, without the length limits of other encoders."""
    from metalm_cli.evaluation.request import EvaluationRequest

    return EvaluationRequest(
        suite=tasks.suite,
        tasks=tuple(tasks.task_names),
        clusters=tuple(tasks.cluster_names),
        card_folders=tuple(tasks.cards or ()),
        all_cards=tasks.all_cards,
        templates=prompts.templates,
        template=prompts.template,
        style=prompts.style,
        protocol=answers.protocol,
        shots=None if prompts.shots is None else _parse_shots(prompts.shots),
        split=tasks.split,
        limit=tasks.limit,
        length=prompts.sequence_length,
        batch_size=answers.batch_size,
        draw_per_example=None if prompts.demonstrations is None else prompts.demonstrations == "drawn",
        max_answer_tokens=answers.max_answer_tokens,
        end_tokens=parse_end_tokens(answers.end_tokens),
        normalise=answers.normalise or None,
        samples=answers.sampled_answers,
        temperature=answers.temperature,
        seed=answers.seed,
        exchange_docks=answers.exchange_docks,
    )


def model_to_evaluate(model: str | None) -> str:
    """Return the model of a command: a link to a run by the run's name, and without a name the newest run, printed.

    Raises:
        MetalmError: No model is named, and no finished run has a model with encoders.
    """
    from metalm_cli.runs.newest import TO_EVALUATE, newest_run, real_path

    if model is not None:
        return real_path(model)
    remedy = "name a run folder, a model folder or a hub id; metalm pretrain and metalm finetune create runs"
    run = newest_run(TO_EVALUATE, remedy=remedy)
    console.stderr().print(f"model    {run}", markup=False, soft_wrap=True)
    return str(run.path)


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


def _parse_encoder_limit(text: str, offline: bool) -> EncoderLimit:
    """Parse a value of ``--match-input-lengths-of`` into the length limit of an encoder.

    Raises:
        MetalmError: The text is not TOKENIZER:LENGTH, or the tokenizer cannot be loaded.
    """
    from metalm_cli.common.checkpoints.find import model_folder
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
