"""Option scoring: log-probabilities of the options of many questions, without repeated computation.

A question is read once, and its options are its children in the same row (a segment forest): each option attends to
the question and to itself. A prefix shared by many questions, such as frozen demonstrations, is read once and cached.
Each docked content is encoded once. Only positions that predict an option's token are projected to the vocabulary, each
once. The last token of an option is predicted, but never read.

Cost in decoder positions, for a question of c tokens and options of o tokens: ``c + sum(o - 1)`` instead of
``sum(c + o)``. The scores must equal those of the reference implementation,
:meth:`~metalm_cli.inference.language_model.LanguageModel.log_likelihood`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring.dock_cache import DockCache
from metalm_cli.inference.scoring.question_rows import OptionQuestion, ScoringRow, pack_question
from metalm_cli.models.capabilities import measure_cache_reuse
from metalm_cli.models.decoders import expand_cache, full_logits, head_of, hidden_states
from metalm_cli.models.loss import chunk_elements
from metalm_cli.sessions import TokenisedSession, build_row, collate
from metalm_cli.sessions.processors import DockInput

CPU_BUDGET = 2048
"""Decoder positions of a forward pass on a CPU, padding included: larger batches are not faster there."""
CPU_PADDING = 24
"""Padded positions of a forward pass on a CPU: another pass costs about as much. Measured with GPT-2 small, where
reading the weights costs as much as 12 positions in each pass on one core."""
FIRST_BUDGET = 8192
"""Decoder positions of the first forward pass on a GPU; its memory determines the size of the others."""
MAX_BUDGET = 1 << 18
MEMORY_SHARE = 0.7
"""Share of the free memory that a forward pass may use."""


@dataclass(frozen=True)
class OptionScores:
    """Scores of a question's options.

    Args:
        log_likelihood: Log-probability of each option after the question, in nats. ``[o]`` float64.
        tokens: Number of tokens of each option. ``[o]`` int64.
        greedy: Whether greedy decoding would generate the option. ``[o]`` bool.
    """

    log_likelihood: np.ndarray
    tokens: np.ndarray
    greedy: np.ndarray


@torch.no_grad()
def score(
    language_model: LanguageModel,
    questions: Sequence[OptionQuestion],
    *,
    budget: int | None = None,
    share: bool = True,
    on_scored: Callable[[list[int], list[OptionScores]], None] = lambda numbers, scores: None,
) -> list[OptionScores]:
    """Score the options of questions.

    Args:
        language_model: The model, in evaluation mode.
        questions: The questions, in any order.
        budget: Decoder positions of a forward pass, padding included; None: the best for a CPU, or the memory of a
            GPU.
        share: Read common prefixes of options and questions once; else each option has a row of its own.
        on_scored: Called after each forward pass with the indices and the scores of the finished questions.

    Returns:
        Scores of each question, in the order of ``questions``; they do not depend on the budget, the order or
        ``share``.

    Raises:
        MetalmError: A question has an empty prefix, or exceeds the decoder's positions or the memory.
    """
    return Scorer(language_model, budget, share).score(questions, on_scored)


@dataclass
class Scorer:
    """Option scorer that keeps its caches of docks and shared prefixes between calls.

    Args: as in :func:`score`.

    Attributes:
        positions: Number of decoder positions read, without padding.
        padding: Number of padded positions.
        projected: Number of positions projected to the vocabulary.
    """

    language_model: LanguageModel
    budget: int | None = None
    share: bool = True
    positions: int = 0
    padding: int = 0
    projected: int = 0
    _caches: OrderedDict[str, Any] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        model = self.language_model.model
        self.share = self.share and model.traits.supports_packing
        self._use_cache = self.share and measure_cache_reuse(model.decoder)
        self._max_positions, self._length_switch = model.max_positions, model.traits.length_switch
        self.set_limits()
        self.docks = DockCache(self.language_model, self._position_limit)

    def set_limits(self) -> None:
        """Set the budget of positions of a forward pass."""
        self._on_cuda = self.language_model.device.type == "cuda"
        self._position_limit = self.budget or (FIRST_BUDGET if self._on_cuda else CPU_BUDGET)
        self._limit_known = self.budget is not None or not self._on_cuda

    @torch.no_grad()
    def score(
        self,
        questions: Sequence[OptionQuestion],
        on_scored: Callable[[list[int], list[OptionScores]], None] = lambda numbers, scores: None,
    ) -> list[OptionScores]:
        """Score the options of questions, as the function :func:`score`."""
        starts = np.cumsum([0, *(len(question.options) for question in questions)])
        total = int(starts[-1])
        sums, greedy = np.zeros(total), np.ones(total, dtype=bool)
        sizes = np.array([len(option) for question in questions for option in question.options], dtype=np.int64)
        shared_prefixes: dict[str, TokenisedSession] = {}
        scoring_rows = [
            scoring_row
            for index, question in enumerate(questions)
            for scoring_row in self.pack(question, int(starts[index]), shared_prefixes)
        ]
        question_indices = np.repeat(np.arange(len(questions)), np.diff(starts))
        rows_left = np.bincount(
            np.concatenate([question_indices[np.unique(scoring_row.owners)] for scoring_row in scoring_rows])
            if scoring_rows
            else [],
            minlength=len(questions),
        )

        def scores_of(number: int) -> OptionScores:
            option_slice = slice(starts[number], starts[number + 1])
            return OptionScores(sums[option_slice].copy(), sizes[option_slice], greedy[option_slice].copy())

        for batch in self.batches(scoring_rows):
            self._score_batch(batch, shared_prefixes, sums, greedy)
            done = np.concatenate([question_indices[np.unique(scoring_row.owners)] for scoring_row in batch])
            np.subtract.at(rows_left, done, 1)
            finished = [int(number) for number in np.unique(done) if rows_left[number] == 0]
            on_scored(finished, [scores_of(number) for number in finished])
        return [scores_of(number) for number in range(len(questions))]

    def sums(self, rows: Sequence[ScoringRow], shared_prefixes: dict[str, TokenisedSession], count: int) -> np.ndarray:
        """Return the summed log-probability of the targets of each owner, ``[count]`` float64.

        Args:
            rows: The rows.
            shared_prefixes: Shared prefixes by cache key.
            count: Number of owners.
        """
        sums, greedy = np.zeros(count), np.ones(count, dtype=bool)
        for batch in self.batches(rows):
            self._score_batch(batch, shared_prefixes, sums, greedy)
        return sums

    def reuses_cache(self, length: int) -> bool:
        """Whether the rest of a session of this length is exact on the cache of its prefix."""
        return self._use_cache and (self._length_switch is None or length <= self._length_switch)

    def pack(
        self, question: OptionQuestion, first_option: int, shared_prefixes: dict[str, TokenisedSession]
    ) -> Iterator[ScoringRow]:
        """Make the rows of a question, as :func:`pack_question`."""
        return pack_question(
            question,
            first_option,
            shared_prefixes,
            self._max_positions,
            share=self.share,
            use_cache=self._use_cache,
            length_switch=self._length_switch,
        )

    # -- rows ---------------------------------------------------------------------------------------------------------

    def batches(self, scoring_rows: Sequence[ScoringRow]) -> Iterator[list[ScoringRow]]:
        """Group rows with the same shared prefix into batches, the longest first. The budget may change meanwhile."""
        pending = sorted(
            scoring_rows, key=lambda scoring_row: (scoring_row.shared_prefix_key or "", -len(scoring_row.row))
        )[::-1]
        while pending:
            batch = [pending.pop()]
            longest, padding = len(batch[0].row), 0
            while pending and pending[-1].shared_prefix_key == batch[0].shared_prefix_key:
                padding += longest - len(pending[-1].row)
                if longest * (len(batch) + 1) > self._position_limit or (padding > CPU_PADDING and not self._on_cuda):
                    break
                batch.append(pending.pop())
            yield batch

    # -- forward passes -----------------------------------------------------------------------------------------------

    def _score_batch(
        self,
        batch: list[ScoringRow],
        shared_prefixes: dict[str, TokenisedSession],
        sums: np.ndarray,
        greedy: np.ndarray,
    ) -> None:
        """Score a batch; it is halved if it exceeds the memory."""
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats()
            allocated = torch.cuda.memory_allocated()
        try:
            result = self.forward(batch, shared_prefixes)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise MetalmError(
                    f"out of memory: a question of {batch[0].length:,} positions, even as a batch of one",
                    remedy="shorten the question, use fewer demonstrations, or use a device with more memory",
                    exit_code=Exit.FAILED,
                ) from error
            result = None
        if result is None:  # outside the handler, which holds the tensors of the failed pass
            torch.cuda.empty_cache()
            self._position_limit, self._limit_known = max(1, self._position_limit // 2), True
            half = len(batch) // 2
            self._score_batch(batch[:half], shared_prefixes, sums, greedy)
            self._score_batch(batch[half:], shared_prefixes, sums, greedy)
            return
        if not self._limit_known:
            used = torch.cuda.max_memory_allocated() - allocated
            positions = len(batch) * max(len(scoring_row.row) for scoring_row in batch)
            usable_memory = MEMORY_SHARE * (
                torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            )
            self._position_limit = int(min(MAX_BUDGET, max(positions, usable_memory * positions / max(used, 1))))
            self._limit_known = True
        owners = np.concatenate([scoring_row.owners for scoring_row in batch])
        values, is_greedy = result
        np.add.at(sums, owners, values)
        np.logical_and.at(greedy, owners, is_greedy)

    def forward(
        self, batch: list[ScoringRow], shared_prefixes: dict[str, TokenisedSession]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-probability of each target of a batch, and whether it is the likeliest token. ``[m]``"""
        model, device = self.language_model.model, self.language_model.device
        rows = [replace(scoring_row.row, docks=()) for scoring_row in batch]
        packed = collate(rows, {}, pad_id=self.language_model.decoder_tokenizer.pad_id).to(device).decoder
        width = packed.input_ids.shape[1]
        self.positions += sum(map(len, rows))
        self.padding += len(rows) * width - sum(map(len, rows))
        prefix_key = batch[0].shared_prefix_key
        prefix_length = 0 if prefix_key is None else len(shared_prefixes[prefix_key])
        # Positions of padding keep increasing; in a forest they may exceed the position embeddings, hence the clamp.
        max_position = max(scoring_row.length for scoring_row in batch) - 1
        positions = packed.position_ids.add(prefix_length).clamp(max=max(max_position, prefix_length))
        packed = replace(packed, position_ids=positions)
        dock_positions = [
            (index * width + start, dock)
            for index, scoring_row in enumerate(batch)
            for start, dock in scoring_row.row.docks
        ]
        embeds = self._embed(packed.input_ids, dock_positions)
        cache = (
            None
            if prefix_key is None
            else expand_cache(self.prefix_cache(prefix_key, shared_prefixes[prefix_key]), len(batch))
        )

        flat_positions = np.concatenate(
            [scoring_row.predict + index * width for index, scoring_row in enumerate(batch)]
        )
        targets = np.concatenate([scoring_row.targets for scoring_row in batch])
        distinct, inverse = np.unique(flat_positions, return_inverse=True)
        self.projected += len(distinct)
        selected = torch.from_numpy(distinct).to(device)
        compute = hidden_states if model.traits.has_known_head else full_logits
        outputs = compute(model.decoder, embeds, packed, cache, length_switch=model.traits.length_switch)
        hidden = outputs.flatten(0, 1)[selected]
        if model.traits.has_known_head:
            project: Callable[[Tensor], Tensor] = head_of(model.decoder).logits
        else:
            project = identity
        return target_log_probs(hidden, project, model.decoder.config.vocab_size, inverse, targets)

    def _embed(self, input_ids: Tensor, dock_positions: Sequence[tuple[int, DockInput]]) -> Tensor:
        """Return the input vectors, with those of docks at their positions: ``[b, s, d]``."""
        embeds = self.language_model.model.embed(input_ids)
        if not dock_positions:
            return embeds
        vectors = torch.cat(self.docks.vectors([dock for _, dock in dock_positions]))
        positions = np.concatenate([start + np.arange(dock.positions) for start, dock in dock_positions])
        flat = embeds.flatten(0, 1).index_copy(
            0, torch.from_numpy(positions).to(embeds.device), vectors.to(embeds.dtype)
        )
        return flat.view_as(embeds)

    @torch.no_grad()
    def prefix_cache(self, key: str, session: TokenisedSession) -> Any:
        """Return the key-value cache of a shared prefix; the two newest are kept."""
        from transformers import DynamicCache

        if key not in self._caches:
            row = build_row([session])
            ids = torch.from_numpy(row.ids)[None].to(self.language_model.device)
            cache = DynamicCache()
            self.language_model.model.decoder.base_model(
                inputs_embeds=self._embed(ids, row.docks), past_key_values=cache, use_cache=True
            )
            self.positions += len(session)
            self._caches[key] = cache
            if len(self._caches) > 2:
                self._caches.popitem(last=False)
        return self._caches[key]


def target_log_probs(
    hidden: Tensor, project: Callable[[Tensor], Tensor], vocabulary: int, inverse: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-probabilities of targets and whether each is the likeliest token, computed in chunks of rows.

    Args:
        hidden: Hidden state or logits of each position that predicts. ``[u, h]``
        project: Function from ``hidden`` to logits.
        vocabulary: Size of the vocabulary.
        inverse: Row of ``hidden`` that predicts each target. ``[m]``
        targets: Token ids. ``[m]``
    """
    order = np.argsort(inverse, kind="stable")
    sorted_rows, sorted_targets = torch.from_numpy(inverse[order]), torch.from_numpy(targets[order])
    chunk_size = max(1, chunk_elements(hidden.is_cuda) // vocabulary)
    chunks = []
    for start in range(0, len(hidden), chunk_size):
        logits = project(hidden[start : start + chunk_size]).float()
        first, last = np.searchsorted(inverse[order], [start, start + chunk_size])
        chunk_rows = (sorted_rows[first:last] - start).to(hidden.device)
        chunk_targets = sorted_targets[first:last].to(hidden.device)
        log_probs = logits[chunk_rows, chunk_targets] - logits.logsumexp(-1)[chunk_rows]
        chunks.append(torch.stack([log_probs.double(), (logits.argmax(-1)[chunk_rows] == chunk_targets).double()]))
    sorted_results = torch.cat(chunks, 1).cpu().numpy()  # the only synchronisation with the device in a batch
    results = np.empty_like(sorted_results)
    results[:, order] = sorted_results
    return results[0], results[1] > 0.5


def identity(logits: Tensor) -> Tensor:
    return logits
