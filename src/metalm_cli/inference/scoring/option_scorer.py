"""Log-probabilities of the options of many questions, with nothing computed twice.

A question is read once, and its options hang under it as children in the same row (a segment forest): each sees the
question and itself. What many questions have in front, frozen demonstrations, is read once and kept in a cache. Each
docked content is encoded once. Only positions that predict an option's token are projected to the vocabulary, each
once. The last token of an option is predicted and never read.

Cost in decoder positions, with a question of c tokens and options of o: ``c + sum(o - 1)`` instead of ``sum(c + o)``.
The plain way, :meth:`~metalm_cli.inference.language_model.Interface.log_likelihood`, is the reference it must equal.
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
from metalm_cli.inference.scoring.kv_cache import expand_cache, measure_cache_reuse, to_device
from metalm_cli.inference.scoring.question_rows import OptionQuestion, ScoringRow, pack_questions
from metalm_cli.models.decoders import full_logits, head_of, hidden_states
from metalm_cli.models.loss import chunk_elements
from metalm_cli.sessions import TokenisedSession, build_row, collate
from metalm_cli.sessions.processors import DockInput

CPU_BUDGET = 2048
"""Decoder positions of a forward pass on a CPU, padding included: larger ones are no faster there."""
CPU_PADDING = 24
"""Padded positions of a forward pass on a CPU: one pass more costs about as much. Measured with GPT-2 small, whose pass
costs 12 positions on one core, to read its weights, beside the positions themselves."""
FIRST_BUDGET = 8192
"""... of the first one on a GPU, by whose memory the others are measured."""
MOST_BUDGET = 1 << 18
USED = 0.7
"""Share of the free memory that a forward pass may take."""


@dataclass(frozen=True)
class OptionScores:
    """Scores of a question's options.

    Args:
        log_likelihood: Log-probability of each option after the question, in nats. ``[o]`` float64.
        tokens: Tokens of each. ``[o]`` int64.
        greedy: Whether each of its tokens is the likeliest one there. ``[o]`` bool.
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
    watch: Callable[[list[int], list[OptionScores]], None] = lambda numbers, scores: None,
) -> list[OptionScores]:
    """Score the options of questions.

    Args:
        language_model: The model, in evaluation mode.
        questions: What to score, in any order.
        budget: Decoder positions of a forward pass, padding included; None: a CPU's best, or what a GPU holds.
        share: Read what options or questions have in common once; else every option in a row of its own.
        watch: Told the questions that are done, by number, after every forward pass.

    Returns:
        Scores of each question, in the order given; equal whatever the budget, the order or ``share``.

    Raises:
        MetalmError: A question has nothing to read, or does not fit the decoder's positions, or memory.
    """
    return Scorer(language_model, budget, share).score(questions, watch)


@dataclass
class Scorer:
    """Scores questions, and keeps encoded contents and read demonstrations from call to call.

    Args: as :func:`metric_value`.

    Attributes:
        positions: Decoder positions read, padding left out.
        padding: Padded positions.
        projected: Positions projected to the vocabulary.
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
        self.share = self.share and model.traits.packs
        self._cached = self.share and measure_cache_reuse(model.decoder)
        self._cuda = self.language_model.device.type == "cuda"
        self._limit = self.budget or (FIRST_BUDGET if self._cuda else CPU_BUDGET)
        self._known = self.budget is not None or not self._cuda
        self.docks = DockCache(self.language_model, self._limit)

    @torch.no_grad()
    def score(
        self,
        questions: Sequence[OptionQuestion],
        watch: Callable[[list[int], list[OptionScores]], None] = lambda numbers, scores: None,
    ) -> list[OptionScores]:
        """As the function :func:`metric_value`."""
        starts = np.cumsum([0, *(len(one.options) for one in questions)])
        total = int(starts[-1])
        sums, greedy = np.zeros(total), np.ones(total, dtype=bool)
        sizes = np.array([len(option) for one in questions for option in one.options], dtype=np.int64)
        fronts: dict[str, TokenisedSession] = {}
        most = self.language_model.model.positions
        items = [
            item
            for at, one in enumerate(questions)
            for item in pack_questions(one, int(starts[at]), fronts, most, share=self.share, cached=self._cached)
        ]
        owner = np.repeat(np.arange(len(questions)), np.diff(starts))
        left = np.bincount(
            np.concatenate([owner[np.unique(item.owners)] for item in items]) if items else [], minlength=len(questions)
        )

        def result(number: int) -> OptionScores:
            part = slice(starts[number], starts[number + 1])
            return OptionScores(sums[part].copy(), sizes[part], greedy[part].copy())

        for batch in self._batches(items):
            self._run(batch, fronts, sums, greedy)
            done = np.concatenate([owner[np.unique(item.owners)] for item in batch])
            np.subtract.at(left, done, 1)
            finished = [int(one) for one in np.unique(done) if left[one] == 0]
            watch(finished, [result(one) for one in finished])
        return [result(number) for number in range(len(questions))]

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _batches(self, items: Sequence[ScoringRow]) -> Iterator[list[ScoringRow]]:
        """Rows that are read together, with the same front, the longest first; the budget may change in between."""
        waiting = sorted(items, key=lambda one: (one.before or "", -len(one.row)))[::-1]
        while waiting:
            batch = [waiting.pop()]
            longest, padding = len(batch[0].row), 0
            while waiting and waiting[-1].before == batch[0].before:
                padding += longest - len(waiting[-1].row)
                if longest * (len(batch) + 1) > self._limit or (padding > CPU_PADDING and not self._cuda):
                    break
                batch.append(waiting.pop())
            yield batch

    # -- forward passes -----------------------------------------------------------------------------------------------

    def _run(
        self, batch: list[ScoringRow], fronts: dict[str, TokenisedSession], sums: np.ndarray, greedy: np.ndarray
    ) -> None:
        """Score a batch; in halves where memory does not suffice."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        try:
            found = self._forward(batch, fronts)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise MetalmError(
                    f"memory does not hold a question of {batch[0].length:,} positions, alone in its batch",
                    remedy="shorten it, give fewer demonstrations, or use a larger device",
                    exit_code=Exit.FAILED,
                ) from error
            found = None
        if found is None:  # outside the handler, which keeps the failed pass's tensors
            torch.cuda.empty_cache()
            self._limit, self._known = max(1, self._limit // 2), True
            half = len(batch) // 2
            self._run(batch[:half], fronts, sums, greedy)
            self._run(batch[half:], fronts, sums, greedy)
            return
        if not self._known:
            used = torch.cuda.max_memory_allocated() - held
            read = len(batch) * max(len(item.row) for item in batch)
            room = USED * (torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
            self._limit = int(min(MOST_BUDGET, max(read, room * read / max(used, 1))))
            self._known = True
        owners = np.concatenate([item.owners for item in batch])
        values, right = found
        np.add.at(sums, owners, values)
        np.logical_and.at(greedy, owners, right)

    def _forward(self, batch: list[ScoringRow], fronts: dict[str, TokenisedSession]) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of each target of a batch, and whether it is the likeliest token. ``[m]``"""
        model, device = self.language_model.model, self.language_model.device
        rows = [replace(item.row, docks=()) for item in batch]
        stream = collate(rows, {}, pad_id=self.language_model.decoder_tokenizer.pad_id).decoder
        size = stream.input_ids.shape[1]
        self.positions += sum(map(len, rows))
        self.padding += len(rows) * size - sum(map(len, rows))
        front = batch[0].before
        begins = 0 if front is None else len(fronts[front])
        # Padding goes on counting, in a forest beyond what a table of positions may hold.
        last = max(item.length for item in batch) - 1
        stream = to_device(stream, device, stream.position_ids.add(begins).clamp(max=max(last, begins)))
        places = [(at * size + begin, dock) for at, item in enumerate(batch) for begin, dock in item.row.docks]
        embeds = self._embed(stream.input_ids, places)
        cache = None if front is None else expand_cache(self._front(front, fronts[front]), len(batch))

        flat = np.concatenate([item.predict + at * size for at, item in enumerate(batch)])
        targets = np.concatenate([item.targets for item in batch])
        distinct, inverse = np.unique(flat, return_inverse=True)
        self.projected += len(distinct)
        chosen = torch.from_numpy(distinct).to(device)
        if model.traits.own_head:
            hidden = hidden_states(model.decoder, embeds, stream, cache).flatten(0, 1)[chosen]
            project: Callable[[Tensor], Tensor] = head_of(model.decoder).logits
        else:
            hidden = full_logits(model.decoder, embeds, stream, cache).flatten(0, 1)[chosen]
            project = _as_it_is
        return _gathered(hidden, project, model.decoder.config.vocab_size, inverse, targets)

    def _embed(self, input_ids: Tensor, places: Sequence[tuple[int, DockInput]]) -> Tensor:
        """Input vectors, with each dock's at its place: ``[b, s, d]``."""
        embeds = self.language_model.model.embed(input_ids)
        if not places:
            return embeds
        vectors = torch.cat(self.docks.vectors([dock for _, dock in places]))
        at = np.concatenate([place + np.arange(dock.positions) for place, dock in places])
        flat = embeds.flatten(0, 1).index_copy(0, torch.from_numpy(at).to(embeds.device), vectors.to(embeds.dtype))
        return flat.view_as(embeds)

    def _front(self, key: str, session: TokenisedSession) -> Any:
        """Keys and values of what stands in front; the newest are kept."""
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


def _gathered(
    hidden: Tensor, project: Callable[[Tensor], Tensor], vocabulary: int, inverse: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of targets, in chunks of rows.

    Args:
        hidden: Of each position that predicts. ``[u, h]``
        project: Makes logits of them.
        vocabulary: Size of the vocabulary.
        inverse: Row of ``hidden`` that predicts each target. ``[m]``
        targets: ``[m]``
    """
    order = np.argsort(inverse, kind="stable")
    rows, wanted = torch.from_numpy(inverse[order]), torch.from_numpy(targets[order])
    step = max(1, chunk_elements(hidden.is_cuda) // vocabulary)
    pieces = []
    for begin in range(0, len(hidden), step):
        logits = project(hidden[begin : begin + step]).float()
        low, high = np.searchsorted(inverse[order], [begin, begin + step])
        at = (rows[low:high] - begin).to(hidden.device)
        token = wanted[low:high].to(hidden.device)
        likely = logits[at, token] - logits.logsumexp(-1)[at]
        pieces.append(torch.stack([likely.double(), (logits.argmax(-1)[at] == token).double()]))
    both = torch.cat(pieces, 1).cpu().numpy()  # the one wait for the device in a batch
    found = np.empty_like(both)
    found[:, order] = both
    return found[0], found[1] > 0.5


def _as_it_is(logits: Tensor) -> Tensor:
    return logits
