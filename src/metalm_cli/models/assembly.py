"""From a recipe's ``model`` to a model that trains: load or make the parts, check them, connect them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalm_cli.config.schema.model import Lora, Model, TrainedParts
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe
from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_io import load_model, locate
from metalm_cli.models.connectors import root_mean_square
from metalm_cli.models.encoder_pretraining import load_encoder_for_pretraining
from metalm_cli.models.encoders import TextEncoderIO, encoder_io_for
from metalm_cli.models.lora.adapter_files import adapter_in
from metalm_cli.models.lora.inject import LoraBase, LoraTargets, adapt, merge, weights_hash
from metalm_cli.models.metalm import MetaLM, MetaLMConfig
from metalm_cli.models.part_loader import PartLoader, measure_bidirectionality
from metalm_cli.models.trainable import LORA, TrainPolicy, apply_policy
from metalm_cli.sessions import DecoderTokenizer, Processor, TextProcessor, TokenRules

Sample = Callable[[int], Iterator[str]]
"""Gives that many training documents, to train a tokenizer on."""


@dataclass
class Assembly:
    """A model and all that belongs to it.

    Args:
        model: The model; a plain causal LM is a MetaLM without encoders.
        tokenizer: The decoder's; None for an encoder that trains alone.
        processors: The encoders'.
        policy: How each part trains, by key path.
        notes: What a user should know.
        adaptation: What adapters stand in, where they train in place of the model's own weights.
    """

    model: Any
    tokenizer: DecoderTokenizer | None
    processors: dict[str, Processor]
    policy: dict[str, TrainPolicy] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    adaptation: LoraTargets | None = None

    @property
    def is_encoder_only(self) -> bool:
        """An encoder that trains alone."""
        return self.tokenizer is None

    @property
    def decoder_tokenizer(self) -> DecoderTokenizer:
        if self.tokenizer is None:
            raise ValueError("an encoder alone has no decoder tokenizer")
        return self.tokenizer

    def parts(self) -> dict[str, nn.Module]:
        """Modules by key path, in the order of the optimiser's groups."""
        if not isinstance(self.model, MetaLM):
            return {f"encoders.{name}": self.model for name in self.processors}
        found: dict[str, nn.Module] = {"decoder": self.model.decoder}
        for name, encoder in self.model.encoders.items():
            found[f"encoders.{name}"] = encoder
            found[f"connectors.{name}"] = self.model.connectors[name]
        return found


def build_from_recipe(
    recipe: PretrainRecipe | FinetuneRecipe, sample: Sample, *, offline: bool = False, tokenizers: Path | None = None
) -> Assembly:
    """Assemble what a recipe trains: a MetaLM, a plain causal language model, or an encoder alone.

    Args:
        recipe: The recipe.
        sample: Documents to train tokenizers on.
        offline: Open no socket.
        tokenizers: Folder of tokenizers that an interrupted run has trained already.

    Raises:
        MetalmError: A part is missing, does not fit or is of the wrong kind, or rows are longer than it reads.
    """
    settings: dict[str, Any] = {
        "seed": recipe.train.seed,
        "sample": sample,
        "offline": offline,
        "remote_code": recipe.dangerous.trust_remote_code,
        "tokenizers": tokenizers,
    }
    name = recipe.objective.name
    if name in ("mlm", "rtd"):
        made = build_encoder(recipe.model, name, **settings)
    else:
        made = build_metalm(recipe.model, **settings)
    _check_length(made, recipe.data.sequence_length)
    return made


def _check_length(made: Assembly, length: int) -> None:
    if made.is_encoder_only:
        (processor,) = made.processors.values()
        assert isinstance(processor, TextProcessor)
        limit = TextEncoderIO().positions(made.model, processor.tokenizer)
        kind = made.model.config.model_type
    else:
        limit, kind = made.model.positions, made.model.decoder.config.model_type
    if limit is not None and length > limit:
        raise MetalmError(
            f"rows of {length} positions are longer than the {limit} that this {kind} model reads",
            where="data.sequence_length",
            remedy=f"set it to {limit} or less, or use a model with more positions",
        )


def build_metalm(
    model: Model,
    *,
    seed: int,
    sample: Sample,
    offline: bool = False,
    remote_code: bool = False,
    tokenizers: Path | None = None,
) -> Assembly:
    """Assemble a MetaLM.

    Args:
        model: The recipe's ``model``.
        seed: Seeds fresh weights.
        sample: Documents to train tokenizers on.
        offline: Open no socket.
        remote_code: Let checkpoints run code of their own.
        tokenizers: Folder of tokenizers that an interrupted run has trained already.

    Raises:
        MetalmError: A part is missing, does not fit, or is of the wrong kind.
    """
    torch.manual_seed(seed)
    if model.checkpoint is not None:
        assembly = load_assembly(model.checkpoint, offline=offline, remote_code=remote_code)
    else:
        assembly = _connect(model, PartLoader(sample, offline, remote_code, tokenizers), seed)
    _retrain(assembly, model.trains)
    lora = getattr(model, "lora", None)
    if lora is not None and model.checkpoint is not None:
        place = locate(model.checkpoint, offline=offline, remote_code=remote_code)
        _adapt(assembly, lora, model.trains, _base(model.checkpoint, place), seed)
    apply_policy(assembly.parts(), assembly.policy)
    assembly.notes += assembly.model.traits.notes()
    return assembly


def build_encoder(
    model: Model,
    kind: str,
    *,
    seed: int,
    sample: Sample,
    offline: bool = False,
    remote_code: bool = False,
    tokenizers: Path | None = None,
) -> Assembly:
    """Make or load the one encoder of ``mlm`` and ``rtd``, with its head.

    Raises:
        MetalmError: As :func:`build_metalm`.
    """
    torch.manual_seed(seed)
    ((name, options),) = model.encoders.items()
    loader = PartLoader(sample, offline, remote_code, tokenizers)
    encoder, processor = load_encoder_for_pretraining(name, options, loader, kind)
    assembly = Assembly(encoder, None, {name: processor}, {f"encoders.{name}": _policy(options)})
    apply_policy(assembly.parts(), assembly.policy)
    return assembly


def load_assembly(source: str | Path, *, offline: bool = False, remote_code: bool = False) -> Assembly:
    """A finished model, with the training policy it was saved with; adapters are merged into its weights."""
    model, tokenizer, processors = load_model(source, offline=offline, remote_code=remote_code)
    assembly = Assembly(model, tokenizer, processors)
    if merge(model):
        assembly.notes.append(f"the adapters of {source} are merged into the weights of their base")
    saved = model.config.training
    assembly.policy = {name: TrainPolicy(**saved.get(name, {})) for name in assembly.parts()}
    return assembly


def _retrain(assembly: Assembly, trains: TrainedParts) -> None:
    """Replace the policy of the parts, or of a finished model, where the recipe says so."""
    given = trains.model_dump(exclude_none=True)
    if given.get("decoder") == "none" and not assembly.processors:
        raise MetalmError(
            "this model has no encoder to train, and its decoder is frozen",
            where="model.trains.decoder: none",
            why="it is a plain causal language model",
            remedy="leave out --encoder-only (model.trains.decoder=all), or name a MetaLM with --model",
        )
    for name in assembly.policy:
        chosen = given.get(name.partition(".")[0])
        if chosen is not None:
            assembly.policy[name] = TrainPolicy(chosen)
    assembly.model.config.training = {name: vars(one) for name, one in assembly.policy.items()}


def _base(checkpoint: str, folder: Path) -> LoraBase:
    """The model that adapters will belong to.

    Raises:
        MetalmError: It is an adapter itself.
    """
    if adapter_in(folder) is not None:
        raise MetalmError(
            "the base is an adapter itself",
            where=f"model.checkpoint: {checkpoint}",
            why="adapters belong to a model that lies on disk with all of its weights",
            remedy=f"merge it first: metalm export {checkpoint} --merge --out DIR; then name DIR with --model",
        )
    return LoraBase(checkpoint, folder, weights_hash(folder))


def _adapt(assembly: Assembly, lora: Lora, trains: TrainedParts, base: LoraBase, seed: int) -> None:
    """Freeze the decoder and the encoders, and put adapters into those that the recipe names."""
    chosen = {
        name: part
        for name, part in assembly.parts().items()
        if name.partition(".")[0] in lora.parts and not name.startswith("connectors.")
    }
    if not chosen:
        raise MetalmError(
            "this model has no encoder to adapt",
            where="model.lora.parts: encoders",
            why="it is a plain causal language model",
            remedy="set model.lora.parts=[decoder]",
        )
    train = {name: getattr(trains, name.partition(".")[0]) or "all" for name in chosen}
    assembly.adaptation = adapt(assembly.model, chosen, train, lora, base, seed)
    assembly.notes.append(str(assembly.adaptation))
    for name in assembly.policy:
        if name.startswith("connectors."):
            assembly.policy[name] = TrainPolicy(trains.connectors or "all")
        else:
            assembly.policy[name] = TrainPolicy(LORA if name in chosen else "none")


def _connect(model: Model, loader: PartLoader, seed: int) -> Assembly:
    assert model.decoder is not None, "the schema requires a decoder here"
    decoder, tokenizer = loader.decoder(model.decoder)
    rules = _rules(model, decoder.config)
    reader = DecoderTokenizer(tokenizer, rules)
    encoders, processors, policy = {}, {}, {"decoder": _policy(model.decoder)}
    connectors, docking = {}, {}
    for name, options in model.encoders.items():
        encoder, source = loader.encoder(name, options, tokenizer)
        adapter = encoder_io_for(encoder.config)
        docking[name] = {"kind": adapter.kind, "keep_special": options.keep_special, "max_length": options.max_length}
        processor = processors[name] = adapter.processor(name, source, encoder, docking[name])
        if isinstance(processor, TextProcessor):
            docking[name]["max_length"] = processor.max_length
            _check_bidirectional(name, encoder)
        shape = options.connector or model.connector
        connectors[name] = {"kind": shape.kind, "layers": 1 if shape.kind == "linear" else shape.layers}
        policy[f"encoders.{name}"] = _policy(options)
        policy[f"connectors.{name}"] = _policy(shape)
        encoders[name] = encoder
    config = MetaLMConfig(
        decoder_config=decoder.config.to_dict(),
        encoder_configs={name: encoder.config.to_dict() for name, encoder in encoders.items()},
        connectors=connectors,
        docking=docking,
        tokens=rules.to_dict(),
        training={name: vars(one) for name, one in policy.items()},
    )
    made = MetaLM(config, decoder, encoders)
    if not made.traits.causal:
        raise MetalmError(
            f"{type(decoder).__name__} is not a causal decoder: its outputs depend on later tokens",
            where="model.decoder",
            why="an encoder (BERT, RoBERTa, ...) cannot predict the next token",
            remedy="name a causal language model here, and this one under model.encoders",
        )
    for name in encoders:
        _rescale(made, name, processors[name], seed)
    return Assembly(made, reader, processors, policy)


def _rules(model: Model, config: Any) -> TokenRules:
    """The recipe's token rules, or those that the decoder's checkpoint was trained with."""
    saved = getattr(config, "metalm", None)
    return TokenRules(**(saved["tokens"] if saved else model.special_tokens.model_dump()))


def _policy(part: Any) -> TrainPolicy:
    return TrainPolicy(part.trains, part.learning_rate)


def _check_bidirectional(name: str, encoder: Any) -> None:
    if not measure_bidirectionality(encoder):
        raise MetalmError(
            f"{type(encoder).__name__} is not a bidirectional encoder: its outputs do not depend on later tokens",
            where=f"model.encoders.{name}",
            remedy="name a text encoder here (BERT, ELECTRA, ModernBERT, ...), and this one under model.decoder",
        )


@torch.no_grad()
def _rescale(model: MetaLM, name: str, processor: Processor, seed: int) -> None:
    """Give a fresh connector's outputs the scale of the decoder's token embeddings."""
    generator = torch.Generator().manual_seed(seed)
    encoder: Any = model.encoders[name].eval()
    inputs = random_inputs(processor, encoder, generator)
    outputs = model.adapters[name].outputs(encoder, inputs).flatten(0, 1)
    table: Any = model.get_input_embeddings()
    tokens = torch.randint(table.num_embeddings, (512,), generator=generator)
    connector: Any = model.connectors[name]
    connector.rescale(outputs, root_mean_square(table(tokens)))


def random_inputs(processor: Processor, encoder: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random contents in the form that an encoder reads: noise for images, tokens for text."""
    inputs = {}
    for key, array in processor.collate([processor.dummy()]).items():
        if array.dtype.kind == "f":
            inputs[key] = torch.randn((4, *array.shape[1:]), generator=generator)
            continue
        length = max(array.shape[1], min(32, getattr(processor, "max_length", 1)))
        rows = encoder.get_input_embeddings().num_embeddings
        mask = "mask" in key
        inputs[key] = (
            torch.ones(4, length, dtype=torch.long) if mask else torch.randint(rows, (4, length), generator=generator)
        )
    return inputs
