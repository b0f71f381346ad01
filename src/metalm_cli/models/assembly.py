"""Assembly of a recipe's ``model``: load or build the parts, check them, and connect them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalm_cli.common import registry
from metalm_cli.config.schema.model import Lora, ModelConfig
from metalm_cli.config.schema.objectives import SupervisedObjective
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe
from metalm_cli.config.schema.training import TrainingConfig
from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_checks.loading_errors import model_errors
from metalm_cli.models.checkpoint_io import find_model, find_model_folder, load_model
from metalm_cli.models.families import (
    DECODER_ONLY,
    DUAL_ENCODER,
    ENCODER_ONLY,
    family_of_model,
    family_of_recipe,
    load_family,
)
from metalm_cli.models.families.base import ModelFamily
from metalm_cli.models.families.decoder_only import check_image_positions
from metalm_cli.models.images.used_weights import freeze_unused_weights
from metalm_cli.models.lora.adapter_files import adapter_in
from metalm_cli.models.lora.inject import LoraBase, LoraTargets, add_adapters, merge, safetensors_hash
from metalm_cli.models.part_loader import PartLoader
from metalm_cli.models.trainable import (
    LORA,
    TrainPolicy,
    adapter_policy,
    apply_policy,
    check_rates_are_used,
    high_rate_notes,
    requested_policy,
    with_pretrained_rates,
)
from metalm_cli.sessions import DecoderTokenizer, Processor

DocumentSampler = Callable[[int], Iterator[str]]
"""Returns the requested number of training documents, to train a tokenizer on."""


@dataclass
class Assembly:
    """Model with its tokenizer, processors and training policy.

    Args:
        model: The model; a plain causal LM is a MetaLM without encoders.
        tokenizer: The decoder's tokenizer; None for an encoder that trains alone.
        processors: Processors by encoder name.
        policy: Training policy of each part, by key path.
        notes: Notes for the user.
        lora_targets: Layers with LoRA adapters; None if the model's own weights train.
    """

    model: Any
    tokenizer: DecoderTokenizer | None
    processors: dict[str, Processor]
    policy: dict[str, TrainPolicy] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lora_targets: LoraTargets | None = None

    @property
    def family(self) -> ModelFamily:
        return family_of_model(self.model)

    @property
    def decoder_tokenizer(self) -> DecoderTokenizer:
        if self.tokenizer is None:
            raise ValueError("an encoder alone has no decoder tokenizer")
        return self.tokenizer

    @property
    def writes_adapter(self) -> bool:
        """Whether the result of training is an adapter folder, and not a model."""
        return self.lora_targets is not None and self.lora_targets.result_base is not None

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules by key path, in the order of the optimiser's groups."""
        return self.family.parts(self)

    def use_pretrained_rates(self, pretrained: Mapping[str, str], train: TrainingConfig) -> None:
        """Give parts with pretrained weights their default learning rates, and note rates far above them.

        Args:
            pretrained: Outside checkpoint of each part with pretrained weights, by key path.
            train: The recipe's ``train``.
        """
        rate = train.learning_rate
        self.policy = with_pretrained_rates(self.policy, pretrained, train.pretrained_learning_rate, rate)
        self.notes += high_rate_notes(self.policy, pretrained, rate)


def build_from_recipe(
    recipe: PretrainRecipe | FinetuneRecipe,
    sample: DocumentSampler,
    *,
    offline: bool = False,
    tokenizers: Path | None = None,
    inherited: Mapping[str, Mapping[str, Any]] | None = None,
) -> Assembly:
    """Assemble the model of a recipe: a MetaLM, a plain causal language model, or an encoder alone.

    Args:
        recipe: The recipe.
        sample: Returns documents to train tokenizers on.
        offline: Do not access the network.
        tokenizers: Folder of tokenizers that the run trained before it was interrupted.
        inherited: Training settings by part, in place of those saved in the checkpoint.

    Raises:
        MetalmError: A part is missing, does not fit or is of the wrong kind, or rows are longer than the model reads.
    """
    settings: dict[str, Any] = {
        "seed": recipe.train.seed,
        "sample": sample,
        "offline": offline,
        "remote_code": recipe.dangerous.trust_remote_code,
        "tokenizers": tokenizers,
    }
    name = recipe.objective.name
    if family_of_recipe(recipe.model, name).name == ENCODER_ONLY:
        assembly = build_encoder(recipe.model, name, **settings)
    else:
        assembly = build_metalm(recipe.model, name, inherited=inherited, **settings)
    _check_objective(assembly, recipe)
    _check_length(assembly, recipe.data.sequence_length)
    return assembly


def _check_objective(assembly: Assembly, recipe: PretrainRecipe | FinetuneRecipe) -> None:
    """Reject an objective that the model's family does not train with.

    Objectives of plug-ins train decoder-only models, and those of families that list them; answers are trained by
    models that continue texts.
    """
    family, name = assembly.family, recipe.objective.name
    if name in family.objectives or (name == SupervisedObjective().name and family.generates):
        return
    if family.name != DECODER_ONLY or registry.objectives.entry(name).origin == registry.BUILT_IN:
        trains_answers = family.generates and not isinstance(recipe, PretrainRecipe)
        usual = SupervisedObjective().name if trains_answers else family.objectives[0]
        raise MetalmError(
            f"objective {name} does not train {family.name} models",
            where="objective.name",
            why=f"the model is a {family.length_limit(assembly)[1]}",
            remedy=f"set objective.name={usual}, or use a model of another family",
        )


def _check_length(assembly: Assembly, length: int) -> None:
    limit, kind = assembly.family.length_limit(assembly)
    if limit is not None and length > limit:
        raise MetalmError(
            f"rows of {length} positions are longer than the {limit} that this {kind} model reads",
            where="data.sequence_length",
            remedy=f"set it to {limit} or less, or use a model with more positions",
        )
    for processor in assembly.processors.values():
        check_image_positions(processor, length, "a row has data.sequence_length", "data.sequence_length")


def build_metalm(
    model: ModelConfig,
    objective: str = "",
    *,
    seed: int,
    sample: DocumentSampler,
    offline: bool = False,
    remote_code: bool = False,
    tokenizers: Path | None = None,
    inherited: Mapping[str, Mapping[str, Any]] | None = None,
) -> Assembly:
    """Assemble a MetaLM, a plain causal language model, an encoder–decoder, or a dual encoder.

    Args:
        model: The recipe's ``model``.
        objective: Name of the recipe's objective, which decides the family where the parts do not.
        seed: Seed of newly initialised weights.
        sample: Returns documents to train tokenizers on.
        offline: Do not access the network.
        remote_code: Run Python code of checkpoints.
        tokenizers: Folder of tokenizers that the run trained before it was interrupted.
        inherited: Training settings by part, in place of those saved in the checkpoint.

    Raises:
        MetalmError: A part is missing, does not fit, or is of the wrong kind.
    """
    torch.manual_seed(seed)
    if model.checkpoint is not None:
        assembly = load_assembly(model.checkpoint, offline=offline, remote_code=remote_code)
        if inherited is not None:
            assembly.policy = {name: TrainPolicy.of_record(inherited.get(name, {})) for name in assembly.parts()}
    else:
        loader = PartLoader(sample, offline, remote_code, tokenizers)
        assembly = Assembly(*family_of_recipe(model, objective).build(model, objective, loader, seed))
        assembly.notes += loader.notes
        assembly.policy = {name: TrainPolicy() for name in assembly.parts()}
    _set_policy(assembly, model)
    if model.lora is not None:
        base = None
        if model.checkpoint is not None:
            base_folder = find_model_folder(model.checkpoint, offline=offline, remote_code=remote_code)
            base = _lora_base(model.checkpoint, base_folder)
        _add_lora(assembly, model, model.lora, base, seed)
    check_rates_are_used(model, assembly.policy)
    apply_policy(assembly.parts(), assembly.policy)
    freeze_unused_weights(assembly.model, assembly.processors)
    assembly.notes += assembly.family.notes(assembly)
    return assembly


def build_encoder(
    model: ModelConfig,
    kind: str,
    *,
    seed: int,
    sample: DocumentSampler,
    offline: bool = False,
    remote_code: bool = False,
    tokenizers: Path | None = None,
) -> Assembly:
    """Load or build the encoder of an ``mlm`` or ``rtd`` objective, with its head.

    Raises:
        MetalmError: See :func:`build_metalm`.
    """
    torch.manual_seed(seed)
    loader = PartLoader(sample, offline, remote_code, tokenizers)
    assembly = Assembly(*load_family(ENCODER_ONLY).build(model, kind, loader, seed))
    assembly.policy = {name: requested_policy(model, name, TrainPolicy()) for name in assembly.parts()}
    check_rates_are_used(model, assembly.policy)
    assembly.notes += loader.notes
    apply_policy(assembly.parts(), assembly.policy)
    return assembly


def load_assembly(source: str | Path, *, offline: bool = False, remote_code: bool = False) -> Assembly:
    """Load a finished model with its saved training policy; adapters are merged into its weights."""
    checkpoint = find_model(source, offline=offline, remote_code=remote_code)
    model, tokenizer, processors = load_model(checkpoint.folder, offline=offline, remote_code=remote_code)
    assembly = Assembly(model, tokenizer, processors)
    if checkpoint.origin.place != "folder":
        assembly.notes.append(f"model: {checkpoint}")
    if merge(model):
        assembly.notes.append(f"the adapters of {source} are merged into the weights of their base")
    saved = model.config.training
    with model_errors(source):
        assembly.policy = {name: TrainPolicy.of_record(saved.get(name, {})) for name in assembly.parts()}
    return assembly


def _set_policy(assembly: Assembly, model: ModelConfig) -> None:
    """Set the training policy of each part: the recipe's, or where it sets none, the one saved in the checkpoint."""
    unknown = sorted(model.encoders.keys() - assembly.processors.keys())
    if unknown:
        raise MetalmError(
            f"the model has no encoder {unknown[0]!r}",
            where=f"model.encoders.{unknown[0]}",
            why=f"its encoders: {', '.join(assembly.processors) or 'none'}",
            remedy="remove the key, or name an encoder of the model",
        )
    _check_kind_of_parts(assembly, model)
    if model.trains.decoder == "none" and not assembly.processors:
        raise MetalmError(
            "the model has no encoder to train, and its decoder is frozen",
            where="model.trains.decoder: none",
            why="it is a plain causal language model",
            remedy="leave out --encoder-only (model.trains.decoder=all), or name a MetaLM with --model",
        )
    assembly.policy = {name: requested_policy(model, name, saved) for name, saved in assembly.policy.items()}
    assembly.model.config.training = {name: part_policy.record() for name, part_policy in assembly.policy.items()}


def _check_kind_of_parts(assembly: Assembly, model: ModelConfig) -> None:
    """Reject keys of parts that models of the family do not have."""
    if assembly.family.name == DUAL_ENCODER:
        _check_no_decoder(model)
        return
    is_pair_model = "seq2seq" in assembly.parts()
    parts: dict[str, object] = {"seq2seq": model.seq2seq}
    if is_pair_model:
        parts = {"decoder": model.decoder, "encoders": model.encoders or None}
    keys = [f"model.{name}" for name, part in parts.items() if part is not None]
    trains = ("decoder", "encoders", "connectors") if is_pair_model else ("seq2seq",)
    # Recipes for any model set all.
    keys += [f"model.trains.{name}" for name in trains if getattr(model.trains, name) not in (None, "all")]
    if keys:
        kind = "an encoder–decoder, which has one part: seq2seq" if is_pair_model else "not an encoder–decoder"
        raise MetalmError(
            f"{keys[0]} is set for a model that is {kind}",
            where=keys[0],
            remedy="remove it, or set model.trains.seq2seq" if is_pair_model else "remove it",
        )


def _check_no_decoder(model: ModelConfig) -> None:
    """Reject what trains of parts that a dual encoder does not have."""
    for name in ("decoder", "seq2seq"):
        if getattr(model.trains, name) not in (None, "all"):
            raise MetalmError(
                f"model.trains.{name} is set for a dual encoder, which has no such part",
                where=f"model.trains.{name}",
                remedy="remove it, or set model.trains.encoders, connectors or logit_scale",
            )


def _lora_base(checkpoint: str, folder: Path) -> LoraBase:
    """Return the base model of new adapters.

    Raises:
        MetalmError: The checkpoint is an adapter itself.
    """
    if adapter_in(folder) is not None:
        raise MetalmError(
            "the base is an adapter itself",
            where=f"model.checkpoint: {checkpoint}",
            why="adapters need a base model with all of its weights on disk",
            remedy=f"merge it first: metalm export {checkpoint} --merge --out DIR; then use --model DIR",
        )
    return LoraBase(checkpoint, folder, safetensors_hash(folder))


def _add_lora(assembly: Assembly, model: ModelConfig, lora: Lora, base: LoraBase | None, seed: int) -> None:
    """Add adapters to the parts that the recipe names, and freeze the others unless the recipe says what trains.

    Connectors train in full, and other parts without adapters where the recipe sets ``trains``.
    """
    parts = assembly.parts()
    for name in lora.parts:
        if name.startswith("encoders.") and name not in parts:
            raise MetalmError(
                f"the model has no part {name!r} to adapt",
                where=f"model.lora.parts: {name}",
                why=f"its parts: {', '.join(parts)}",
                remedy="name a part of the model",
            )
    adapted_parts = {name: part for name, part in parts.items() if lora.adapts(name)}
    if not adapted_parts:
        raise MetalmError(
            "the model has no encoder to adapt",
            where="model.lora.parts: encoders",
            why="it is a plain causal language model",
            remedy="set model.lora.parts=[decoder]",
        )
    policy = {}
    for name, saved in assembly.policy.items():
        if name in adapted_parts:
            policy[name] = adapter_policy(model, name)
        else:  # of a connector or another whole part, the rate saved in the checkpoint applies
            default = "all" if name.startswith("connectors.") else "none"
            policy[name] = requested_policy(model, name, replace(saved, train=default))
    train = {name: policy[name].train for name in adapted_parts}
    assembly.lora_targets = add_adapters(assembly.model, adapted_parts, train, lora, base, seed)
    assembly.notes.append(str(assembly.lora_targets))
    whole = [name for name in policy if name not in adapted_parts and policy[name].train != "none"]
    whole = [name for name in whole if not name.startswith("connectors.")]
    if whole:
        assembly.notes.append(f"beside adapters, the weights of {', '.join(whole)} train ({policy[whole[0]].train})")
    assembly.policy = {
        name: replace(entry, train=LORA) if name in adapted_parts else entry for name, entry in policy.items()
    }
