"""Assembly of a recipe's ``model``: load or build the parts, check them, and connect them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalm_cli.config.schema.model import Lora, ModelConfig, TaskModelConfig
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe
from metalm_cli.errors import MetalmError
from metalm_cli.models.capabilities import measure_bidirectionality
from metalm_cli.models.checkpoint_checks.loading_errors import loading_errors
from metalm_cli.models.checkpoint_io import find_model_folder, load_model, model_errors
from metalm_cli.models.connectors import root_mean_square
from metalm_cli.models.encoder_pretraining import load_encoder_for_pretraining
from metalm_cli.models.encoders import TextEncoderIO, encoder_io_for
from metalm_cli.models.lora.adapter_files import adapter_in
from metalm_cli.models.lora.inject import LoraBase, LoraTargets, add_adapters, merge, safetensors_hash
from metalm_cli.models.metalm import MetaLM, MetaLMConfig
from metalm_cli.models.part_loader import PartLoader
from metalm_cli.models.trainable import LORA, TrainPolicy, apply_policy, requested_policy
from metalm_cli.sessions import DecoderTokenizer, Processor, TextProcessor, TokenRules

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
    def is_encoder_only(self) -> bool:
        """Whether the model is an encoder that trains alone."""
        return self.tokenizer is None

    @property
    def decoder_tokenizer(self) -> DecoderTokenizer:
        if self.tokenizer is None:
            raise ValueError("an encoder alone has no decoder tokenizer")
        return self.tokenizer

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules by key path, in the order of the optimiser's groups."""
        if not isinstance(self.model, MetaLM):
            return {f"encoders.{name}": self.model for name in self.processors}
        parts: dict[str, nn.Module] = {"decoder": self.model.decoder}
        for name, encoder in self.model.encoders.items():
            parts[f"encoders.{name}"] = encoder
            parts[f"connectors.{name}"] = self.model.connectors[name]
        return parts


def build_from_recipe(
    recipe: PretrainRecipe | FinetuneRecipe,
    sample: DocumentSampler,
    *,
    offline: bool = False,
    tokenizers: Path | None = None,
) -> Assembly:
    """Assemble the model of a recipe: a MetaLM, a plain causal language model, or an encoder alone.

    Args:
        recipe: The recipe.
        sample: Returns documents to train tokenizers on.
        offline: Do not access the network.
        tokenizers: Folder of tokenizers that the run trained before it was interrupted.

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
    if name in ("mlm", "rtd"):
        assembly = build_encoder(recipe.model, name, **settings)
    else:
        assembly = build_metalm(recipe.model, **settings)
    _check_length(assembly, recipe.data.sequence_length)
    return assembly


def _check_length(assembly: Assembly, length: int) -> None:
    if assembly.is_encoder_only:
        (processor,) = assembly.processors.values()
        assert isinstance(processor, TextProcessor)
        limit = TextEncoderIO().max_positions(assembly.model, processor.tokenizer)
        kind = assembly.model.config.model_type
    else:
        limit, kind = assembly.model.max_positions, assembly.model.decoder.config.model_type
    if limit is not None and length > limit:
        raise MetalmError(
            f"rows of {length} positions are longer than the {limit} that this {kind} model reads",
            where="data.sequence_length",
            remedy=f"set it to {limit} or less, or use a model with more positions",
        )


def build_metalm(
    model: ModelConfig,
    *,
    seed: int,
    sample: DocumentSampler,
    offline: bool = False,
    remote_code: bool = False,
    tokenizers: Path | None = None,
) -> Assembly:
    """Assemble a MetaLM.

    Args:
        model: The recipe's ``model``.
        seed: Seed of newly initialised weights.
        sample: Returns documents to train tokenizers on.
        offline: Do not access the network.
        remote_code: Run Python code of checkpoints.
        tokenizers: Folder of tokenizers that the run trained before it was interrupted.

    Raises:
        MetalmError: A part is missing, does not fit, or is of the wrong kind.
    """
    torch.manual_seed(seed)
    if model.checkpoint is not None:
        assembly = load_assembly(model.checkpoint, offline=offline, remote_code=remote_code)
    else:
        assembly = _assemble_parts(model, PartLoader(sample, offline, remote_code, tokenizers), seed)
    _set_policy(assembly, model)
    if isinstance(model, TaskModelConfig) and model.lora is not None and model.checkpoint is not None:
        base_folder = find_model_folder(model.checkpoint, offline=offline, remote_code=remote_code)
        _add_lora(assembly, model, model.lora, _lora_base(model.checkpoint, base_folder), seed)
    apply_policy(assembly.parts(), assembly.policy)
    assembly.notes += assembly.model.traits.notes()
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
    ((name, options),) = model.encoders.items()
    loader = PartLoader(sample, offline, remote_code, tokenizers)
    encoder, processor = load_encoder_for_pretraining(name, options, loader, kind)
    part = f"encoders.{name}"
    assembly = Assembly(encoder, None, {name: processor}, {part: requested_policy(model, part, TrainPolicy())})
    apply_policy(assembly.parts(), assembly.policy)
    return assembly


def load_assembly(source: str | Path, *, offline: bool = False, remote_code: bool = False) -> Assembly:
    """Load a finished model with its saved training policy; adapters are merged into its weights."""
    model, tokenizer, processors = load_model(source, offline=offline, remote_code=remote_code)
    assembly = Assembly(model, tokenizer, processors)
    if merge(model):
        assembly.notes.append(f"the adapters of {source} are merged into the weights of their base")
    saved = model.config.training
    with model_errors(source):
        assembly.policy = {name: TrainPolicy(**saved.get(name, {})) for name in assembly.parts()}
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
    if model.trains.decoder == "none" and not assembly.processors:
        raise MetalmError(
            "the model has no encoder to train, and its decoder is frozen",
            where="model.trains.decoder: none",
            why="it is a plain causal language model",
            remedy="leave out --encoder-only (model.trains.decoder=all), or name a MetaLM with --model",
        )
    assembly.policy = {name: requested_policy(model, name, saved) for name, saved in assembly.policy.items()}
    assembly.model.config.training = {name: vars(part_policy) for name, part_policy in assembly.policy.items()}


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


def _add_lora(assembly: Assembly, model: ModelConfig, lora: Lora, base: LoraBase, seed: int) -> None:
    """Freeze the decoder and the encoders, and add adapters to the parts that the recipe names."""
    adapted_parts = {
        name: part
        for name, part in assembly.parts().items()
        if name.partition(".")[0] in lora.parts and not name.startswith("connectors.")
    }
    if not adapted_parts:
        raise MetalmError(
            "the model has no encoder to adapt",
            where="model.lora.parts: encoders",
            why="it is a plain causal language model",
            remedy="set model.lora.parts=[decoder]",
        )
    policy = {name: requested_policy(model, name, TrainPolicy()) for name in assembly.policy}
    train = {name: policy[name].train for name in adapted_parts}
    assembly.lora_targets = add_adapters(assembly.model, adapted_parts, train, lora, base, seed)
    assembly.notes.append(str(assembly.lora_targets))
    for name in policy:
        if not name.startswith("connectors."):
            policy[name] = replace(policy[name], train=LORA if name in adapted_parts else "none")
    assembly.policy = policy


def _assemble_parts(model: ModelConfig, loader: PartLoader, seed: int) -> Assembly:
    assert model.decoder is not None, "the schema requires a decoder here"
    decoder, tokenizer = loader.decoder(model.decoder)
    rules = _token_rules(model, decoder.config)
    decoder_tokenizer = DecoderTokenizer(tokenizer, rules, embedding_rows=decoder.get_input_embeddings().num_embeddings)
    encoders, processors, connectors, docking = {}, {}, {}, {}
    for name, options in model.encoders.items():
        encoder, source = loader.encoder(name, options, tokenizer)
        encoder_io = encoder_io_for(encoder.config)
        docking[name] = {
            "kind": encoder_io.kind,
            "keep_special": options.keep_special,
            "max_length": options.max_length,
        }
        with loading_errors("the encoder cannot be used", f"model.encoders.{name}", "use another checkpoint or config"):
            processor = processors[name] = encoder_io.processor(name, source, encoder, docking[name])
            if isinstance(processor, TextProcessor):
                docking[name]["max_length"] = processor.max_length
                _check_bidirectional(name, encoder)
        connector_options = options.connector or model.connector
        connectors[name] = {
            "kind": connector_options.kind,
            "layers": 1 if connector_options.kind == "linear" else connector_options.layers,
        }
        encoders[name] = encoder
    config = MetaLMConfig(
        decoder_config=decoder.config.to_dict(),
        encoder_configs={name: encoder.config.to_dict() for name, encoder in encoders.items()},
        connectors=connectors,
        docking=docking,
        tokens=rules.to_dict(),
    )
    with loading_errors("the decoder cannot be used", "model.decoder", "use another checkpoint or config"):
        metalm = MetaLM(config, decoder, encoders)
        is_causal = metalm.traits.causal
    if not is_causal:
        raise MetalmError(
            f"{type(decoder).__name__} is not a causal decoder: its outputs depend on later tokens",
            where="model.decoder",
            why="an encoder (BERT, RoBERTa, ...) cannot predict the next token",
            remedy="set a causal language model here, and move this model to model.encoders",
        )
    for name in encoders:
        _rescale_connector(metalm, name, processors[name], seed)
    assembly = Assembly(metalm, decoder_tokenizer, processors)
    assembly.policy = {name: TrainPolicy() for name in assembly.parts()}
    return assembly


def _token_rules(model: ModelConfig, config: Any) -> TokenRules:
    """Return the token rules of the decoder's checkpoint, or else those of the recipe."""
    saved = getattr(config, "metalm", None)
    if not saved:
        return TokenRules(**model.special_tokens.model_dump())
    with model_errors(config.name_or_path):
        return TokenRules(**saved["tokens"])


def _check_bidirectional(name: str, encoder: Any) -> None:
    if not measure_bidirectionality(encoder):
        raise MetalmError(
            f"{type(encoder).__name__} is not a bidirectional encoder: its outputs do not depend on later tokens",
            where=f"model.encoders.{name}",
            remedy="set a text encoder here (BERT, ELECTRA, ModernBERT, ...), and move this model to model.decoder",
        )


@torch.no_grad()
def _rescale_connector(model: MetaLM, name: str, processor: Processor, seed: int) -> None:
    """Scale a new connector's outputs to the root mean square of the decoder's token embeddings."""
    generator = torch.Generator().manual_seed(seed)
    encoder: Any = model.encoders[name].eval()
    inputs = random_inputs(processor, encoder, generator)
    outputs = model.encoder_ios[name].outputs(encoder, inputs).flatten(0, 1)
    table: Any = model.get_input_embeddings()
    tokens = torch.randint(table.num_embeddings, (512,), generator=generator)
    connector: Any = model.connectors[name]
    connector.rescale(outputs, root_mean_square(table(tokens)))


def random_inputs(processor: Processor, encoder: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Generate random inputs of an encoder: noise for images, random tokens for text."""
    inputs = {}
    for key, array in processor.collate([processor.dummy()]).items():
        if array.dtype.kind == "f":
            inputs[key] = torch.randn((4, *array.shape[1:]), generator=generator)
            continue
        length = max(array.shape[1], min(32, getattr(processor, "max_length", 1)))
        vocabulary_size = encoder.get_input_embeddings().num_embeddings
        mask = "mask" in key
        inputs[key] = (
            torch.ones(4, length, dtype=torch.long)
            if mask
            else torch.randint(vocabulary_size, (4, length), generator=generator)
        )
    return inputs
