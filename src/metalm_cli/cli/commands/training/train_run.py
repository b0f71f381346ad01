"""What the training commands share: their options, and a run for each seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from metalm_cli.cli import console
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.config.resolution import Resolved
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metalm_cli.training.run import Run


@dataclass(frozen=True)
class TrainOptions:
    """Flags of a training command."""

    out: Path | None
    resume: bool
    dry_run: bool
    offline: bool
    data_root: Path | None
    seeds: str | None


def train(command: str, arguments: list[str], flags: dict[str, Any], settings: TrainOptions) -> None:
    """Run a training command and exit with its code.

    Args:
        command: ``pretrain``, ``finetune`` or ``instruct``.
        arguments: Recipe and overrides of the command line.
        flags: Values of flags by dotted key.
        settings: The other flags.
    """
    from metalm_cli.training.distributed.rank_zero import report_errors_once

    with report_errors_once():
        code = _train(command, arguments, flags, settings)
    raise typer.Exit(int(code))


def _train(command: str, arguments: list[str], flags: dict[str, Any], settings: TrainOptions) -> Exit:
    from metalm_cli.config import resolve, split_arguments
    from metalm_cli.training.distributed.rank_zero import is_rank_zero

    if settings.dry_run and settings.resume:
        raise MetalmError("--dry-run and --resume exclude each other", remedy="leave one of them out")
    recipe, overrides = split_arguments(arguments)
    out, seeds = settings.out, settings.seeds
    if recipe is None and settings.resume and out is not None:
        recipe = _begun(command, out if seeds is None else out / f"seed-{_numbers(seeds)[0]}", out)
    if seeds is None:
        return _one(with_default_base(resolve(command, recipe, overrides, flags)), settings, out)
    numbers = _numbers(seeds)
    if out is None:
        raise MetalmError("--seeds needs --out RUN", remedy="name the folder that holds the runs")
    runs = [
        with_default_base(resolve(command, recipe, [*overrides, f"train.seed={number}"], flags)) for number in numbers
    ]
    for number, resolved in zip(numbers, runs, strict=True):
        code = _one(resolved, settings, out / f"seed-{number}")
        if code != Exit.DONE:
            return code
    if not settings.dry_run and is_rank_zero():
        _write_seeds(out, numbers)
    return Exit.DONE


def with_default_base(resolved: Resolved) -> Resolved:
    """A finetuning recipe without a model begins from the newest finished pretraining run."""
    model = resolved.recipe.model
    if resolved.recipe.command == "pretrain" or model.checkpoint is not None or model.decoder is not None:
        return resolved
    from metalm_cli.training.default_base import latest_base_model

    found = latest_base_model("pretrain")
    console.stderr().print(f"no model is named: beginning from the newest pretraining run, {found}", markup=False)
    return resolved.with_checkpoint(str(found))


def _begun(command: str, run: Path, out: Path) -> str:
    """The recipe of a run that is to be resumed by its folder alone.

    Raises:
        MetalmError: The folder holds none: which run to start is not known.
    """
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        raise MetalmError(
            "there is nothing to resume",
            where=str(run),
            why="it holds no recipe.yaml, which a run writes as it begins" if run.exists() else "no such folder",
            remedy=f"name the recipe: metalm {command} RECIPE --resume --out {out} starts a run that has not begun",
        )
    return str(recipe) if recipe.is_absolute() else f"./{recipe}"


def _numbers(seeds: str) -> list[int]:
    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) != len(numbers) or min(numbers) < 0:
        raise MetalmError(f"--seeds {seeds} is no list of different numbers", remedy="write it as --seeds 0,1,2")
    return numbers


def _one(resolved: Resolved, settings: TrainOptions, out: Path | None) -> Exit:
    """Train one recipe with one seed."""
    from metalm_cli.cli.silence_libraries import silence_libraries

    silence_libraries(settings.offline)
    from metalm_cli.inference.preview import preview_continuations
    from metalm_cli.training.distributed.rank_zero import is_rank_zero
    from metalm_cli.training.finetuning import Finetuning
    from metalm_cli.training.planning.memory import human_bytes
    from metalm_cli.training.planning.plan import plan_text
    from metalm_cli.training.pretraining import Pretraining, RunCallbacks, RunOptions

    def show_plan(plan: Any, result: Any) -> None:
        printer = console.stdout() if settings.dry_run else console.stderr()
        if result is None:
            printer.print(plan_text(plan, resolved, every=settings.dry_run))
            return
        memory = "" if result.peak_bytes is None else f", {human_bytes(result.peak_bytes)} of the device at most"
        took = "no time: it did not fit" if result.seconds is None else f"{result.seconds:.2f} s"
        printer.print(f"probe    a micro-batch of the longest rows: {took}{memory}", markup=False)
        for line in result.notes:
            printer.print(f"  - {line}", markup=False)

    def note(text: str) -> None:
        if is_rank_zero():
            console.stderr().print(text, markup=False, soft_wrap=True)

    said: list[tuple[str, str]] = []

    def sample(*shown: Any) -> list[tuple[str, str]]:
        said[:] = preview_continuations(*shown)
        return said

    options = RunOptions(resolved.name, out, settings.resume, settings.dry_run, settings.offline, settings.data_root)
    kind = Pretraining if resolved.recipe.command == "pretrain" else Finetuning
    run = kind(resolved.recipe, resolved.to_yaml(), options, RunCallbacks(show_plan, sample, note))
    if settings.dry_run:
        run.prepare()
        run.show_plan()
        return Exit.DONE
    code = run.run()
    if is_rank_zero():
        report_run(run, said, note)
    return code


def _write_seeds(out: Path, numbers: list[int]) -> None:
    """Mean and spread of the last validation metrics over seeds."""
    import json
    import statistics

    from metalm_cli.common.atomic_files import write_atomically
    from metalm_cli.runs.metrics_log import read

    last: list[dict[str, Any]] = []
    for number in numbers:
        records, _ = read(out / f"seed-{number}" / "metrics.jsonl")
        last.append(next((one for one in reversed(records) if one.get("split") == "validation"), {}))
    last = [_floats(one) for one in last]
    keys = list(last[0])
    summary = {}
    for key in keys:
        values = [one[key] for one in last if isinstance(one.get(key), float)]
        spread = statistics.stdev(values) if len(values) > 1 else None
        summary[key] = {"mean": statistics.fmean(values), "stdev": spread, "values": values}
    text = json.dumps({"seeds": numbers, "validation": summary}, indent=2) + "\n"
    write_atomically(out / "seeds.json", text.encode())
    for key, one in summary.items():
        spread = "" if one["stdev"] is None else f", standard deviation {one['stdev']:.4f}"
        console.write(f"validation {key}: mean {one['mean']:.4f}{spread}, seeds {', '.join(map(str, numbers))}\n")


def _floats(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record, those of mappings under dotted names."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, float):
            found[key] = value
        elif isinstance(value, dict):
            found.update({f"{key}.{name}": one for name, one in value.items() if isinstance(one, float)})
    return found


ROWS = 2
"""Rows of pretraining that a report shows."""


EXAMPLES = 4
"""Examples of tasks that a report shows."""


def report_run(run: Run, said: Sequence[tuple[str, str]], note: Callable[[str], None]) -> None:
    """Write the report of a run that has ended, from what is at hand. What fails is told, and fails nothing.

    Args:
        run: The run.
        said: What was given at the last validation, and what the model said to it.
        note: Where to tell.
    """
    from metalm_cli.reports.reading.session_spans import SESSIONS, write_sessions
    from metalm_cli.reports.write_report import report_of

    try:
        # A stream would be read from its beginning; a run resumed at its end has said nothing new.
        streamed = any(info.streamed for info in run.corpus.sources)
        if not streamed and (said or not (run.place / SESSIONS).exists()):
            write_sessions(run.place, _first_rows(run), said)
        note(f"report: {report_of(run.place)}")
    except Exception as error:  # a run that has trained well does not fail for its report
        what = error.what if isinstance(error, MetalmError) else f"{type(error).__name__}: {error}"
        note(f"no report was written ({what}); metalm report {run.place} tries again")


def _first_rows(run: Any) -> Iterator[tuple[str, list[list[Any]]]]:
    """The first rows, or examples, that a run has trained on, as spans."""
    from metalm_cli.data.examples.pack_examples import pack_sessions
    from metalm_cli.reports.reading.session_spans import spans_of
    from metalm_cli.training.first_rows import first_rows

    assembly = run.assembly
    masked = assembly.tokenizer is None
    if masked:
        (processor,) = assembly.processors.values()
        tokenizer = processor.tokenizer
    else:
        tokenizer = assembly.decoder_tokenizer.tokenizer
    if run.recipe.command == "pretrain":
        for number, row in enumerate(first_rows(run.recipe, run.corpus, assembly, ROWS)):
            yield f"row {number + 1}", spans_of(row, tokenizer, assembly.processors, masked=masked)
        return
    for number in range(EXAMPLES):
        row = pack_sessions([run.writer.session(number)])
        yield run.corpus.where(number), spans_of(row, tokenizer, assembly.processors)
