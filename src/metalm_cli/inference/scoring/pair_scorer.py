"""Option scoring with an encoder–decoder: the encoder reads each context once, for all options of its question.

Equal contexts of several questions are read once while the cache of outputs has room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalm_cli.errors import MetalmError
from metalm_cli.inference.scoring.option_scorer import Scorer, identity, target_log_probs
from metalm_cli.inference.scoring.question_rows import OptionQuestion, ScoringRow
from metalm_cli.models.families.seq2seq_model import Seq2SeqModel
from metalm_cli.sessions import PackedTokens, PairFormat, TokenisedSession, build_row, collate

MAX_CACHED_POSITIONS = 1 << 16
"""Encoder positions of cached outputs."""


@dataclass
class PairScorer(Scorer):
    """Option scorer of an encoder–decoder.

    A row is the target of one option, or of several options that differ only in their last token.

    Attributes:
        encoded: Number of contexts that the encoder has read.
    """

    encoded: int = 0
    _outputs: OrderedDict[bytes, Tensor] = field(default_factory=OrderedDict, repr=False)
    _contexts: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.set_limits()

    @property
    def format(self) -> PairFormat:
        return self.language_model.decoder_tokenizer.format  # type: ignore[attr-defined]

    def pack(
        self, question: OptionQuestion, first_option: int, shared_prefixes: dict[str, TokenisedSession]
    ) -> Iterator[ScoringRow]:
        """Make the rows of a question.

        Raises:
            MetalmError: The question exceeds the positions of the model.
        """
        context = question.prefix.ids
        if question.shared_prefix is not None:
            context = np.concatenate([question.shared_prefix.ids, context])
        source = self.format.source(context)
        key = source.tobytes().hex()
        heads: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for index, option in enumerate(question.options):
            if len(option):
                heads.setdefault(tuple(option[:-1].tolist()), []).append((first_option + index, option))
        prefix = self.format.target_prefix
        longest = max([len(source), *(len(prefix) + len(head) for head in heads)])
        limit = self.language_model.model.max_positions
        if limit is not None and longest > limit:
            raise MetalmError(
                f"{question.name or question.prefix.name or 'a question'} takes {longest} positions, "
                f"the model has {limit}",
                remedy="shorten the question, use fewer demonstrations, or use a model with more positions",
            )
        if heads:
            self._contexts[key] = source
        for head, options in heads.items():
            ids = np.array([*prefix, *head], dtype=np.int64)
            predict = len(prefix) - 1 + np.arange(len(head) + 1)
            yield ScoringRow(
                build_row([TokenisedSession(ids, np.zeros(len(ids), dtype=bool))]),
                np.concatenate([predict] * len(options)),
                np.concatenate([option for _, option in options]),
                np.concatenate([np.full(len(option), number) for number, option in options]),
                key,
                len(ids),
            )

    def batches(self, scoring_rows: Sequence[ScoringRow]) -> Iterator[list[ScoringRow]]:
        """Group rows into batches, those with the longest contexts first. The budget may change meanwhile."""

        def length(row: ScoringRow) -> int:
            return len(self._contexts[row.shared_prefix_key or ""])

        pending = sorted(scoring_rows, key=lambda row: (-length(row), row.shared_prefix_key or "", -len(row.row)))[::-1]
        while pending:
            batch = [pending.pop()]
            longest = length(batch[0]) + len(batch[0].row)
            while pending:
                longest = max(longest, length(batch[0]) + len(pending[-1].row))
                if longest * (len(batch) + 1) > self._position_limit:
                    break
                batch.append(pending.pop())
            yield batch
        self._contexts.clear()

    def forward(
        self, batch: list[ScoringRow], shared_prefixes: dict[str, TokenisedSession]
    ) -> tuple[np.ndarray, np.ndarray]:
        model: Seq2SeqModel = self.language_model.model
        keys = list(dict.fromkeys(row.shared_prefix_key or "" for row in batch))
        sources = self._collate([_session(self._contexts[key]) for key in keys])
        encoded = self._encode(sources)
        chosen = torch.tensor([keys.index(row.shared_prefix_key or "") for row in batch], device=encoded.device)
        targets = self._collate([row.row for row in batch])
        width = targets.input_ids.shape[1]
        self.positions += sum(len(row.row) for row in batch)
        self.padding += len(batch) * width - sum(len(row.row) for row in batch)
        flat_positions = np.concatenate([row.predict + index * width for index, row in enumerate(batch)])
        distinct, inverse = np.unique(flat_positions, return_inverse=True)
        self.projected += len(distinct)
        chosen_sources = replace(sources, input_ids=sources.input_ids[chosen], segment_ids=sources.segment_ids[chosen])
        outputs = model.decode(targets, chosen_sources, encoded[chosen]).flatten(0, 1)
        project: Callable[[Tensor], Tensor] = model.head().logits if model.traits.has_known_head else identity
        vocabulary = model.seq2seq.config.vocab_size
        hidden = outputs[torch.from_numpy(distinct).to(outputs.device)]
        return target_log_probs(hidden, project, vocabulary, inverse, np.concatenate([row.targets for row in batch]))

    def _collate(self, rows: Sequence[Any]) -> PackedTokens:
        built = [build_row([row]) if isinstance(row, TokenisedSession) else row for row in rows]
        return (
            collate(built, {}, pad_id=self.language_model.decoder_tokenizer.pad_id)
            .to(self.language_model.device)
            .decoder
        )

    def _encode(self, sources: PackedTokens) -> Tensor:
        """Return the encoder's outputs of sources, ``[b, s, h]``; those it has read before come from the cache."""
        lengths = (sources.segment_ids >= 0).sum(1).tolist()
        keys = [ids[:length].cpu().numpy().tobytes() for ids, length in zip(sources.input_ids, lengths, strict=True)]
        missing = [index for index, key in enumerate(keys) if key not in self._outputs]
        known = {key: self._outputs[key] for key in keys if key in self._outputs}
        if missing:
            width = max(lengths[index] for index in missing)
            part = replace(
                sources,
                input_ids=sources.input_ids[missing, :width],
                segment_ids=sources.segment_ids[missing, :width],
            )
            outputs = self.language_model.model.encode(part)
            self.encoded += len(missing)
            self.positions += sum(lengths[index] for index in missing)
            for index, output in zip(missing, outputs, strict=True):
                known[keys[index]] = self._outputs[keys[index]] = output[: lengths[index]].clone()
        stacked = [
            torch.nn.functional.pad(known[key], (0, 0, 0, sources.input_ids.shape[1] - length))
            for key, length in zip(keys, lengths, strict=True)
        ]
        while sum(map(len, self._outputs.values())) > MAX_CACHED_POSITIONS:
            self._outputs.popitem(last=False)
        return torch.stack(stacked)


def _session(ids: np.ndarray) -> TokenisedSession:
    return TokenisedSession(ids, np.zeros(len(ids), dtype=bool))
