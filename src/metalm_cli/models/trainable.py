"""Trainable parameters: which parameters of each part train, and their optimiser groups."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from metalm_cli.config.rules.part_rules import frozen_rate_problem
from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.config.schema.part_settings import belongs_to, rate_keys, requested_rate, requested_trains
from metalm_cli.config.schema.training import PretrainedLearningRate
from metalm_cli.errors import MetalmError

RUN_RATE = "train.learning_rate"
SAVED_RATE = "saved in the model"
PRETRAINED_RATE = "default for pretrained weights"
"""Origins of the learning rate of a part; another is the key of the part."""

FAR_ABOVE = 10.0
"""Multiple of the default for pretrained weights from which a rate of them is noted."""


@dataclass(frozen=True)
class TrainPolicy:
    """Training policy of a part.

    Args:
        train: ``all``, ``none``, ``last_N`` layers, or :data:`LORA`.
        learning_rate: Learning rate of the part, or None for the run's.
        rate_origin: Where the learning rate comes from, for the plan.
    """

    train: str = "all"
    learning_rate: float | None = None
    rate_origin: str = field(default=RUN_RATE, compare=False)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> TrainPolicy:
        """Return the policy that a model's config records.

        Raises:
            TypeError: The record has other keys.
        """
        policy = cls(**record)
        return policy if policy.learning_rate is None else replace(policy, rate_origin=SAVED_RATE)

    def record(self) -> dict[str, Any]:
        """Return what a model's config records.

        A default for pretrained weights is not recorded: the lineage of the model names these weights.
        """
        rate = None if self.rate_origin.startswith(PRETRAINED_RATE) else self.learning_rate
        return {"train": self.train, "learning_rate": rate}


def requested_policy(model: ModelConfig, name: str, inherited: TrainPolicy) -> TrainPolicy:
    """Return the training policy of a part that a recipe requests.

    Args:
        model: The recipe's ``model``.
        name: Key path of the part: ``decoder``, ``encoders.NAME``, ``connectors.NAME`` or ``seq2seq``.
        inherited: Policy for what the recipe does not set.
    """
    train = requested_trains(model, name) or inherited.train
    rate = requested_rate(model, name)
    return replace(inherited, train=train) if rate is None else TrainPolicy(train, *rate)


def adapter_policy(model: ModelConfig, name: str) -> TrainPolicy:
    """Return the training policy of the adapters of a part; its ``train`` selects the layers that get adapters."""
    lora = model.lora
    if lora is not None and lora.learning_rate is not None:
        return TrainPolicy(requested_trains(model, name) or "all", lora.learning_rate, "model.lora.learning_rate")
    return requested_policy(model, name, TrainPolicy())


def check_rates_are_used(model: ModelConfig, policy: Mapping[str, TrainPolicy]) -> None:
    """Reject a learning rate of a part that the model does not have, or that does not train at it.

    Raises:
        MetalmError: Names the key.
    """
    for key, part in rate_keys(model):
        trains = {entry.train for name, entry in policy.items() if belongs_to(name, part)}
        if not trains:
            raise MetalmError(
                f"a learning rate is set for {part}, which the model does not have",
                where=key,
                why=f"its parts: {', '.join(policy)}",
                remedy="remove it",
            )
        if trains == {"none"}:
            what, remedy = frozen_rate_problem(model, part)
            why = "trains: none is set in the recipe or saved in the checkpoint" if model.lora is None else ""
            raise MetalmError(what, where=key, why=why, remedy=remedy)


def with_pretrained_rates(
    policy: Mapping[str, TrainPolicy],
    pretrained: Mapping[str, str],
    defaults: PretrainedLearningRate,
    learning_rate: float,
) -> dict[str, TrainPolicy]:
    """Give parts with pretrained weights their default rate where nothing else sets one; it is never above the run's.

    Args:
        policy: Policy of each part, by key path.
        pretrained: Outside checkpoint of each part with pretrained weights, by key path.
        defaults: The recipe's ``train.pretrained_learning_rate``.
        learning_rate: The recipe's ``train.learning_rate``.
    """
    rated = dict(policy)
    for name, checkpoint in pretrained.items():
        default = getattr(defaults, name.partition(".")[0])
        part = rated[name]
        if default is not None and default < learning_rate and part.learning_rate is None and part.train != LORA:
            rated[name] = replace(part, learning_rate=default, rate_origin=f"{PRETRAINED_RATE} ({checkpoint})")
    return rated


def high_rate_notes(
    policy: Mapping[str, TrainPolicy], pretrained: Mapping[str, str], learning_rate: float
) -> Iterator[str]:
    """Yield a note on each part whose pretrained weights train at :data:`FAR_ABOVE` times their default or more.

    Args:
        policy: Policy of each part, by key path.
        pretrained: Outside checkpoint of each part with pretrained weights, by key path.
        learning_rate: The recipe's ``train.learning_rate``.
    """
    for name, checkpoint in pretrained.items():
        default: float = PretrainedLearningRate.model_fields[name.partition(".")[0]].default
        rate = policy[name].learning_rate or learning_rate
        ratio = round(rate / default, 6)
        if policy[name].train not in ("none", LORA) and ratio >= FAR_ABOVE:
            yield (
                f"warning: {name} trains at {rate:g}, {ratio:.3g} times the default for pretrained weights, which may "
                f"destroy what {checkpoint} has learned; model.{name}.learning_rate={default:g} sets the default"
            )


@dataclass(frozen=True)
class PartSummary:
    """Summary of a part, for the plan."""

    name: str
    kind: str
    total: int
    trained: int
    train: str
    learning_rate: float
    rate_origin: str = RUN_RATE


LORA = "lora"
"""Policy of a part of which only the LoRA adapters train."""
LORA_PARAMETER_MARK = ".lora_"
"""Part of the names of adapter parameters."""

BARE_EMBEDDING_SUFFIXES = ("_embedding", "_embeddings", "_token")
"""Name endings of embeddings that are bare parameters (positions and class vectors of vision transformers)."""


def layer_stacks(module: Any) -> list[list[nn.Module]]:
    """Return the layers of each stack of a part: an encoder–decoder has two, every other part one."""
    if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
        return [_longest_list(module.get_encoder()), _longest_list(module.get_decoder())]
    return [_longest_list(module)]


def transformer_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of all stacks of a part (:func:`layer_stacks`)."""
    return [layer for layers in layer_stacks(module) for layer in layers]


def _longest_list(module: nn.Module) -> list[nn.Module]:
    """Return the layers of a stack: its longest list of modules of one class, or a connector's linear layers."""
    if isinstance(module, nn.Sequential):
        return [layer for layer in module if isinstance(layer, nn.Linear)]
    longest: list[nn.Module] = []
    for child in module.modules():
        if (
            isinstance(child, nn.ModuleList)
            and len(child) > len(longest)
            and len({type(member) for member in child}) == 1
        ):
            longest = list(child)
    return longest


def set_trained_parameters(name: str, module: nn.Module, train: str) -> None:
    """Set which parameters of a part train.

    Raises:
        MetalmError: ``last_N`` with more layers than the part has.
    """
    module.requires_grad_(train == "all")
    if train == LORA:
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(LORA_PARAMETER_MARK in key)
    if not train.startswith("last_"):
        return
    count = int(train.removeprefix("last_"))
    for layers in layer_stacks(module):
        if count > len(layers):
            raise MetalmError(
                f"{name} has {len(layers)} layers, but the last {count} of them should train",
                where=f"model.{name}.trains: {train}",
                remedy=f"set it to last_{len(layers)} or less, or to all",
            )
        for layer in layers[-count:]:
            layer.requires_grad_(True)


def apply_policy(parts: Mapping[str, nn.Module], policy: Mapping[str, TrainPolicy]) -> None:
    """Set which parameters of every part train.

    Args:
        parts: Modules by key path below ``model`` (``decoder``, ``encoders.text``, ``connectors.text``).
        policy: Their policies.

    Raises:
        MetalmError: No parameter trains.
    """
    for name, part in parts.items():
        set_trained_parameters(name, part, policy[name].train)
    if not any(parameter.requires_grad for part in parts.values() for parameter in part.parameters()):
        raise MetalmError(
            "no parameter trains", where="model", remedy="set trains: all or last_N on at least one of the parts"
        )


def check_trained_parts_are_used(parts: Mapping[str, nn.Module], docked: Collection[str]) -> None:
    """Reject a run of whose parts only those train that no row uses.

    Args:
        parts: Modules by key path below ``model``. The rows use the decoder or the encoder–decoder, and the parts of
            the docked encoders.
        docked: Names of the encoders into which the rows dock contents.

    Raises:
        MetalmError: No part that trains is used.
    """
    used = [part for name, part in parts.items() if name in ("decoder", "seq2seq") or name.partition(".")[2] in docked]
    if any(parameter.requires_grad for part in used for parameter in part.parameters()):
        return
    encoders = [name.partition(".")[2] for name in parts if name.startswith("encoders.")]
    unused = ", ".join(name for name in encoders if name not in docked)
    raise MetalmError(
        "nothing would train: no row uses a part that trains",
        where="model.trains",
        why=f"the decoder is frozen, and no row docks anything into {unused}",
        remedy="let the decoder train (model.trains.decoder=all), or dock inputs into an encoder that trains",
    )


def check_every_encoder_is_used(parts: Mapping[str, nn.Module], docked: Collection[str]) -> None:
    """Reject a run in which encoders train, or their connectors, that nothing docks into beside others that are used.

    An encoder that is frozen with its connector is kept as it is by choice.

    Args:
        parts: Modules by key path below ``model``.
        docked: Names of the encoders into which the rows can dock contents; if there are none, nothing is checked.

    Raises:
        MetalmError: An encoder is not used.
    """
    encoders = [name.partition(".")[2] for name in parts if name.startswith("encoders.")]
    for name in encoders if docked else ():
        own = [parts[key] for key in (f"encoders.{name}", f"connectors.{name}") if key in parts]
        if name in docked or not any(parameter.requires_grad for part in own for parameter in part.parameters()):
            continue
        key = f"model.encoders.{name}"
        raise MetalmError(
            f"nothing docks into the encoder {name}",
            where=key,
            why=f"all docks of this run are read by {', '.join(sorted(docked))}",
            remedy=f"remove {key}; or dock a part of a template into it (encoder: {name}, in finetuning); or keep it "
            f"as it is: {key}.trains=none {key}.connector.trains=none",
        )


def parameter_groups(
    parts: Mapping[str, nn.Module], policy: Mapping[str, TrainPolicy], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Build the optimiser groups: one per part and kind of decay. Biases, norms and embeddings do not decay.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and ``name``. A shared parameter is in the first part's group.
    """
    seen: set[int] = set()
    groups = []
    for name, part in parts.items():
        embeddings = {id(module.weight) for module in part.modules() if isinstance(module, nn.Embedding)}
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for key, parameter in part.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                is_embedding = id(parameter) in embeddings or key.endswith(BARE_EMBEDDING_SUFFIXES)
                (decayed if parameter.dim() >= 2 and not is_embedding else plain).append(parameter)
        rate = policy[name].learning_rate or learning_rate
        for kind, members, decay in (("decay", decayed, weight_decay), ("plain", plain, 0.0)):
            if members:
                groups.append({"params": members, "lr": rate, "weight_decay": decay, "name": f"{name}.{kind}"})
    return groups


def summarise_parts(
    parts: Mapping[str, nn.Module], policy: Mapping[str, TrainPolicy], learning_rate: float
) -> Iterator[PartSummary]:
    """Count the total and the trained parameters of each part."""
    for name, part in parts.items():
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in part.parameters()]
        yield PartSummary(
            name,
            type(part).__name__,
            sum(size for size, _ in sizes),
            sum(size for size, trains in sizes if trains),
            policy[name].train,
            policy[name].learning_rate or learning_rate,
            policy[name].rate_origin,
        )


def matrix_weights(module: nn.Module, *, trained_only: bool = False) -> int:
    """Number of weights of a module in matrix products with every position, optionally only the trained ones."""
    embedding_ids = {id(embedding.weight) for embedding in module.modules() if isinstance(embedding, nn.Embedding)}
    return sum(
        parameter.numel()
        for parameter in module.parameters()
        if parameter.dim() >= 2 and id(parameter) not in embedding_ids and (parameter.requires_grad or not trained_only)
    )


def attention_flops(length: int, width: int, *, causal: bool) -> float:
    """Return the forward FLOPs of a position for the attention scores and values of a layer.

    Args:
        length: Positions of a row.
        width: Hidden width.
        causal: Count only half.
    """
    return 4.0 * length * width * (0.5 if causal else 1.0)
