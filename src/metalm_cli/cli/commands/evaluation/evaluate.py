"""``metalm evaluate``: scoring of models on tasks."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import typer

from metalm_cli.cli import console
from metalm_cli.cli.options import evaluate as options
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.result_paths import result_paths

if TYPE_CHECKING:
    from metalm_cli.data.examples.truncation import EncoderLimit
    from metalm_cli.tasks import Card, Cards


def evaluate(
    model: options.Model = None,
    task: options.Task = None,
    cluster: options.Cluster = None,
    all_cards: options.AllCards = False,
    cards: options.Cards = None,
    protocol: options.Protocol = "auto",
    templates: options.Templates = None,
    template: options.Template = None,
    split: options.Split = None,
    limit: options.Limit = None,
    shots: options.Shots = None,
    demonstrations: options.Demonstrations = "frozen",
    demonstration_layout: options.DemonstrationLayout = None,
    input_route: options.InputRoute = None,
    list_options: options.ListOptions = None,
    rationales: options.Rationale = None,
    sampled_answers: options.SampledAnswers = 1,
    temperature: options.Temperature = 0.7,
    normalise: options.Normalise = False,
    sequence_length: options.SequenceLength = None,
    versus: options.Versus = None,
    match_lengths_of: options.MatchLengthsOf = None,
    require_held_out: options.RequireHeldOut = False,
    contamination: options.Contamination = None,
    harness: options.Harness = None,
    batch_size: options.BatchSize = 16,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    offline: options.Offline = False,
    out: options.OutFile = None,
    fresh: options.Fresh = False,
    save_samples: options.SaveSamples = False,
) -> None:
    """Score models on tasks, and write the results with all settings that are needed to repeat them.

    Means over clusters include the paper's core tasks.
    Answers are cached, so that an interrupted evaluation continues where it stopped.
    """
    from metalm_cli.cli.silence_libraries import silence_libraries
    from metalm_cli.evaluation.settings import PROTOCOLS, EvaluationSettings
    from metalm_cli.tasks import Cards
    from metalm_cli.templates.render import DemonstrationLayout, Route

    if harness:
        _run_harness(model, harness, limit, None if shots is None else _parse_shots(shots), out, offline)
        return
    counts = _parse_shots(shots or "0")
    for option, value, allowed in (
        ("--protocol", protocol, ("auto", *PROTOCOLS)),
        ("--demonstrations", demonstrations, ("frozen", "drawn")),
        ("--demonstration-layout", demonstration_layout, (None, *get_args(DemonstrationLayout))),
        ("--input-route", input_route, (None, *get_args(Route))),
    ):
        _check_choice(option, value, allowed)
    if sampled_answers > 1 and temperature <= 0:
        raise MetalmError(
            f"--temperature {temperature} is not above 0, as sampled answers need", remedy="choose one above 0"
        )
    registry = Cards(cards or ())
    selected = select_cards(registry, _split_names(task), _split_names(cluster), all_cards)
    sources = [model or newest_metalm(), *(versus or [])]
    paths = result_paths(sources, out, protocol, [*_split_names(task), *_split_names(cluster)], save_samples)
    silence_libraries(offline)
    prompt_options = _without_none(
        collection=templates, route=input_route, options=list_options, layout=demonstration_layout, rationale=rationales
    )
    settings = EvaluationSettings(
        template=template or "",
        split=split,
        limit=limit,
        length=sequence_length,
        batch_size=batch_size,
        also_fit=tuple(_parse_encoder_limit(encoder, offline) for encoder in match_lengths_of or ()),
        protocol=protocol,  # type: ignore[arg-type]
        shots=counts,
        draw_per_example=demonstrations == "drawn",
        normalise=normalise,
        samples=sampled_answers,
        temperature=temperature,
        seed=seed,
    )
    from metalm_cli.cli.commands.evaluation.evaluate_run import EvaluationRun

    EvaluationRun(
        sources,
        paths,
        registry,
        selected,
        settings,
        prompt_options,
        data_root,
        offline,
        require_held_out,
        fresh,
        save_samples,
    ).run(contamination or ())


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


def newest_metalm(root: Path = Path("runs")) -> str:
    """Find the newest finished run that holds a MetaLM, and print its path.

    Raises:
        MetalmError: There is no such run.
    """
    from metalm_cli.runs.folder import newest_finished

    run = newest_finished(root, _has_encoders)
    if run is None:
        raise MetalmError(
            "no model is named, and no finished run holds a MetaLM",
            where=str(root.absolute()),
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


def _split_names(names: Sequence[str] | None) -> list[str]:
    return [part for name in names or () for part in name.split(",") if part]


def _without_none(**options: str | bool | None) -> dict[str, str | bool]:
    """Options that are set."""
    return {name: value for name, value in options.items() if value is not None}


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
        _split_names(tasks),
        limit=limit,
        shots=None if shots is None else shots[0],
        out=out,
        offline=offline,
    )
    raise typer.Exit(subprocess.run(command).returncode)


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
