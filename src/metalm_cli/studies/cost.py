"""Cost of a training stage before its data and its model exist: parameters, positions, FLOPs and disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.config import resolve, split_arguments
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from torch import nn

    from metalm_cli.studies.stages import Stage

BYTES_PER_PARAMETER = 4
"""Bytes of a saved parameter."""
TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
"""Values of a config that come from a new tokenizer, and change no count."""

Configs = Mapping[str, Any]
"""Configs of transformers of the parts of a model, by part (``decoder``, ``encoders.text``), and the records of its
connectors (``connectors.text``)."""
MAX_ENCODER_LENGTH = 512
"""Outputs of a docked text where nothing limits them further."""


@dataclass(frozen=True)
class TrainingCost:
    """Cost of a training stage.

    Args:
        parameters: Number of parameters; None if a checkpoint is not on this machine.
        trained: Number of trained parameters.
        steps: Optimiser steps; 0 if the training is planned in epochs, whose rows are not counted here.
        epochs: Epochs of a training without steps.
        positions: Decoder positions of all steps.
        is_bound: Whether the positions, and so the FLOPs, are an upper bound: tasks with no mean of positions.
        flops: FLOPs of all steps: 2 for each weight in a matrix product and position forward, 2 backward if
            the weight trains, and 2 if a gradient passes through. With a compressing connector, an encoder reads more
            positions than its docks take, and the connector multiplies by each vector or output. Attention scores and
            adapters are not counted, and the output head of the decoder only in pretraining: of a task's example, it
            reads the answer alone.
        disk: Bytes of the finished model and of its last checkpoint.
    """

    parameters: int | None
    trained: int
    steps: int
    epochs: float
    positions: float
    is_bound: bool
    flops: float
    disk: int


def training_costs(stages: Sequence[Stage]) -> dict[str, TrainingCost]:
    """Estimate the cost of each training stage, by its name; those that other stages train from come first."""
    costs: dict[str, TrainingCost] = {}
    configs_by_run: dict[str, Configs] = {}
    for stage in stages:
        if stage.run is not None:
            recipes = _recipes(stage)
            costs[stage.name] = _sum([_cost(stage, recipe, configs_by_run) for recipe in recipes])
    return costs


def _sum(costs: list[TrainingCost]) -> TrainingCost:
    """Cost of a training whose recipe has stages, each of which keeps its model and its checkpoint."""
    if len(costs) == 1:
        return costs[0]
    return TrainingCost(
        costs[-1].parameters,
        max(cost.trained for cost in costs),
        sum(cost.steps for cost in costs),
        sum(cost.epochs for cost in costs),
        sum(cost.positions for cost in costs),
        any(cost.is_bound for cost in costs),
        sum(cost.flops for cost in costs),
        sum(cost.disk for cost in costs),
    )


def _cost(stage: Stage, recipe: Any, configs_by_run: dict[str, Configs]) -> TrainingCost:
    from metalm_cli.models.trainable import TrainPolicy, apply_policy, requested_policy

    model, steps = recipe.model, recipe.train.steps or 0
    epochs = 0.0 if steps else float(recipe.train.epochs or 0)
    is_task = recipe.command != "pretrain"
    length = stage.positions if is_task and stage.positions is not None else recipe.data.sequence_length
    positions = float(steps * recipe.train.batch_size * length)
    is_bound = is_task and stage.positions is None
    configs = _configs(model, configs_by_run)
    if configs is None:
        return TrainingCost(None, 0, steps, epochs, positions, is_bound, 0.0, 0)
    configs_by_run[str(stage.outputs[0])] = configs
    modules = _modules(configs)
    adapted = set() if model.lora is None else _adapted(model.lora.parts, modules)
    frozen = {name for name in modules if model.lora is not None and not name.startswith("connectors.")} - adapted
    inherited = {name: TrainPolicy("none" if name in frozen else "all") for name in modules}
    apply_policy(modules, {name: requested_policy(model, name, inherited[name]) for name in modules})
    for name in adapted:
        modules[name].requires_grad_(False)
    flops, encoder_trains = 0.0, False
    for name, module in modules.items():  # encoders and connectors before the decoder
        outputs, vectors = _docked_shares(recipe, name.partition(".")[2], configs, stage, length)
        for share, weights, trained in _products(name, module, outputs, vectors, "decoder" in modules):
            if name == "decoder" and not is_task:
                head = configs["decoder"].vocab_size * configs["decoder"].hidden_size
                weights, trained = weights + head, trained + (head if trained else 0)
            passed = weights if encoder_trains or name in adapted else trained
            flops += positions * share * (2.0 * weights + 2.0 * trained + 2.0 * passed)
            if name == "decoder" and recipe.train.distill is not None:
                flops += positions * 2.0 * weights  # a teacher reads about as many positions, forward only
        trains = any(parameter.requires_grad for parameter in module.parameters())
        encoder_trains = encoder_trains or trains or name in adapted
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    total = sum(parameter.numel() for parameter in parameters)
    trained_total = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    disk = BYTES_PER_PARAMETER * (2 * total + 2 * trained_total)
    return TrainingCost(total, trained_total, steps, epochs, positions, is_bound, flops, disk)


def _adapted(parts: Sequence[str], modules: Mapping[str, Any]) -> set[str]:
    """Names of the parts that get adapters."""
    return {name for name in modules if name in parts or (name.startswith("encoders.") and "encoders" in parts)}


def _recipes(stage: Stage) -> list[Any]:
    """Recipes of the training: one, or one for each stage of a recipe that has stages."""
    verb, recipe, *arguments = stage.arguments
    values = [argument for argument in arguments if "=" in argument and not argument.startswith(("-", "/", "./"))]
    base = arguments[arguments.index("--model") + 1] if "--model" in arguments else None
    _, overrides = split_arguments(values)
    resolved = resolve(verb, recipe, overrides, {"model.checkpoint": base})
    return [part.resolved.recipe for part in resolved.stages] or [resolved.recipe]


def _products(
    name: str, module: nn.Module, outputs: float, vectors: float, has_decoder: bool
) -> Iterator[tuple[float, int, int]]:
    """Yield shares of the decoder positions with the weights, and the trained ones, that each of them multiplies.

    Args:
        name: Key path of the part.
        module: The part.
        outputs: Docked encoder outputs for each decoder position.
        vectors: Vectors of the connector for each decoder position.
        has_decoder: Whether there is a decoder, and not an encoder alone.
    """
    from metalm_cli.models.compressing_connectors import connector_weights
    from metalm_cli.models.trainable import matrix_weights

    if name.startswith("connectors."):
        trained = connector_weights(module, trained_only=True)
        yield from zip((outputs, vectors), connector_weights(module), trained, strict=True)
        return
    share = outputs if name != "decoder" and has_decoder else 1.0
    yield share, matrix_weights(module), matrix_weights(module, trained_only=True)


def _docked_shares(recipe: Any, name: str, configs: Configs, stage: Stage, length: float) -> tuple[float, float]:
    """Encoder outputs and vectors of the connector for each decoder position, if all docks are those of an encoder.

    The objective says which share of the tokens is docked; of tasks, the study, or else all positions are. A
    compressing connector makes rows of as many positions hold more tokens.
    """
    record = configs.get(f"connectors.{name}")
    if record is None:
        return 1.0, 1.0
    from metalm_cli.models.connectors import check_record

    objective = getattr(recipe, "objective", None)
    share = float(getattr(objective, "span_fraction", 1.0) or 1.0)
    outputs, grid = _outputs_of_dock(recipe, configs[f"encoders.{name}"])
    compression = check_record(record, configs["decoder"].hidden_size, grid, "model.connector")
    if recipe.command != "pretrain" and stage.docked_outputs is not None:
        vectors = stage.docked_outputs if compression is None else compression.positions(round(stage.docked_outputs))
        return stage.docked_outputs / length, vectors / length
    vectors = outputs if compression is None else compression.positions(outputs)
    docked_positions = share * vectors / outputs
    in_row = 1.0 - share + docked_positions
    return share / in_row, docked_positions / in_row


def _outputs_of_dock(recipe: Any, config: Any) -> tuple[int, tuple[int, int] | None]:
    """Encoder outputs of a dock, and the grid of an image: a mean span of the objective, or what the encoder reads."""
    from metalm_cli.models.encoders import encoder_io_for, grid_of

    grid = grid_of(encoder_io_for(config), config)
    if grid is not None:
        return grid[0] * grid[1], grid
    spans = getattr(getattr(recipe, "objective", None), "span_length", None)
    if spans is not None:
        return max(1, round(sum(spans) / len(spans))), None
    limit = getattr(config, "max_position_embeddings", None) or MAX_ENCODER_LENGTH
    return min(int(limit), MAX_ENCODER_LENGTH), None


def _configs(model: Any, configs_by_run: dict[str, Configs]) -> Configs | None:
    """Configs of the parts of a recipe's model; None if one is not on this machine."""
    if model.checkpoint is not None:
        return configs_by_run.get(str(Path(model.checkpoint)))
    decoder = getattr(model, "decoder", None)
    parts = {f"encoders.{name}": part for name, part in (getattr(model, "encoders", None) or {}).items()}
    vocabulary = _new_vocabulary(decoder)
    configs: dict[str, Any] = {}
    for name, part in [*parts.items(), *([("decoder", decoder)] if decoder is not None else [])]:
        config = _config(name, part, configs_by_run, vocabulary)
        if config is None:
            return None
        if name.startswith("encoders."):
            config = _docked_config(part, config, f"model.{name}")
        configs[name] = config
        if decoder is not None and name != "decoder":
            options = part.connector or model.connector
            configs[name.replace("encoders.", "connectors.")] = {"kind": options.kind, **options.settings}
    return configs


def _docked_config(part: Any, config: Any, where: str) -> Any:
    """Config of what is docked: the tower of a two-tower checkpoint, with the size of images that the recipe sets."""
    from metalm_cli.models.images.towers import tower_config

    tower = tower_config(config, part.adapter, where)
    if part.image_size is not None:
        tower.image_size = part.image_size
    return tower


def _new_vocabulary(part: Any) -> int | None:
    """Size of the vocabulary that a part trains a tokenizer for."""
    new = getattr(getattr(part, "tokenizer", None), "new", None)
    return getattr(new, "vocab_size", None)


def _config(name: str, part: Any, configs_by_run: dict[str, Configs], vocabulary: int | None) -> Any:
    from transformers import AutoConfig

    import metalm_cli.models  # noqa: F401  (registers the paper's architectures)
    from metalm_cli.common.checkpoints.find import find_local_checkpoint

    if part.config is not None:
        size = _new_vocabulary(part) or vocabulary
        from_tokenizer = {**dict.fromkeys(TOKEN_IDS), "vocab_size": size} if size else {}
        return AutoConfig.for_model(**{**from_tokenizer, **part.config})
    if part.checkpoint is None:
        return None
    folder = Path(part.checkpoint)
    configs = configs_by_run.get(str(folder.parent)) if folder.name == "model" else None
    if configs is not None:
        return configs.get(name) or next(iter(configs.values()))
    try:
        checkpoint = find_local_checkpoint(part.checkpoint)
        return None if checkpoint is None else AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except (MetalmError, OSError, ValueError):  # the stage itself reports it
        return None


def _modules(configs: Configs) -> dict[str, nn.Module]:
    """Modules without memory: encoders, connectors, then the decoder."""
    import torch
    from transformers import AutoModel

    from metalm_cli.models.connectors import make_connector

    modules: dict[str, nn.Module] = {}
    with torch.device("meta"):
        for name, config in configs.items():
            if name.startswith("encoders."):
                modules[name] = AutoModel.from_config(config)
            elif name.startswith("connectors."):
                width = configs[name.replace("connectors.", "encoders.")].hidden_size
                modules[name] = make_connector(config, width, configs["decoder"].hidden_size)
        if "decoder" in configs:
            modules["decoder"] = AutoModel.from_config(configs["decoder"])
    return modules
