"""Encoder–decoder models (T5, mT5, BART, ...): each trained span is predicted from all text before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_checks.loading_errors import loading_errors
from metalm_cli.models.families.base import ModelParts
from metalm_cli.models.families.seq2seq_model import Seq2SeqModel
from metalm_cli.models.families.token_rules import generation_end_ids, token_rules
from metalm_cli.models.part_loader import PartLoader
from metalm_cli.sessions import DECODER, ENCODER, PairTokenizer, TokenRules
from metalm_cli.sessions.end_tokens import EndToken, end_token_ids


class EncoderDecoder:
    """Family of encoder–decoders; a session gives one pair of source and target for each trained span."""

    name = "encoder-decoder"
    streams = (ENCODER, DECODER)
    objectives = ("prefix",)
    generates = True
    auto_class = "AutoModelForSeq2SeqLM"

    def claims(self, model: ModelConfig, objective: str) -> bool:
        return model.builds_seq2seq

    def build(self, model: ModelConfig, objective: str, loader: PartLoader, seed: int) -> ModelParts:
        assert model.seq2seq is not None, "only recipes with this key build the family"
        where = "model.seq2seq"
        seq2seq, tokenizer = loader.seq2seq(model.seq2seq)
        with loading_errors("the encoder–decoder cannot be used", where, "use another checkpoint or config"):
            return _connect(seq2seq, tokenizer, token_rules(model, seq2seq.config), where)

    def wrap(
        self, model: Any, config: Any, tokenizer: Any, folder: Path, end_tokens: Sequence[EndToken] = ()
    ) -> ModelParts:
        saved = getattr(config, "metalm", None) or {}
        rules = TokenRules(**(saved.get("tokens") or {}))
        # Metalm trains a model to end with the document-end token only.
        end_ids = end_token_ids(tokenizer, end_tokens, model.get_input_embeddings().num_embeddings, str(folder))
        end_ids += [] if saved else generation_end_ids(model)
        return _connect(model, tokenizer, rules, str(folder), end_ids, saved.get("training"))

    def parts(self, built: Any) -> dict[str, nn.Module]:
        return {"seq2seq": built.model.seq2seq}

    def length_limit(self, built: Any) -> tuple[int | None, str]:
        """Return the longest session whose source has room for the special tokens around it."""
        positions, row_format = built.model.max_positions, built.tokenizer.format
        special_tokens = len(row_format.source_prefix) + len(row_format.source_suffix)
        limit = None if positions is None else positions - special_tokens
        return limit, built.model.seq2seq.config.model_type

    def tokenizers(self, built: Any) -> dict[str, Any]:
        return {"seq2seq": built.tokenizer.tokenizer}

    def save(self, folder: Path, built: Any) -> None:
        """Save a model as its own class of transformers."""
        model, tokenizer = built.model, built.tokenizer
        model.seq2seq.config.metalm = {"tokens": tokenizer.rules.to_dict(), "training": model.config.training}
        model.seq2seq.save_pretrained(folder)
        tokenizer.tokenizer.save_pretrained(folder)

    def notes(self, built: Any) -> list[str]:
        return built.model.traits.notes()


def _connect(
    seq2seq: Any,
    tokenizer: Any,
    rules: TokenRules,
    where: str,
    end_ids: list[int] | None = None,
    training: dict[str, Any] | None = None,
) -> ModelParts:
    """Join a model and its tokenizer.

    Raises:
        MetalmError: The model has no start token, its decoder is not causal, or padding changes its outputs.
    """
    model = Seq2SeqModel(seq2seq, rules.to_dict(), training).eval()
    start_id = model.start_id
    if start_id is None:
        raise MetalmError(
            "the encoder–decoder does not say with which token its decoder begins",
            where=where,
            why="config.json and generation_config.json have no decoder_start_token_id",
            remedy="add decoder_start_token_id to its config (T5: the pad token)",
        )
    if not (model.traits.causal and model.traits.supports_padding):
        reason = "padding changes its outputs" if model.traits.causal else "its decoder attends to later tokens"
        raise MetalmError(
            f"{type(seq2seq).__name__} cannot be trained on pairs",
            where=where,
            why=reason,
            remedy="use another encoder–decoder, such as T5, mT5 or BART",
        )
    pair_tokenizer = PairTokenizer(
        tokenizer,
        rules,
        decoder_start_id=start_id,
        embedding_rows=seq2seq.get_input_embeddings().num_embeddings,
        end_ids=end_ids or (),
        packs=model.traits.supports_packing,
    )
    return ModelParts(model, pair_tokenizer, {})
