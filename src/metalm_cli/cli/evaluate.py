"""``metalm evaluate``: what a model scores on tasks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metalm_cli.cli import console
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.data.fit import TextReader
    from metalm_cli.evaluation.opening import Settings
    from metalm_cli.evaluation.tasks import Result
    from metalm_cli.tasks import Card, Cards

HEAD = ("task", "metric", "score", "n", "chance", "template", "cut", "skipped")


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A run folder, a model folder or a hub id; left out: the newest finished run that holds a MetaLM.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="A task by name; again for more.")] = None,
    cluster: Annotated[
        list[str] | None, typer.Option("--cluster", "-c", help="Core tasks of a cluster; or core, extras, world, all.")
    ] = None,
    extras: Annotated[bool, typer.Option("--extras", help="Clusters also stand for tasks that are not core.")] = False,
    cards: Annotated[
        list[Path] | None, typer.Option("--cards", metavar="DIR", help="A folder of task cards of your own.")
    ] = None,
    templates: Annotated[
        str, typer.Option("--templates", help="Collection: flan, t5, plain, none, or a folder.")
    ] = "flan",
    template: Annotated[
        str, typer.Option("--template", metavar="first|all|K|NAME", help="Which templates of each task are scored.")
    ] = "first",
    split: Annotated[
        str | None, typer.Option("--split", help="Split, by its role in the cards; default validation, or else test.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Examples of each task, always the same ones; default all.")
    ] = None,
    shots: Annotated[str, typer.Option("--shots", help="Demonstrations before each example: 0.")] = "0",
    length: Annotated[
        int | None,
        typer.Option("--sequence-length", min=16, help="Decoder positions of a session; default what the model has."),
    ] = None,
    also_fit: Annotated[
        list[str] | None,
        typer.Option(
            "--also-fit",
            metavar="TOKENIZER:LENGTH",
            help="Cut long inputs so that another model's encoder reads them too, as comparisons need it.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sequences of a forward pass.")] = 16,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", metavar="DIR", help="Where data sets lie; default $METALM_DATA.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Open no network connection.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Results; default results/ of the run folder.")
    ] = None,
    save_samples: Annotated[
        bool, typer.Option("--save-samples", help="Also write every answer, as JSONL beside the results.")
    ] = False,
) -> None:
    """Score a model on tasks: it says the answer, without constraints, and the card's metric judges it.

    Choices and questions are answered greedily; what is written freely is decoded with beams. Means over clusters take
    the paper's core tasks.
    """
    from metalm_cli.cli.quiet import quiet_libraries
    from metalm_cli.evaluation.opening import Settings, open_tasks
    from metalm_cli.tasks import Cards

    _only_zero(shots)
    known = Cards(cards or ())
    chosen = choose(known, _split(task), _split(cluster), extras)
    source = model or newest_metalm()
    place = place_of(source, out, [*_split(task), *_split(cluster)], save_samples)
    quiet_libraries(offline)
    settings = Settings(
        templates,
        template,
        split,
        limit,
        length,
        batch_size,
        also=tuple(_reader(one, offline) for one in also_fit or ()),
    )
    with console.stderr().status("reading the tasks"):
        tasks, missing = open_tasks(known, chosen, settings, data_root=data_root, offline=offline)
    _say_missing(missing, len(chosen))
    _run(source, settings, tasks, missing, place, save_samples, offline)


def _run(
    source: str,
    settings: Settings,
    tasks: Sequence[Any],
    missing: Mapping[str, str],
    place: Path,
    samples: bool,
    offline: bool,
) -> None:
    """Load the model, ask it, write what is there even if a task fails, and print."""
    from metalm_cli.evaluation import load
    from metalm_cli.evaluation.results import model_facts
    from metalm_cli.evaluation.tasks import evaluate as ask_all
    from metalm_cli.training.run_folder import environment

    with console.stderr().status(f"loading {source}") as status:
        interface = load(source, offline=offline)
        device = _fastest()
        facts = model_facts(source, interface.to(device))
        results: list[Result] = []
        try:
            for result in ask_all(interface, tasks, settings, lambda text: status.update(text)):
                results.append(result)
        finally:
            if results:
                write_results(place, facts, settings, results, missing, len(tasks), samples, environment(device))
    show(results, missing)
    console.stderr().print(f"results  {place}", markup=False, soft_wrap=True)


def write_results(
    place: Path,
    facts: Mapping[str, Any],
    settings: Settings,
    results: Sequence[Result],
    missing: Mapping[str, str],
    count: int,
    samples: bool,
    environment: Mapping[str, str],
) -> None:
    """Write the results so far; ``complete`` is false where tasks are to come."""
    import json

    from metalm_cli.evaluation.results import record, samples_jsonl
    from metalm_cli.training.files import explained, write_atomically

    made = record(facts, settings, results, missing, complete=len(results) == count, environment=environment)
    text = json.dumps(made, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with explained(place, "cannot write results", Exit.FAILED):
        place.parent.mkdir(parents=True, exist_ok=True)
    if samples:
        write_atomically(samples_place(place), samples_jsonl(results).encode())
    write_atomically(place, text.encode())


def choose(cards: Cards, tasks: Sequence[str], clusters: Sequence[str], extras: bool) -> list[Card]:
    """The cards that ``--task`` and ``--cluster`` stand for.

    Raises:
        MetalmError: Neither is given, or a name is unknown.
    """
    from metalm_cli.tasks import CLUSTERS
    from metalm_cli.tasks.find import GROUPS

    if not tasks and not clusters:
        raise MetalmError(
            "nothing is named to evaluate on",
            remedy="name tasks (--task rte), clusters (--cluster nli), or all of the paper's: --cluster core",
        )
    wrong = [name for name in clusters if name not in (*CLUSTERS, *GROUPS)]
    if wrong:
        raise MetalmError(
            f"no cluster is named {wrong[0]}",
            why=f"clusters: {', '.join(CLUSTERS)}; groups: {', '.join(GROUPS)}",
            remedy="name one of these"
            + (f"; {wrong[0]} is a task: --task {wrong[0]}" if wrong[0] in cards.paths else ""),
        )
    found = cards.choose([*tasks, *clusters], extras)
    if not found:
        raise MetalmError(f"{', '.join(clusters)}: no task belongs here", remedy="add --extras, or name tasks")
    return found


def newest_metalm(root: Path = Path("runs")) -> str:
    """The newest finished run that holds a MetaLM; says which.

    Raises:
        MetalmError: There is none.
    """
    from metalm_cli.training.run_folder import newest_finished

    found = newest_finished(root, _holds_metalm)
    if found is None:
        raise MetalmError(
            "no model is named, and no finished run holds a MetaLM",
            where=str(root.absolute()),
            remedy="name a run folder, a model folder or a hub id; metalm pretrain and metalm finetune make runs",
        )
    console.stderr().print(f"model    {found} (the newest finished run)", markup=False, soft_wrap=True)
    return str(found)


def _holds_metalm(run: Path) -> bool:
    """Whether a run's model, or the base of its adapter, has encoders."""
    import json

    for name in ("model/config.json", "adapter/metalm_adapter.json"):
        try:
            found = json.loads((run / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return isinstance(found, dict) and bool(found.get("model_type") == "metalm" or found.get("connectors"))
    return False


def place_of(source: str, out: Path | None, names: Sequence[str], samples: bool) -> Path:
    """The file that results go to: ``--out``, or a new one in the run folder, or else in ``results/`` here.

    Raises:
        MetalmError: ``--out`` exists already, or nothing can be written there.
    """
    if out is not None:
        for path in [out, *([samples_place(out)] if samples else [])]:
            if path.exists():
                raise MetalmError("results exist already", where=str(path), remedy="choose another --out, or remove it")
        place = out
    else:
        folder = Path(source).expanduser()
        runs = [one for one in (folder, folder.parent) if (one / "recipe.yaml").is_file()]
        base = (
            runs[0] / "results"
            if runs
            else Path("results") / (folder.resolve().name if folder.is_dir() else folder.name)
        )
        stem = "finetuned-" + "-".join(names)[:60]
        numbered = (base / f"{stem}{'' if n == 1 else f'-{n}'}.json" for n in range(1, 100_000))
        place = next(path for path in numbered if not path.exists())
    above = next(one for one in place.absolute().parents if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise MetalmError("results cannot be written", where=str(place), remedy="choose another place with --out FILE")
    return place


def samples_place(place: Path) -> Path:
    """Where the answers of a results file are written."""
    return place.with_name(f"{place.stem}.samples.jsonl")


def show(results: Sequence[Result], missing: Mapping[str, str]) -> None:
    """Print scores: a table on a terminal, else lines of tab-separated values."""
    from metalm_cli.evaluation.results import cluster_means, counted, over_clusters
    from metalm_cli.evaluation.tasks import NOTES

    rows = [row for result in results for row in _rows(result)]
    means = cluster_means(results)
    whole = over_clusters(means)
    rows += [(f"mean {name}", "", number(one), f"tasks: {len(one.of)}", *[""] * 4) for name, one in means.items()]
    if whole is not None and len(means) > 1:
        rows.append(("mean over clusters", "", number(whole), f"clusters: {len(means)}", *[""] * 4))
    _print(rows, len(rows) - len(means) - (len(means) > 1))
    for result in results:
        if result.task.card.name in NOTES:
            _note(f"{result.task.card.name}: {NOTES[result.task.card.name]}")
        if result.value is None:
            _note(f"{result.task.card.name} has no score: no example fits the positions of the model")
        if result.task.opened.role != "validation":
            _note(f"{result.task.card.name}: scored on its {result.task.opened.role} split")
    left = {one.task.card.name for one in results if one.value is not None} - {
        one.task.card.name for one in counted(results)
    }
    if left:
        _note(f"means take core tasks only; not in them: {', '.join(sorted(left))}")
    if missing:
        _note(f"missing, and in no mean: {', '.join(missing)}")


def _rows(result: Result) -> list[tuple[str, ...]]:
    card = result.task.card
    found: list[tuple[str, ...]] = []
    for one in result.wordings:
        score = "–" if one.score is None else number(one.score)
        count = "0" if one.score is None else str(one.score.n)
        levels = (("guess", one.chance.uniform), ("constant", one.chance.majority))
        chance = ", ".join(f"{name} {value:.1f}" for name, value in levels if value is not None)
        found.append((card.name, card.metric.name, score, count, chance, one.template, str(one.cut), str(one.skipped)))
    if len(found) > 1 and result.value is not None and result.best is not None and result.best.score is not None:
        text = f"{result.value:.1f}" + (f" ± {result.error:.1f}" if result.error is not None else "")
        best = f"best {result.best.score.value:.1f} ({result.best.template})"
        found.append((card.name, card.metric.name, text, "", "", f"average of {len(result.scores)}; {best}", "", ""))
    return found


def number(one: Any) -> str:
    """A score or a mean with its standard error."""
    return f"{one.value:.1f}" + ("" if one.error is None else f" ± {one.error:.1f}")


def _print(rows: Sequence[tuple[str, ...]], tasks: int) -> None:
    if not console.stdout().is_terminal:
        console.write("".join("\t".join(row) + "\n" for row in [HEAD, *rows]))
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for at, title in enumerate(HEAD):
        table.add_column(
            title, justify="right" if title in ("score", "n", "cut", "skipped") else "left", no_wrap=at < 3
        )
    for at, row in enumerate(rows):
        if at == tasks:
            table.add_section()
        table.add_row(*row)
    console.stdout().print(table)


def _note(text: str) -> None:
    console.stderr().print(text, markup=False, soft_wrap=True)


def _say_missing(missing: Mapping[str, str], chosen: int) -> None:
    """Name the tasks without data.

    Raises:
        MetalmError: None is left.
    """
    if len(missing) == chosen:
        raise MetalmError(
            f"no data is at hand for {'this task' if chosen == 1 else f'any of these {chosen} tasks'}",
            why="\n    ".join(f"{name}: {why}" for name, why in missing.items()),
            remedy="give --data-root DIR, or METALM_DATA, where the data lies; or name another --split",
        )
    for name, why in missing.items():
        _note(f"missing  {name}: {why}")


def _split(names: Sequence[str] | None) -> list[str]:
    return [part for name in names or () for part in name.split(",") if part]


def _only_zero(shots: str) -> None:
    if shots.strip() != "0":
        raise MetalmError(
            f"--shots {shots}: only 0 is possible", why="demonstrations are not evaluated yet", remedy="leave it out"
        )


def _reader(given: str, offline: bool) -> TextReader:
    """The encoder that ``--also-fit`` names.

    Raises:
        MetalmError: It is not TOKENIZER:LENGTH, or no tokenizer is there.
    """
    from metalm_cli.data.fit import TextReader
    from metalm_cli.hub import model_folder
    from metalm_cli.models.encoders import load_tokenizer

    name, _, length = given.rpartition(":")
    if not name or not length.isdecimal() or int(length) < 8:
        raise MetalmError(
            f"--also-fit {given} is not TOKENIZER:LENGTH",
            remedy="write the folder or hub id of its tokenizer, a colon, and the tokens that it reads (8 or more)",
        )
    folder = model_folder(name, offline=offline, weights=False)
    return TextReader.of(load_tokenizer(folder, False), int(length))


def _fastest() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
