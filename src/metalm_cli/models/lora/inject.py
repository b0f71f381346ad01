"""Low-rank adapters (LoRA, arXiv 2106.09685): put into a model, and merged into its weights.

peft puts them into the decoder and the encoders where these stand, so that everything that runs a model runs an
adapted one.
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

from metalm_cli.config.schema.model import Lora
from metalm_cli.errors import MetalmError
from metalm_cli.models.trainable import transformer_layers

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraBase:
    """The model that adapters belong to.

    Args:
        checkpoint: As the recipe names it.
        folder: Where it lies.
        sha256: Of its weights (:func:`weights_hash`).
    """

    checkpoint: str
    folder: Path
    sha256: str


@dataclass(frozen=True)
class LoraTargets:
    """What a run adapts.

    Args:
        base: The model.
        targets: Names of the adapted layers of each part, by key path below ``model``.
        options: The recipe's ``model.lora``.
    """

    base: LoraBase
    targets: dict[str, list[str]]
    options: Lora

    def __str__(self) -> str:
        layers = sum(map(len, self.targets.values()))
        return (
            f"low-rank adapters of rank {self.options.rank} on {layers} linear layers of {', '.join(self.targets)}; "
            "the weights below them stay as they are"
        )


# -- making -----------------------------------------------------------------------------------------------------------


def targets_of(name: str, part: Any, wanted: Sequence[str], train: str = "all") -> list[str]:
    """Full names of the linear layers of a part that get adapters; never its output head.

    Args:
        name: Key path of the part.
        part: The decoder or an encoder.
        wanted: ``all-linear``, or last names of layers (``q_proj``, ``mlp.c_fc``).
        train: ``all``, or ``last_N``: in the last layers alone.

    Raises:
        MetalmError: A name is that of no linear layer, or there are fewer layers.
    """
    from transformers.pytorch_utils import Conv1D

    head = part.get_output_embeddings()
    linear = [
        key for key, one in part.named_modules() if isinstance(one, nn.Linear | Conv1D) and one is not head and key
    ]
    if ALL_LINEAR not in wanted:
        for one in wanted:
            if not any(_ends(key, one) for key in linear):
                last = sorted({key.rpartition(".")[2] for key in linear})
                raise MetalmError(
                    f"{name} has no linear layer {one!r} to adapt",
                    where=f"model.lora.targets: {', '.join(wanted)}",
                    why=f"its linear layers, the output head aside: {', '.join(last)}",
                    remedy=f"name some of them, or {ALL_LINEAR}",
                )
        linear = [key for key in linear if any(_ends(key, one) for one in wanted)]
    if train == "all":
        return linear
    count = int(train.removeprefix("last_"))
    layers = transformer_layers(part)
    if count > len(layers):
        raise MetalmError(
            f"{name} has {len(layers)} layers, adapters are asked for in {count}",
            where=f"model.trains.{name.partition('.')[0]}: {train}",
            remedy=f"set it to last_{len(layers)} or less, or to all",
        )
    inside = {id(one) for layer in layers[-count:] for one in layer.modules()}
    return [key for key, one in part.named_modules() if key in set(linear) and id(one) in inside]


def _ends(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")


def adapt(model: Any, parts: Mapping[str, Any], train: Mapping[str, str], lora: Lora, base: LoraBase, seed: int) -> Any:
    """Put fresh adapters into a model: its outputs stay exactly what they are, because B is 0.

    Args:
        model: The MetaLM; it is marked as adapted.
        parts: The decoder and encoders to adapt, by key path.
        train: ``all`` or ``last_N`` of each.
        lora: The recipe's options.
        base: Where the model is from.
        seed: Seeds A.

    Returns:
        The :class:`LoraTargets`.

    Raises:
        MetalmError: See :func:`targets_of`.
    """
    targets = {name: targets_of(name, part, lora.targets, train[name]) for name, part in parts.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, part in parts.items():
            inject(part, config_of(lora, targets[name], base.checkpoint))
    model.adapted = True
    return LoraTargets(base, targets, lora)


def config_of(lora: Lora, targets: list[str], base: str) -> Any:
    """peft's config of a part's adapters."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(targets),
        base_model_name_or_path=base,
    )


def inject(part: Any, config: Any) -> None:
    """Put fresh adapters into a part."""
    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft sets it right for GPT-2's layers
        inject_adapter_in_model(config, part)


def weights_hash(folder: Path) -> str:
    """Sha256 over the names and the bytes of a model folder's weights.

    Raises:
        MetalmError: There are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MetalmError("a base holds no weights in safetensors", where=str(folder))
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            whole.update(f"{file.name} {hashlib.file_digest(data, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


# -- merging ----------------------------------------------------------------------------------------------------------


def merge(model: Any) -> bool:
    """Add adapters to the weights that they stand on, and take them out; whether there were any."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = [(name, one) for name, one in model.named_modules() if isinstance(one, BaseTunerLayer)]
    for name, layer in found:
        layer.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    for part in (model.decoder, *model.encoders.values()):
        if hasattr(part, "peft_config"):
            del part.peft_config
    model.adapted = False
    return bool(found)
