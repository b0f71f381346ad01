"""Resolving the settings of an evaluation, once, from what the user sets and what the models need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from metalm_cli.evaluation.settings import PROTOCOLS, EvaluationSettings, Protocol
from metalm_cli.templates import PromptStyle

if TYPE_CHECKING:
    from metalm_cli.inference import LanguageModel
    from metalm_cli.provenance.model_history import ModelHistory

PROTOCOL_OF_COMMAND: dict[str, Protocol] = {"finetune": "finetuned", "instruct": "instruct"}
"""Protocol by the command that trained a model; for all other models it is ``in_context``."""
PROTOCOL_OF_OBJECTIVE: dict[str, Protocol] = {"contrastive": "zero_shot"}
"""Protocol by the objective of finetuning, if it is another than that of the command."""

RECIPE_KEYS = {
    "options": "show_options",
    "rationale": "rationales",
    "route": "input_route",
    "layout": "demonstration_layout",
}
"""Recipe keys of the prompt settings, which result files and lineages store under their first names."""


def resolve_settings(
    requested: EvaluationSettings, prompt_options: Mapping[str, Any], history: ModelHistory
) -> tuple[EvaluationSettings, list[str]]:
    """Resolve what the user leaves open by the training of the (first) model.

    Args:
        requested: Settings with a protocol that may be ``auto``, a template that may be empty, and any prompt format.
        prompt_options: Template collection and fields of the prompt style that the user has set.
        history: What the model was trained on, and how its prompts were made.

    Returns:
        The settings, and notes about what was inherited or decided.
    """
    notes: list[str] = []
    defaults = {"collection": requested.collection, **asdict(requested.style)}
    inherited = [
        f"{RECIPE_KEYS.get(name, name)} {value}"
        for name, value in history.prompt_settings.items()
        if name not in prompt_options and value != defaults[name]
    ]
    if inherited:
        notes.append(f"prompts  {', '.join(inherited).lower()} (as in the model's training)")
    style_fields = {**defaults, **history.prompt_settings, **prompt_options}
    collection = style_fields.pop("collection")
    protocol = requested.protocol
    if protocol not in PROTOCOLS:
        protocol = PROTOCOL_OF_COMMAND.get(history.command, "in_context")
        protocol = PROTOCOL_OF_OBJECTIVE.get(history.objective, protocol)
        notes.append(f"protocol {protocol} ({_how_it_was_trained(history.command)})")
    template = requested.template or ("paper" if protocol == "instruct" else "first")
    settings = replace(
        requested, collection=collection, style=PromptStyle(**style_fields), protocol=protocol, template=template
    )
    return settings, notes


def with_shared_limits(settings: EvaluationSettings, language_models: Sequence[LanguageModel]) -> EvaluationSettings:
    """Limit input lengths to what all of several models can read; the settings of a single model stay as they are."""
    from metalm_cli.data.examples.truncation import EncoderLimit
    from metalm_cli.evaluation.answers.answer_lengths import DEFAULT_LENGTH
    from metalm_cli.sessions import TextProcessor

    if len(language_models) < 2:
        return settings
    encoder_limits = tuple(
        EncoderLimit(processor, processor.max_length)
        for language_model in language_models
        for processor in language_model.processors.values()
        if isinstance(processor, TextProcessor)
    )
    lengths = [language_model.model.max_positions or DEFAULT_LENGTH for language_model in language_models]
    length = min([*lengths, *([settings.length] if settings.length else [])])
    return replace(settings, also_fit=(*settings.also_fit, *encoder_limits), length=length)


def _how_it_was_trained(command: str) -> str:
    return f"the model was trained by metalm {command}" if command else "how the model was trained is unknown"
