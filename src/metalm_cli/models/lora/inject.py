"""LoRA adapters (low-rank, arXiv 2106.09685): adding them to a model, and merging them into its weights.

peft adds adapters to the decoder and the encoders in place, so that all code that runs a model runs an adapted one.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalm_cli.common.file_hash import file_sha256
from metalm_cli.config.schema.model import Lora
from metalm_cli.errors import MetalmError
from metalm_cli.models.families import family_of_model
from metalm_cli.models.families.base import ModelParts
from metalm_cli.models.trainable import layer_stacks

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraBase:
    """Base model of adapters.

    Args:
        checkpoint: Name of the model in the recipe.
        folder: Folder of the model.
        sha256: Hash of its weights (:func:`safetensors_hash`).
    """

    checkpoint: str
    folder: Path
    sha256: str


@dataclass(frozen=True)
class LoraTargets:
    """Layers to which a run adds adapters.

    Args:
        base: The base model; None if the run itself assembled it, so that its result is a merged model.
        targets: Names of the adapted layers of each part, by key path below ``model``.
        options: The recipe's ``model.lora``.
        merges: The result of the run is a merged model although there is a base.
    """

    base: LoraBase | None
    targets: dict[str, list[str]]
    options: Lora
    merges: bool = False

    @property
    def result_base(self) -> LoraBase | None:
        """Base of the adapter folder that the run writes; None if it writes a merged model."""
        return None if self.merges else self.base

    def __str__(self) -> str:
        layers = sum(map(len, self.targets.values()))
        return (
            f"low-rank adapters of rank {self.options.rank} on {layers} linear layers of {', '.join(self.targets)}; "
            "the weights of these layers are frozen"
        )


# -- adding -----------------------------------------------------------------------------------------------------------


def linear_targets(
    name: str, part: Any, requested: Sequence[str], train: str = "all", kinds: Sequence[str] = ("encoders", "decoder")
) -> list[str]:
    """Return the full names of the linear layers of a part that get adapters, without its output head.

    Args:
        name: Key path of the part.
        part: The decoder or an encoder.
        requested: ``all-linear``, or name endings of layers (``q_proj``, ``mlp.c_fc``).
        train: ``all``, or ``last_N`` for the last N layers only.
        kinds: Stacks of an encoder–decoder that get adapters.

    Raises:
        MetalmError: A name matches no linear layer, or the part has fewer than N layers.
    """
    from transformers.pytorch_utils import Conv1D

    head = part.get_output_embeddings()
    chosen = _modules_of_stacks(part, kinds)
    linear = [
        key
        for key, module in part.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and key and id(module) in chosen
    ]
    if ALL_LINEAR not in requested:
        for target in requested:
            if not any(_has_suffix(key, target) for key in linear):
                known = sorted({key.rpartition(".")[2] for key in linear})
                raise MetalmError(
                    f"{name} has no linear layer {target!r} to adapt",
                    where=f"model.lora.targets: {', '.join(requested)}",
                    why=f"its linear layers without the output head: {', '.join(known)}",
                    remedy=f"use some of these names, or {ALL_LINEAR}",
                )
        linear = [key for key in linear if any(_has_suffix(key, target) for target in requested)]
    if train == "all":
        return linear
    count = int(train.removeprefix("last_"))
    stacks = layer_stacks(part)
    fewest = min(map(len, stacks))
    if count > fewest:
        raise MetalmError(
            f"{name} has {fewest} layers, but model.trains sets adapters for {count}",
            where=f"model.trains.{name.partition('.')[0]}: {train}",
            remedy=f"set it to last_{fewest} or less, or to all",
        )
    module_ids = {id(module) for layers in stacks for layer in layers[-count:] for module in layer.modules()}
    return [key for key, module in part.named_modules() if key in set(linear) and id(module) in module_ids]


def _modules_of_stacks(part: Any, kinds: Sequence[str]) -> set[int]:
    """Return the ids of a part's modules; of an encoder–decoder, those of the chosen stacks."""
    stacks = [part]
    if getattr(part.config, "is_encoder_decoder", False):
        stacks = [part.get_encoder()] * ("encoders" in kinds) + [part.get_decoder()] * ("decoder" in kinds)
    return {id(module) for stack in stacks for module in stack.modules()}


def _has_suffix(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")


def add_adapters(
    model: Any, parts: Mapping[str, Any], train: Mapping[str, str], lora: Lora, base: LoraBase | None, seed: int
) -> Any:
    """Add new adapters to a model; its outputs do not change, because B is 0.

    A model without a base on disk is not marked as adapted: checkpoints hold all of its weights.

    Args:
        model: The MetaLM; with a base, it is marked as adapted.
        parts: The decoder and encoders to adapt, by key path.
        train: ``all`` or ``last_N`` for each part.
        lora: The recipe's options.
        base: The base model, or None.
        seed: Seed of A.

    Returns:
        The :class:`LoraTargets`.

    Raises:
        MetalmError: See :func:`linear_targets`.
    """
    targets = {name: linear_targets(name, part, lora.targets, train[name], lora.parts) for name, part in parts.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, part in parts.items():
            inject(part, peft_config(lora, targets[name], "" if base is None else base.checkpoint))
    model.adapted = base is not None
    return LoraTargets(base, targets, lora)


def peft_config(lora: Lora, targets: list[str], base: str) -> Any:
    """Build peft's config of a part's adapters."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(targets),
        base_model_name_or_path=base,
    )


def inject(part: Any, config: Any) -> None:
    """Add new adapters to a part."""
    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft corrects it for GPT-2's layers
        inject_adapter_in_model(config, part)


def safetensors_hash(folder: Path) -> str:
    """Compute the SHA-256 of the names and bytes of a model folder's weights.

    Raises:
        MetalmError: The folder has no safetensors weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MetalmError("the base has no safetensors weights", where=str(folder))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


# -- merging ----------------------------------------------------------------------------------------------------------


def merge(model: Any) -> bool:
    """Merge adapters into their base weights and remove them; return whether there were any."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted_layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in adapted_layers:
        layer.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    for part in family_of_model(model).parts(ModelParts(model, None, {})).values():
        if hasattr(part, "peft_config"):
            del part.peft_config
    model.adapted = False
    return bool(adapted_layers)
