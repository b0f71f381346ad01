"""Shared code of the training commands: one run per seed, the default base model, and the report of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from metalm_cli.cli import console
from metalm_cli.cli.commands.training.compare_reference import find_reference, note_comparison, note_settings
from metalm_cli.cli.options.training import TrainOptions
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.common.signals import StopSignals
    from metalm_cli.config.lowered_values import ModelLengths
    from metalm_cli.config.resolution import ResolvedRecipe
    from metalm_cli.config.schema.recipes import Recipe
    from metalm_cli.runs.newest import FinishedRun
    from metalm_cli.training.parts.stages import StageContext
    from metalm_cli.training.run import Run


def train(command: str, arguments: list[str], flags: dict[str, Any], train_options: TrainOptions) -> None:
    """Run a training command and exit with its code.

    Args:
        command: ``pretrain``, ``finetune`` or ``instruct``.
        arguments: Recipe and overrides of the command line.
        flags: Recipe values that options set, by dotted key.
        train_options: Options that are not recipe values.
    """
    from metalm_cli.common.signals import StopSignals
    from metalm_cli.training.distributed.rank_zero import report_errors_once

    with report_errors_once(), StopSignals(at_once=not train_options.dry_run) as signals:
        try:
            code = _train(command, arguments, flags, train_options, signals)
        except KeyboardInterrupt:
            if train_options.dry_run:
                raise
            resume = " with --resume" if train_options.resume or train_options.seeds is not None else ""
            _note(f"stopped by {signals.pending} before training began; the same command{resume} continues")
            code = Exit.STOPPED
    raise typer.Exit(int(code))


def _train(
    command: str, arguments: list[str], flags: dict[str, Any], train_options: TrainOptions, signals: StopSignals
) -> Exit:
    from metalm_cli.training.distributed.rank_zero import is_launched, is_rank_zero

    if train_options.dry_run and train_options.resume:
        raise MetalmError("--dry-run and --resume exclude each other", remedy="leave one of them out")
    runs = _resolve_together(command, arguments, flags, train_options)
    for number, (resolved, out) in enumerate(runs):
        code = _run_with_stages(resolved, train_options, out, signals)
        if code != Exit.DONE:
            return code
        if signals.pending and number + 1 < len(runs):
            _note(f"stopped by {signals.pending} after {out}; the same command with --resume continues")
            return Exit.STOPPED
    if train_options.seeds is not None and train_options.out and not train_options.dry_run and is_rank_zero():
        _write_seeds(train_options.out, _parse_seeds(train_options.seeds))
    if is_launched():
        from metalm_cli.training.distributed.accelerator import disconnect_processes

        disconnect_processes()
    return Exit.DONE


def _resolve_together(
    command: str, arguments: list[str], flags: dict[str, Any], train_options: TrainOptions
) -> list[tuple[ResolvedRecipe, Path | None]]:
    """Resolve the recipe of each run; of several processes, all fail if one does."""
    from metalm_cli.training.distributed.rank_zero import is_launched

    def resolve_runs() -> list[tuple[ResolvedRecipe, Path | None]]:
        runs = _resolve_runs(command, arguments, flags, train_options)
        if train_options.compare_reference:
            find_reference(runs[0][0])
        return runs

    if not is_launched():
        return resolve_runs()
    from metalm_cli.cli.silence_libraries import silence_libraries

    silence_libraries(train_options.offline)
    from metalm_cli.training.distributed.accelerator import connect_processes

    collectives = connect_processes()
    with collectives.explain_lost_process():
        return collectives.run_together(resolve_runs)


def _resolve_runs(
    command: str, arguments: list[str], flags: dict[str, Any], train_options: TrainOptions
) -> list[tuple[ResolvedRecipe, Path | None]]:
    """Recipe and folder of each run: one run, or one for each seed."""
    from metalm_cli.config import split_arguments

    recipe, overrides = split_arguments(arguments)
    out, seeds = train_options.out, train_options.seeds
    if recipe is None and train_options.resume and out is not None:
        recipe = _recipe_of_run(command, out if seeds is None else out / f"seed-{_parse_seeds(seeds)[0]}", out)
    if seeds is None:
        return [(resolve_with_model(command, recipe, overrides, flags, train_options.offline), out)]
    seed_numbers = _parse_seeds(seeds)
    if out is None:
        raise MetalmError("--seeds needs --out RUN", remedy="name the folder that holds the runs")
    return [
        (
            resolve_with_model(command, recipe, [*overrides, f"train.seed={number}"], flags, train_options.offline),
            out / f"seed-{number}",
        )
        for number in seed_numbers
    ]


def _note(text: str) -> None:
    """Print a line to standard error in rank zero; a closed terminal or a full disk does not end the run."""
    from metalm_cli.training.distributed.rank_zero import is_rank_zero

    if is_rank_zero():
        with suppress(OSError):
            console.stderr().print(text, markup=False, soft_wrap=True)


def resolve_with_model(
    command: str | None, recipe: str | None, overrides: Sequence[str], flags: dict[str, Any], offline: bool
) -> ResolvedRecipe:
    """Resolve a recipe, with its lengths lowered to what its model reads, of which only configs are read.

    A recipe without a model continues the newest finished run, a pretraining run if there is one.

    Args:
        command: Command that runs the recipe; None: the command that the recipe sets.
        recipe: Path or name of a recipe.
        overrides: ``KEY=VALUE`` arguments.
        flags: Values of options by dotted key.
        offline: Do not access the network.
    """
    from metalm_cli.cli.silence_libraries import silence_libraries
    from metalm_cli.config import resolve

    bases: list[FinishedRun] = []

    def read_lengths(checked: Recipe) -> ModelLengths:
        silence_libraries(offline)
        from metalm_cli.models.families.length_limits import lengths_of_recipe

        if _continues_newest_run(checked) and not bases:
            bases.append(_newest_base())
        return lengths_of_recipe(checked, str(bases[0].path) if bases else None, offline=offline)

    resolved = resolve(command, recipe, overrides, flags, read_lengths)
    if not bases:
        return resolved
    console.stderr().print(f"no model is named: starting from {bases[0]}", markup=False, soft_wrap=True)
    return resolved.with_checkpoint(str(bases[0].path))


def _continues_newest_run(recipe: Recipe) -> bool:
    return recipe.command != "pretrain" and recipe.model.checkpoint is None and not recipe.model.builds_parts


def _newest_base() -> FinishedRun:
    """Find the run that a recipe without a model continues.

    Raises:
        MetalmError: There is none.
    """
    from metalm_cli.runs.newest import TO_TRAIN, newest_run

    remedy = "pass a model with --model, or run metalm pretrain small first"
    return newest_run(TO_TRAIN, results=("model",), remedy=remedy)


def _recipe_of_run(command: str, run: Path, out: Path) -> str:
    """Path of the recipe of a run that is resumed by its folder alone.

    Raises:
        MetalmError: The folder holds no recipe.
    """
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        raise MetalmError(
            "there is nothing to resume",
            where=str(run),
            why="the folder has no recipe.yaml, which a run writes when it starts"
            if run.exists()
            else "no such folder",
            remedy=f"name the recipe: metalm {command} RECIPE --resume --out {out} starts the run if there is none",
        )
    return str(recipe) if recipe.is_absolute() else f"./{recipe}"


def _parse_seeds(seeds: str) -> list[int]:
    try:
        seed_numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        seed_numbers = []
    if not seed_numbers or len(set(seed_numbers)) != len(seed_numbers) or min(seed_numbers) < 0:
        raise MetalmError(f"--seeds {seeds} is not a list of distinct numbers", remedy="write --seeds 0,1,2")
    return seed_numbers


def _run_with_stages(
    resolved: ResolvedRecipe, train_options: TrainOptions, out: Path | None, signals: StopSignals
) -> Exit:
    """Train a recipe with one seed, stage by stage if it has stages."""
    if not resolved.stages:
        return _run_recipe(resolved, train_options, out, signals)
    from metalm_cli.cli.commands.training.staged_run import run_stages

    def run_stage(
        stage: ResolvedRecipe, options: TrainOptions, folder: Path | None, context: StageContext | None
    ) -> Exit:
        return _run_recipe(stage, options, folder, signals, context, brief=not train_options.dry_run)

    return run_stages(resolved, train_options, out, signals, run_stage, _note)


def _run_recipe(
    resolved: ResolvedRecipe,
    train_options: TrainOptions,
    out: Path | None,
    signals: StopSignals,
    stage: StageContext | None = None,
    *,
    brief: bool = False,
) -> Exit:
    """Plan or train one run: a recipe with one seed, or one of its stages, whose plan may be brief."""
    from metalm_cli.cli.silence_libraries import silence_libraries

    silence_libraries(train_options.offline)
    reference = find_reference(resolved) if train_options.compare_reference else None
    from metalm_cli.inference.preview import preview_continuations
    from metalm_cli.training.distributed.rank_zero import is_rank_zero
    from metalm_cli.training.finetuning import Finetuning
    from metalm_cli.training.planning.memory import human_bytes
    from metalm_cli.training.planning.plan import plan_text
    from metalm_cli.training.pretraining import Pretraining
    from metalm_cli.training.run_options import RunCallbacks, RunOptions

    def show_plan(plan: Any, result: Any) -> None:
        in_full = train_options.dry_run and not brief
        printer = console.stdout() if in_full else console.stderr()
        if result is None:
            printer.print(plan_text(plan, resolved, all_values=in_full))
            return
        memory_note = "" if result.peak_bytes is None else f", {human_bytes(result.peak_bytes)} of the device at most"
        duration = "not measured, it did not fit" if result.seconds is None else f"{result.seconds:.2f} s"
        printer.print(f"probe    a micro-batch of the longest rows: {duration}{memory_note}", markup=False)
        for line in result.notes:
            printer.print(f"  - {line}", markup=False)

    continuations: list[tuple[str, str]] = []

    def sample(*arguments: Any) -> list[tuple[str, str]]:
        continuations[:] = preview_continuations(*arguments)
        return continuations

    run_options = RunOptions(
        resolved.name,
        out,
        train_options.resume,
        train_options.dry_run,
        train_options.offline,
        train_options.data_root,
        stage,
    )
    kind = Pretraining if resolved.recipe.command == "pretrain" else Finetuning
    if reference is not None:
        note_settings(reference, resolved, _note)
    run = kind(resolved.recipe, resolved.to_yaml(), run_options, RunCallbacks(show_plan, sample, _note))
    if train_options.dry_run:
        run.dry_run()
        return Exit.DONE
    code = run.run(signals)
    if is_rank_zero() and not signals.raised:
        report_run(run, continuations, _note, signals)
        if reference is not None:
            note_comparison(reference, run.folder_path, _note)
    return code


def _write_seeds(out: Path, seeds: list[int]) -> None:
    """Write and print the mean and standard deviation of the last validation metrics over seeds."""
    import json
    import statistics

    from metalm_cli.common.atomic_files import write_atomically
    from metalm_cli.runs.find import run_of_result
    from metalm_cli.runs.metrics_log import read_metrics

    final_metrics: list[dict[str, Any]] = []
    for number in seeds:
        records, _ = read_metrics(run_of_result(out / f"seed-{number}") / "metrics.jsonl")
        final_metrics.append(next((record for record in reversed(records) if record.get("split") == "validation"), {}))
    final_metrics = [_floats(record) for record in final_metrics]
    keys = list(final_metrics[0])
    summary = {}
    for key in keys:
        values = [metrics[key] for metrics in final_metrics if isinstance(metrics.get(key), float)]
        spread = statistics.stdev(values) if len(values) > 1 else None
        summary[key] = {"mean": statistics.fmean(values), "stdev": spread, "values": values}
    text = json.dumps({"seeds": seeds, "validation": summary}, indent=2) + "\n"
    write_atomically(out / "seeds.json", text.encode())
    for key, metric in summary.items():
        spread = "" if metric["stdev"] is None else f", standard deviation {metric['stdev']:.4f}"
        console.write(f"validation {key}: mean {metric['mean']:.4f}{spread}, seeds {', '.join(map(str, seeds))}\n")


def _floats(record: dict[str, Any]) -> dict[str, float]:
    """Float values of a record, with dotted names for values of nested mappings."""
    floats: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, float):
            floats[key] = value
        elif isinstance(value, dict):
            floats.update({f"{key}.{name}": number for name, number in value.items() if isinstance(number, float)})
    return floats


REPORTED_ROWS = 2
"""Pretraining rows shown in a report."""


REPORTED_EXAMPLES = 4
"""Task examples shown in a report."""


def report_run(
    run: Run, continuations: Sequence[tuple[str, str]], note: Callable[[str], None], signals: StopSignals
) -> None:
    """Write the report of a run that has ended. A failure or a stop is printed, and does not fail the run.

    Args:
        run: The run.
        continuations: Prompts of the last validation, each with the model's continuation.
        note: Prints a line.
        signals: Stop signals of the command.
    """
    from metalm_cli.reports.reading.session_spans import SESSIONS_FILE, write_sessions
    from metalm_cli.reports.write_report import write_run_report

    try:
        # A stream would be read again from its start; a run that is resumed at its end has no new continuations.
        streamed = any(info.streamed for info in run.corpus.sources)
        if not streamed and (continuations or not (run.folder_path / SESSIONS_FILE).exists()):
            write_sessions(run.folder_path, _first_row_spans(run), continuations)
        stage = run.options.stage
        note(f"report: {write_run_report(run.folder_path if stage is None else stage.run)}")
    except KeyboardInterrupt:
        note(f"no report was written ({signals.pending}); metalm report {run.folder_path} writes it")
    except Exception as error:  # a run that has trained well does not fail for its report
        reason = error.what if isinstance(error, MetalmError) else f"{type(error).__name__}: {error}"
        note(f"no report was written ({reason}); metalm report {run.folder_path} writes it again")


def _first_row_spans(run: Run) -> Iterator[tuple[str, list[list[Any]]]]:
    """Yield the first rows (or examples) that a run has trained on, as spans with a title."""
    from metalm_cli.data.examples.pack_examples import pack_sessions
    from metalm_cli.reports.reading.session_spans import row_spans
    from metalm_cli.training.finetuning import Finetuning
    from metalm_cli.training.first_rows import first_rows

    assembly = run.assembly
    masked = assembly.tokenizer is None
    if masked:
        processor: Any = next(iter(assembly.processors.values()))  # a text encoder's, the only one
        tokenizer = processor.tokenizer
    else:
        tokenizer = assembly.decoder_tokenizer.tokenizer
    if run.recipe.command == "pretrain":
        for number, row in enumerate(first_rows(run.recipe, run.corpus, assembly, REPORTED_ROWS)):
            yield f"row {number + 1}", row_spans(row, tokenizer, assembly.processors, masked=masked)
        return
    assert isinstance(run, Finetuning)
    for number in range(REPORTED_EXAMPLES):
        row = pack_sessions([run.session_builder.session(number)], run.packing.row_format)
        yield run.corpus.where(number), row_spans(row, tokenizer, assembly.processors)
