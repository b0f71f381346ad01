"""``metalm pretrain``: train a MetaLM, a causal twin or an encoder from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metalm_cli.cli import console
from metalm_cli.cli.completion import complete_argument
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.recipes.resolved import Resolved


def pretrain(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE]...",
            help="A shipped name or a path (left out: small), and values to set over it.",
            autocompletion=complete_argument,
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="BASE", help="A finished MetaLM to go on from (model.checkpoint).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="The run folder; default runs/<recipe>-<time>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's newest checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, probe one row, and train nothing.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Open no network connection.")] = False,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", metavar="DIR", help="Where data sets lie; default $METALM_DATA.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0,1,2", help="Train once for each seed, into RUN/seed-N.")
    ] = None,
) -> None:
    """Train a MetaLM from encoder and decoder checkpoints, or from scratch, on documents."""
    from metalm_cli.training.together import one_voice

    with one_voice():
        code = _pretrain(arguments or [], model, out, resume, dry_run, offline, data_root, seeds)
    raise typer.Exit(int(code))


def _pretrain(
    arguments: list[str],
    model: str | None,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    offline: bool,
    data_root: Path | None,
    seeds: str | None,
) -> Exit:
    from metalm_cli.recipes import resolve, split_arguments
    from metalm_cli.training.together import is_first

    if dry_run and resume:
        raise MetalmError("--dry-run and --resume exclude each other", remedy="leave one of them out")
    recipe, overrides = split_arguments(arguments)
    if recipe is None and resume and out is not None:
        recipe = _begun(out if seeds is None else out / f"seed-{_numbers(seeds)[0]}", out)
    flags = {"model.checkpoint": model}
    settings: dict[str, Any] = {"dry_run": dry_run, "offline": offline, "data_root": data_root}
    if seeds is None:
        resolved = resolve("pretrain", recipe, overrides, flags)
        return _one(resolved, out=out, resume=resume, **settings)
    numbers = _numbers(seeds)
    if out is None:
        raise MetalmError("--seeds needs --out RUN", remedy="name the folder that holds the runs")
    runs = [resolve("pretrain", recipe, [*overrides, f"train.seed={number}"], flags) for number in numbers]
    for number, resolved in zip(numbers, runs, strict=True):
        code = _one(resolved, out=out / f"seed-{number}", resume=resume, **settings)
        if code != Exit.DONE:
            return code
    if not dry_run and is_first():
        _write_seeds(out, numbers)
    return Exit.DONE


def _begun(run: Path, out: Path) -> str:
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
            remedy=f"name the recipe: metalm pretrain RECIPE --resume --out {out} starts a run that has not begun",
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


def _one(resolved: Resolved, *, out: Path | None, resume: bool, dry_run: bool, offline: bool, data_root: Any) -> Exit:
    """Train one recipe with one seed."""
    from metalm_cli.cli.quiet import quiet_libraries

    quiet_libraries(offline)
    from metalm_cli.evaluation.samples import continuations
    from metalm_cli.training.memory import human_bytes
    from metalm_cli.training.plan import plan_text
    from metalm_cli.training.pretrain import Options, Pretraining, Views
    from metalm_cli.training.together import is_first

    def show_plan(plan: Any, result: Any) -> None:
        printer = console.stdout() if dry_run else console.stderr()
        if result is None:
            printer.print(plan_text(plan, resolved, every=dry_run))
            return
        memory = "" if result.peak_bytes is None else f", {human_bytes(result.peak_bytes)} of the device at most"
        took = "no time: it did not fit" if result.seconds is None else f"{result.seconds:.2f} s"
        printer.print(f"probe    a micro-batch of the longest rows: {took}{memory}", markup=False)
        for line in result.notes:
            printer.print(f"  - {line}", markup=False)

    def note(text: str) -> None:
        if is_first():
            console.stderr().print(text, markup=False, soft_wrap=True)

    options = Options(resolved.name, out, resume, dry_run, offline, data_root)
    run = Pretraining(resolved.recipe, resolved.to_yaml(), options, Views(show_plan, continuations, note))
    if dry_run:
        run.prepare()
        run.show_plan()
        return Exit.DONE
    return run.run()


def _write_seeds(out: Path, numbers: list[int]) -> None:
    """Mean and spread of the last validation metrics over seeds."""
    import json
    import statistics

    from metalm_cli.training.files import write_atomically
    from metalm_cli.training.metrics import read

    last: list[dict[str, Any]] = []
    for number in numbers:
        records, _ = read(out / f"seed-{number}" / "metrics.jsonl")
        last.append(next((one for one in reversed(records) if one.get("split") == "validation"), {}))
    keys = [key for key, value in last[0].items() if isinstance(value, float)]
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
