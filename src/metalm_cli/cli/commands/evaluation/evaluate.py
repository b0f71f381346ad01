"""``metalm evaluate``: what models score on tasks."""

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
    layout: options.Layout = None,
    route: options.Route = None,
    list_options: options.ListOptions = None,
    rationale: options.Rationale = None,
    samples: options.Samples = 1,
    temperature: options.Temperature = 0.7,
    normalise: options.Normalise = False,
    length: options.Length = None,
    versus: options.Versus = None,
    also_fit: options.AlsoFit = None,
    held_out: options.HeldOut = False,
    contamination: options.Contamination = None,
    harness: options.Harness = None,
    batch_size: options.BatchSize = 16,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    offline: options.Offline = False,
    out: options.Out = None,
    fresh: options.Fresh = False,
    save_samples: options.SaveSamples = False,
) -> None:
    """Score models on tasks, and write all that is needed to repeat it.

    Means over clusters take the paper's core tasks. Answers are kept, so that what was interrupted goes on.
    """
    from metalm_cli.cli.silence_libraries import silence_libraries
    from metalm_cli.evaluation.settings import PROTOCOLS, EvaluationSettings
    from metalm_cli.tasks import Cards
    from metalm_cli.templates.render import DemonstrationLayout, Route

    if harness:
        _harness(model, harness, limit, None if shots is None else _counts(shots), out, offline)
        return
    counts = _counts(shots or "0")
    for option, value, allowed in (
        ("--protocol", protocol, ("auto", *PROTOCOLS)),
        ("--demonstrations", demonstrations, ("frozen", "drawn")),
        ("--demonstration-layout", layout, (None, *get_args(DemonstrationLayout))),
        ("--input-route", route, (None, *get_args(Route))),
    ):
        _one_of(option, value, allowed)
    if samples > 1 and temperature <= 0:
        raise MetalmError(f"--temperature {temperature}: sampled answers need more than 0", remedy="name one above 0")
    known = Cards(cards or ())
    chosen = select_cards(known, _split(task), _split(cluster), all_cards)
    sources = [model or newest_metalm(), *(versus or [])]
    places = result_paths(sources, out, protocol, [*_split(task), *_split(cluster)], save_samples)
    silence_libraries(offline)
    given = _given(collection=templates, route=route, options=list_options, layout=layout, rationale=rationale)
    settings = EvaluationSettings(
        template=template or "",
        role=split,
        limit=limit,
        length=length,
        batch_size=batch_size,
        also=tuple(_reader(one, offline) for one in also_fit or ()),
        protocol=protocol,  # type: ignore[arg-type]
        shots=counts,
        drawn=demonstrations == "drawn",
        normalise=normalise,
        samples=samples,
        temperature=temperature,
        seed=seed,
    )
    from metalm_cli.cli.commands.evaluation.evaluate_run import EvaluationRun

    EvaluationRun(
        sources, places, known, chosen, settings, given, data_root, offline, held_out, fresh, save_samples
    ).run(contamination or ())


def select_cards(cards: Cards, tasks: Sequence[str], clusters: Sequence[str], all_cards: bool) -> list[Card]:
    """The cards that ``--task`` and ``--cluster`` stand for.

    Raises:
        MetalmError: Neither is given, or a name is unknown.
    """
    from metalm_cli.tasks import CLUSTERS
    from metalm_cli.tasks.registry import GROUPS

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
    found = cards.select([*tasks, *clusters], all_cards)
    if not found:
        raise MetalmError(f"{', '.join(clusters)}: no task belongs here", remedy="add --all-cards, or name tasks")
    return found


def newest_metalm(root: Path = Path("runs")) -> str:
    """The newest finished run that holds a MetaLM; says which.

    Raises:
        MetalmError: There is none.
    """
    from metalm_cli.runs.folder import newest_finished

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


def _split(names: Sequence[str] | None) -> list[str]:
    return [part for name in names or () for part in name.split(",") if part]


def _given(**options: str | bool | None) -> dict[str, str | bool]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _counts(shots: str) -> tuple[int, ...]:
    """The numbers of ``--shots``.

    Raises:
        MetalmError: They are none.
    """
    parts = [part.strip() for part in shots.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise MetalmError(
            f"--shots {shots} is not a list of numbers", remedy="write how many demonstrations, as --shots 0,1,4"
        )
    return tuple(dict.fromkeys(map(int, parts)))


def _one_of(option: str, value: str | None, allowed: Sequence[str | None]) -> None:
    if value not in allowed:
        raise MetalmError(
            f"{option} {value} is not known", why=f"it may be {', '.join(filter(None, allowed))}", remedy="name one"
        )


def _harness(
    model: str | None,
    tasks: Sequence[str],
    limit: int | None,
    shots: tuple[int, ...] | None,
    out: Path | None,
    offline: bool,
) -> None:
    """Hand over to lm-evaluation-harness."""
    from metalm_cli.harness import harness_command

    if shots is not None and len(shots) != 1:
        raise MetalmError("--harness takes one number of demonstrations", remedy="write --shots 0, or another number")
    command = harness_command(
        model or newest_metalm(),
        _split(tasks),
        limit=limit,
        shots=None if shots is None else shots[0],
        out=out,
        offline=offline,
    )
    raise typer.Exit(subprocess.run(command).returncode)


def _reader(given: str, offline: bool) -> EncoderLimit:
    """The encoder that ``--match-input-lengths-of`` names.

    Raises:
        MetalmError: It is not TOKENIZER:LENGTH, or no tokenizer is there.
    """
    from metalm_cli.common.hub import model_folder
    from metalm_cli.data.examples.truncation import EncoderLimit
    from metalm_cli.models.encoders import load_tokenizer

    name, _, length = given.rpartition(":")
    if not name or not length.isdecimal() or int(length) < 8:
        raise MetalmError(
            f"--match-input-lengths-of {given} is not TOKENIZER:LENGTH",
            remedy="write the folder or hub id of its tokenizer, a colon, and the tokens that it reads (8 or more)",
        )
    folder = model_folder(name, offline=offline, weights=False)
    return EncoderLimit.of(load_tokenizer(folder, False), int(length))
