"""One decoder with the encoders of several runs that left it as it was."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalm_cli.common.markdown import code_span, escape_markdown
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.checkpoint_checks.config_files import load_config
from metalm_cli.models.checkpoint_checks.loading_errors import model_errors
from metalm_cli.models.checkpoint_io import find_config_folder, find_model, load_model, save_model
from metalm_cli.models.lora.inject import merge
from metalm_cli.models.metalm import MetaLM, MetaLMConfig
from metalm_cli.models.weights_hash import weights_sha256
from metalm_cli.provenance.combined_lineage import combined_lineage
from metalm_cli.provenance.lineage import LINEAGE, ancestor_record, trained_tasks
from metalm_cli.training.model_card import base_models, card_head, how_to_load, licence_note, part_table

NAMED_SOURCE = re.compile(r"([A-Za-z0-9_-]+)=(.+)", flags=re.DOTALL)
FOLDERS_OF_RUNS = ("model", "adapter")
NOT_COMPARED = ("transformers_version", "dtype", "torch_dtype", "name_or_path", "use_cache", "architectures")
"""Keys of a decoder's config that say nothing about what it computes in fp32."""


@dataclass(frozen=True)
class EncoderSource:
    """A model whose encoders are combined with those of others.

    Args:
        source: The model as the user names it.
        config_folder: Folder with the config of the complete model.
        config: Its config.
        names: Names of its encoders in the combined model, by their own names.
        tasks: Tasks that each encoder was trained on, by its name in the combined model.
        ancestor: Its lineage, as a record of an ancestor without ``part``.
    """

    source: str
    config_folder: Path
    config: MetaLMConfig
    names: Mapping[str, str]
    tasks: Mapping[str, list[str]]
    ancestor: Mapping[str, Any]


def read_sources(arguments: Sequence[str], *, offline: bool = False) -> list[EncoderSource]:
    """Read the configs and lineages of models that shall be combined, and check that they fit.

    An encoder is named after ``NAME=`` if it is set, else after the task that its run was trained on, else after the
    run. A model with several encoders keeps their names.

    Args:
        arguments: Runs or models, each with ``NAME=`` before it or without.
        offline: Open no connection.

    Raises:
        MetalmError: There are fewer than two models, one has no encoders, names are equal, or decoders or token rules
            differ by their configs.
    """
    if len(arguments) < 2:
        raise MetalmError(
            "--combine needs several models", remedy="name them: metalm export RUN RUN --combine --out DIR"
        )
    sources = [_read_source(argument, offline) for argument in arguments]
    taken: dict[str, str] = {}
    for each in sources:
        for name in each.names.values():
            if name in taken:
                raise MetalmError(
                    f"two encoders would be called {name!r}",
                    where=f"{taken[name]} and {each.source}",
                    why="an encoder is named after the task that its run was trained on, else after the run",
                    remedy=f"name them: metalm export first={taken[name]} second={each.source} --combine",
                )
            taken[name] = each.source
    first = sources[0]
    for other in sources[1:]:
        _check_same_configs(first, other)
    return sources


def _read_source(argument: str, offline: bool) -> EncoderSource:
    match = NAMED_SOURCE.fullmatch(argument)
    name, source = (match[1], match[2]) if match else (None, argument)
    checkpoint = find_model(source, offline=offline)
    folder = find_config_folder(source, offline=offline)
    with model_errors(folder):
        config = load_config(folder, False)
    if config.model_type != MetaLMConfig.model_type or not config.encoder_configs:
        raise MetalmError(
            "the model has no encoder to combine",
            where=source,
            why=f"it is a model of type {config.model_type}",
            remedy="name runs with encoders, such as those of metalm finetune --encoder-only",
        )
    record = ancestor_record("", checkpoint)
    tasks = trained_tasks(record["lineage"] or {})
    encoders = list(config.encoder_configs)
    if len(encoders) == 1:
        names = {encoders[0]: name or _name_of_run(source, tasks)}
    elif name is None:
        names = {encoder: encoder for encoder in encoders}
    else:
        raise MetalmError(
            f"{name}= names one encoder, but the model has {len(encoders)}",
            where=source,
            why=f"its encoders {', '.join(encoders)} keep their names",
            remedy=f"leave out {name}=",
        )
    known = config.encoder_tasks
    return EncoderSource(
        source,
        folder,
        config,
        names,
        {new: list(known[old]) if old in known else tasks for old, new in names.items()},
        {**record, "checkpoint": source},
    )


def _name_of_run(source: str, tasks: Sequence[str]) -> str:
    """Name of the only encoder of a run: its task, or the run if it has none or several."""
    path = Path(source)
    run = path.resolve().parent if path.name in FOLDERS_OF_RUNS else path.resolve()
    return re.sub(r"[^A-Za-z0-9_-]+", "-", tasks[0] if len(tasks) == 1 else run.name).strip("-") or "encoder"


def _check_same_configs(first: EncoderSource, other: EncoderSource) -> None:
    configs = [_compared(each.config.decoder_config) for each in (first, other)]
    if configs[0] != configs[1]:
        keys = sorted(
            key for key in configs[0].keys() | configs[1].keys() if configs[0].get(key) != configs[1].get(key)
        )
        raise _other_decoder(first, other, f"their configs differ in {', '.join(keys[:4])}")
    if first.config.tokens != other.config.tokens:
        keys = sorted(
            key
            for key in first.config.tokens.keys() | other.config.tokens.keys()
            if first.config.tokens.get(key) != other.config.tokens.get(key)
        )
        values = " and ".join(
            ", ".join(f"{key}: {each.config.tokens.get(key)!r}" for key in keys) for each in (first, other)
        )
        raise MetalmError(
            "the models have different token rules",
            where=f"{first.source} and {other.source}",
            why=f"{values} (model.special_tokens)",
            remedy="train both with the same model.special_tokens",
        )


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in NOT_COMPARED}


def _other_decoder(first: EncoderSource, other: EncoderSource, why: str) -> MetalmError:
    return MetalmError(
        "the models have different decoders",
        where=f"{first.source} and {other.source}",
        why=why,
        remedy="combine runs that start from the same decoder and leave it as it is: metalm finetune --encoder-only",
    )


def write_combined(folder: Path, sources: Sequence[EncoderSource], *, offline: bool = False) -> list[str]:
    """Load the models, check that their decoders are the same, and write one model with all encoders.

    Adapters of encoders are merged into their weights.

    Args:
        folder: An existing, empty folder.
        sources: From :func:`read_sources`.
        offline: Open no connection.

    Returns:
        Notes for the user.

    Raises:
        MetalmError: A model cannot be loaded, or the weights of the decoders or their tokenizers differ.
    """
    assembly = _assemble(sources, offline)
    save_model(folder, assembly.model, assembly.decoder_tokenizer, assembly.processors)
    names = [name for each in sources for name in each.names.values()]
    ancestors = [_ancestor_of(each, old, new) for each in sources for old, new in each.names.items()]
    lineage, notes = combined_lineage(" + ".join(names), ancestors)
    (folder / LINEAGE).write_text(json.dumps(lineage, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(assembly, sources, lineage), encoding="utf-8")
    return notes


def _ancestor_of(source: EncoderSource, old: str, new: str) -> dict[str, Any]:
    """Record of the run that an encoder is from; of a combined model, the run that it was combined from."""
    runs = (source.ancestor["lineage"] or {}).get("ancestors") or [] if source.config.encoder_tasks else []
    run = next((each for each in runs if each.get("part") == f"encoders.{old}"), source.ancestor)
    return {**run, "part": f"encoders.{new}"}


def _assemble(sources: Sequence[EncoderSource], offline: bool) -> Assembly:
    config = MetaLMConfig(
        decoder_config=sources[0].config.decoder_config,
        tokens=sources[0].config.tokens,
        training={"decoder": sources[0].config.training.get("decoder", {})},
    )
    encoders: dict[str, Any] = {}
    connectors: dict[str, Any] = {}
    processors: dict[str, Any] = {}
    decoder, tokenizer, sha256 = None, None, ""
    for each in sources:
        model, own_tokenizer, own_processors = load_model(each.source, offline=offline)
        merge(model)
        own_sha256 = weights_sha256(model.decoder)
        if tokenizer is None:
            decoder, tokenizer, sha256 = model.decoder, own_tokenizer, own_sha256
        elif own_sha256 != sha256:
            raise _other_decoder(
                sources[0], each, f"the SHA-256 of their weights is {sha256[:12]}… and {own_sha256[:12]}…"
            )
        elif _tokenizer_state(tokenizer) != _tokenizer_state(own_tokenizer):
            raise MetalmError(
                "the decoders have different tokenizers",
                where=f"{sources[0].source} and {each.source}",
                remedy="combine runs that start from the same decoder with its tokenizer",
            )
        for old, new in each.names.items():
            encoders[new], connectors[new] = model.encoders[old], model.connectors[old]
            processors[new] = own_processors[old]
            config.encoder_tasks[new] = each.tasks[new]
            for section in ("encoder_configs", "connectors", "docking"):
                getattr(config, section)[new] = copy.deepcopy(getattr(each.config, section)[old])
            for kind in ("encoders", "connectors"):
                config.training[f"{kind}.{new}"] = each.config.training.get(f"{kind}.{old}", {})
    assert tokenizer is not None, "there are several sources"
    combined = MetaLM(config, decoder, encoders)
    for name, connector in connectors.items():
        combined.connectors[name] = connector
    return Assembly(combined.eval(), tokenizer, processors)


def _tokenizer_state(tokenizer: Any) -> tuple[Any, ...]:
    inner = tokenizer.tokenizer
    return inner.backend_tokenizer.to_str(), inner.special_tokens_map, getattr(inner, "chat_template", None)


def _card(assembly: Assembly, sources: Sequence[EncoderSource], lineage: Mapping[str, Any]) -> str:
    bases = base_models(lineage)
    return f"""{card_head(bases)}

# {escape_markdown(str(lineage["recipe"]))}

One decoder with the encoders of {len(sources)} models, combined by metalm {lineage["metalm"]}.

{part_table(assembly)}

## Encoders

{chr(10).join(_encoder_lines(sources))}

## Use

{how_to_load(assembly)}

## Licence

{licence_note(bases)}
"""


def _encoder_lines(sources: Sequence[EncoderSource]) -> Iterator[str]:
    for each in sources:
        for name in each.names.values():
            tasks = ", ".join(map(escape_markdown, each.tasks[name])) or "no task"
            yield f"- {code_span(name)}: trained on {tasks}, from {code_span(Path(each.source).name)}"
