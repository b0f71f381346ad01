"""Loading or building a part of a model: config, weights and tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from metalm_cli.common.checkpoints.find import find_checkpoint, model_folder
from metalm_cli.common.hub import no_connections
from metalm_cli.config.schema.model import DecoderConfig, EncoderConfig, NewTokenizer, Seq2SeqConfig
from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_checks.config_fields import check_config_fields
from metalm_cli.models.checkpoint_checks.config_files import load_config, reset_implementations
from metalm_cli.models.checkpoint_checks.finite_weights import check_finite
from metalm_cli.models.checkpoint_checks.loading_errors import loading_errors
from metalm_cli.models.encoders import check_layer, encoder_io_for, load_tokenizer, without_pooler
from metalm_cli.models.images.image_processors import default_image_processor
from metalm_cli.models.images.resolution import check_image_size, fit_resolution
from metalm_cli.models.images.sizes import height_and_width
from metalm_cli.models.images.towers import tower_config, tower_note
from metalm_cli.models.tokenizer_training import train_tokenizer

DROPOUT_MARKS = ("dropout", "pdrop")
"""Parts of the names of config fields that are dropout rates."""


class PartLoader:
    """Loader of decoders and encoders, from checkpoints or from configs.

    Args:
        sample: Returns documents to train tokenizers on.
        offline: Do not access the network.
        remote_code: Run Python code of checkpoints.
        tokenizers: Folder of tokenizers that the run trained before it was interrupted: ``decoder``,
            ``encoders/<name>``.
        weights: Checkpoints need weights; False: only configs and tokenizers are read.

    Attributes:
        notes: Where each checkpoint was found, unless its folder is named.
    """

    def __init__(
        self,
        sample: Callable[[int], Iterator[str]],
        offline: bool = False,
        remote_code: bool = False,
        tokenizers: Path | None = None,
        weights: bool = True,
    ) -> None:
        self.weights = weights
        self.tokenizers = tokenizers
        self.sample = sample
        self.offline = offline
        self.remote_code = remote_code
        self.notes: list[str] = []

    def decoder(self, part: DecoderConfig) -> tuple[Any, Any]:
        """Load or build a causal language model and its tokenizer."""
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

        where = "model.decoder"
        folder = self.folder(part, where)
        tokenizer = self.tokenizer(part.tokenizer, folder, where, "decoder")
        config = self.config(part, folder, where, tokenizer)
        config_class = type(config)
        # BERT-like models also have a causal head; they are encoders unless their config sets is_decoder.
        is_encoder = config_class in AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", False)
        if config.model_type == "metalm":
            raise MetalmError(
                "a finished MetaLM cannot be the decoder of another",
                where=f"{where}.checkpoint: {folder}",
                remedy="continue the model with model.checkpoint (or --model)",
            )
        if config.is_encoder_decoder:
            raise MetalmError(
                f"a {config.model_type} model is an encoder–decoder, not a decoder",
                where=where,
                remedy="set it as model.seq2seq.checkpoint (or model.seq2seq.config) instead of model.decoder, or name "
                "it with --model",
            )
        if is_encoder or not self._has_model_class(AutoModelForCausalLM, config):
            raise MetalmError(
                f"a {config.model_type} model is not a causal language model",
                where=where,
                remedy="set a decoder (GPT-2, Llama, OPT, ...); encoders belong under model.encoders",
            )
        attention = {} if part.attention == "auto" else {"attn_implementation": part.attention}
        return self.build(AutoModelForCausalLM, config, folder, where, attention), tokenizer

    def seq2seq(self, part: Seq2SeqConfig) -> tuple[Any, Any]:
        """Load or build an encoder–decoder and its tokenizer."""
        from transformers import AutoModelForSeq2SeqLM

        where = "model.seq2seq"
        folder = self.folder(part, where)
        tokenizer = self.tokenizer(part.tokenizer, folder, where, "seq2seq")
        config = self.config(part, folder, where, tokenizer)
        if not config.is_encoder_decoder or not self._has_model_class(AutoModelForSeq2SeqLM, config):
            raise MetalmError(
                f"a {config.model_type} model is not an encoder–decoder of texts",
                where=where,
                remedy="set an encoder–decoder (T5, mT5, BART, ...); a decoder belongs under model.decoder, an encoder "
                "under model.encoders",
            )
        if folder is None and "decoder_start_token_id" not in (part.config or {}):
            config.decoder_start_token_id = (
                tokenizer.pad_token_id
            )  # as T5; BART's default is an id of its own tokenizer
        attention = {} if part.attention == "auto" else {"attn_implementation": part.attention}
        model = self.build(AutoModelForSeq2SeqLM, config, folder, where, attention)
        if folder is None:
            model.generation_config.decoder_start_token_id = config.decoder_start_token_id
            model.generation_config.forced_eos_token_id = None
        return model, tokenizer

    def _has_model_class(self, auto: Any, config: Any) -> bool:
        """Return whether an Auto class, or the checkpoint's own code if it may run, has a model for a config."""
        has_own_code = self.remote_code and auto.__name__ in (getattr(config, "auto_map", None) or {})
        return has_own_code or type(config) in auto._model_mapping

    def encoder(self, name: str, part: EncoderConfig, decoder_tokenizer: Any) -> tuple[Any, Any]:
        """Load or build an encoder, and its tokenizer or the folder that holds its image processor."""
        where = f"model.encoders.{name}"
        folder = self.folder(part, where)
        config, source = self.encoder_config(part, folder, where, decoder_tokenizer)
        check_layer(part.layer, config, where)
        encoder_io = encoder_io_for(config, part.adapter, part.layer)
        auto = encoder_io.load_class(config)
        if not self._has_model_class(auto, config):
            raise MetalmError(
                f"a {config.model_type} model has no encoder that can be docked",
                where=where,
                remedy="set a text encoder (BERT, RoBERTa, ELECTRA, ...) or a vision transformer",
            )
        known = type(config) in auto._model_mapping
        extra = without_pooler(auto._model_mapping[type(config)]) if known else {}
        check_image_size(encoder_io, config, part.image_size, where)
        encoder = self.build(auto, config, folder, where, extra)
        if not hasattr(encoder_io, "image_size"):
            return encoder, source
        fitted = fit_resolution(
            encoder, encoder_io, folder, part.image_size, lambda each: self.build(auto, each, None, where, extra), where
        )
        self.notes += fitted.notes
        if encoder_io.kind != "fused":
            return fitted.encoder, fitted.processor
        tokenizer = self._own_tokenizer(part, folder, where, decoder_tokenizer)
        return fitted.encoder, (tokenizer, fitted.processor)

    def encoder_config(
        self, part: EncoderConfig, folder: Path | None, where: str, decoder_tokenizer: Any
    ) -> tuple[Any, Any]:
        """Load an encoder's config, and its tokenizer or the folder that holds its image processor."""
        config = self.config(part, folder, where, None)
        encoder_io = encoder_io_for(config, part.adapter)
        if encoder_io.kind != "text":
            reads_size = folder is not None or hasattr(encoder_io, "image_size")
            return config, folder if reads_size else default_image_processor(*height_and_width(config.image_size))
        if part.adapter is None and hasattr(config, "num_channels") and not hasattr(config, "vocab_size"):
            raise MetalmError(
                f"a {config.model_type} model reads images, but gives no vectors of patches",
                where=where,
                remedy="set a vision transformer (ViT, DeiT, BEiT, DINOv2, CLIP, SigLIP, ...)",
            )
        tokenizer = self._own_tokenizer(part, folder, where, decoder_tokenizer)
        return self.config(part, folder, where, tokenizer), tokenizer

    def _own_tokenizer(self, part: EncoderConfig, folder: Path | None, where: str, decoder_tokenizer: Any) -> Any:
        if part.tokenizer == "same":
            return decoder_tokenizer
        return self.tokenizer(part.tokenizer, folder, where, "encoder")

    def folder(self, part: DecoderConfig | EncoderConfig | Seq2SeqConfig, where: str) -> Path | None:
        """Find the folder of a part's checkpoint; None for a part that is built from a config."""
        if part.checkpoint is None:
            return None
        checkpoint = find_checkpoint(
            part.checkpoint,
            revision=part.revision,
            offline=self.offline,
            weights=self.weights,
            code=self.remote_code,
        )
        if checkpoint.origin.place != "folder":
            self.notes.append(f"{where}: {checkpoint}")
        return checkpoint.folder

    def tokenizer(self, choice: str | NewTokenizer | None, folder: Path | None, where: str, role: str) -> Any:
        """Load or train the tokenizer that a recipe sets for a part."""
        if isinstance(choice, NewTokenizer):
            trained = None if self.tokenizers is None else self.tokenizers.joinpath(*where.split(".")[1:])
            if trained is not None and trained.is_dir():
                return load_tokenizer(trained)
            options = choice.new
            return train_tokenizer(self.sample(options.documents), options.vocab_size, role)
        if choice is not None:
            return load_tokenizer(model_folder(choice, offline=self.offline, weights=False), self.remote_code)
        if folder is None:
            raise MetalmError(
                "a model built from a config needs a tokenizer",
                where=f"{where}.tokenizer",
                remedy="set a tokenizer, or train a new one: tokenizer: {new: {vocab_size: 8192}}",
            )
        return load_tokenizer(folder, self.remote_code)

    def config(
        self, part: DecoderConfig | EncoderConfig | Seq2SeqConfig, folder: Path | None, where: str, tokenizer: Any
    ) -> Any:
        """Load or build a part's config, with the recipe's dropout; a new config has the tokenizer's size and ids."""
        from transformers import AutoConfig

        if folder is not None:
            config = self._checkpoint_config(folder, where)
        else:
            fields = copy.deepcopy(part.config or {})
            kind = fields.pop("model_type", None)
            notes = check_config_fields(kind, fields, f"{where}.config")
            self.notes += [note for note in notes if note not in self.notes]
            if tokenizer is not None:
                fields = {**_tokenizer_fields(tokenizer), **fields}
            with _config_errors(where):
                config = reset_implementations(AutoConfig.for_model(kind, **fields))
        if isinstance(part, EncoderConfig):
            config = self._tower(config, part.adapter, where)
        if part.dropout is not None:
            set_dropout(config, part.dropout)
        return config

    def _tower(self, config: Any, adapter: str | None, where: str) -> Any:
        """Return the config of the docked tower of a two-tower checkpoint, and note which it is."""
        tower = tower_config(config, adapter, where)
        if tower is not config:
            note = tower_note(config, tower, where)
            self.notes += [note] if note not in self.notes else []
        return tower

    def _checkpoint_config(self, folder: Path, where: str) -> Any:
        remedy = "use a folder with config.json and safetensors weights"
        what = "a checkpoint folder holds no model that transformers knows"
        with loading_errors(what, f"{where}.checkpoint: {folder}", remedy), no_connections(not self.remote_code):
            return load_config(folder, self.remote_code)

    def build(
        self, auto: Any, config: Any, folder: Path | None, where: str, extra: dict[str, Any], new_head: bool = False
    ) -> Any:
        """Build a model from a config, or load it from a checkpoint that holds all of its weights.

        Args:
            auto: Auto class.
            config: The model's config.
            folder: Folder of the checkpoint, or None.
            where: Key of the part.
            extra: Further arguments of the Auto class.
            new_head: The head may be missing from the checkpoint, or belong to another objective, and is then newly
                initialised.

        Raises:
            MetalmError: The config is invalid; or the checkpoint is damaged, of another shape, or incomplete.
        """
        if folder is None:
            trust = {"trust_remote_code": self.remote_code}
            with _config_errors(where):
                return auto.from_config(config, dtype=torch.float32, **trust, **extra)
        remedy = "check that it is complete and holds safetensors weights of this kind of model"
        errors = loading_errors("a checkpoint cannot be loaded", f"{where}.checkpoint: {folder}", remedy)
        with errors, no_connections(not self.remote_code):
            model, info = auto.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=self.remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=new_head,
                **extra,
            )
        base = f"{model.base_model_prefix}." if new_head else ""
        unfilled = [*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])]
        check_no_missing_weights((key for key in unfilled if key.startswith(base)), f"{where}.checkpoint: {folder}")
        check_finite(model.state_dict().items(), f"{where}.checkpoint: {folder}")
        return model


def check_no_missing_weights(missing: Iterable[str], where: str) -> None:
    """Check that a checkpoint has all weights: missing ones would be random.

    Raises:
        MetalmError: Weights are missing.
    """
    names = sorted(missing)
    if names:
        raise MetalmError(
            f"a checkpoint lacks {len(names)} of its model's weights",
            where=where,
            why=f"missing: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}",
            remedy="check that it is complete, and that it holds this kind of model",
        )


def _config_errors(where: str) -> AbstractContextManager[None]:
    """Return a context manager for building a config or a model, whose failures depend on the family."""
    remedy = "set a model_type that transformers knows, and valid fields of its config"
    return loading_errors("a model cannot be built from the config", f"{where}.config", remedy)


def _tokenizer_fields(tokenizer: Any) -> dict[str, int]:
    """Return vocabulary size and special token ids; ``cls`` and ``sep`` replace a missing ``bos`` and ``eos``."""
    ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "cls", "sep")}
    ids["bos"] = ids["cls"] if ids["bos"] is None else ids["bos"]
    ids["eos"] = ids["sep"] if ids["eos"] is None else ids["eos"]
    return {
        "vocab_size": len(tokenizer),
        **{f"{name}_token_id": token_id for name, token_id in ids.items() if token_id is not None},
    }


def set_dropout(config: Any, rate: float) -> None:
    """Set every dropout rate of a config."""
    for name, value in vars(config).items():
        if (
            any(mark in name for mark in DROPOUT_MARKS)
            and isinstance(value, int | float)
            and not isinstance(value, bool)
        ):
            setattr(config, name, rate)
