"""Tiny language models, and a reference for their scores and texts, computed with Hugging Face modules.

The reference shares nothing with the package but the modules and the connector's matrices: it tokenises with the plain
Hugging Face tokenizers, runs each span through its encoder alone and each session through the decoder alone, with full
logits and no mask.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from transformers import ViTImageProcessorPil

from connector_reference import vectors_of_content
from metalm_cli.inference import LanguageModel
from metalm_cli.models.connectors import set_compression
from metalm_cli.models.images.encoder_io import VisionEncoderIO
from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, Span, TextProcessor, TokenRules
from model_families import make_decoder, make_encoder, make_metalm, noise_image
from tiny_models import tokenizer_of

TOKENIZER_KINDS = {"gpt2": "byte", "llama": "llama", "opt": "byte-bos", "gemma2": "metaspace"}
"""Tokenizer of each family."""
FAMILIES = tuple(TOKENIZER_KINDS)
PREFIX = "So"


@lru_cache(maxsize=16)
def _components(
    family: str,
    encoders: tuple[str, ...],
    connector: tuple[tuple[str, Any], ...],
    changes: tuple[tuple[str, Any], ...],
) -> Any:
    tokenizer, reader = tokenizer_of(TOKENIZER_KINDS[family]), tokenizer_of("wordpiece")
    encoder_modules = {}
    for name in encoders:
        encoder_modules[name] = (
            make_encoder("vit") if name == "vision" else make_encoder("bert", vocab_size=len(reader))
        )
    return (
        make_metalm(
            make_decoder(family, vocab_size=len(tokenizer), **dict(changes)),
            encoder_modules,
            connectors={name: dict(connector) for name in encoders} if connector else None,
        ),
        tokenizer,
        reader,
    )


def tiny_language_model(
    family: str = "gpt2",
    *encoders: str,
    rules: dict[str, str] | None = None,
    connector: dict[str, Any] | None = None,
    **changes: Any,
) -> LanguageModel:
    """Return a model with random weights and encoders ``text`` or ``vision``; each call returns the same weights."""
    model, tokenizer, encoder_tokenizer = _components(
        family, encoders, tuple((connector or {}).items()), tuple(changes.items())
    )
    processors: dict[str, Any] = {}
    for name in encoders:
        if name == "vision":
            images = ViTImageProcessorPil(size={"height": 8, "width": 8})
            processors[name] = VisionEncoderIO().processor(name, images, model.encoders[name], {})
        else:
            processors[name] = TextProcessor(name, encoder_tokenizer, 60)
        set_compression(processors[name], model.compressions[name], "model.connector")
    return LanguageModel(model, DecoderTokenizer(tokenizer, TokenRules(**(rules or {}))), processors)


def endless_language_model(family: str, *encoders: str, **changes: Any) -> LanguageModel:
    """Return a model with varied likeliest tokens (an untied head) that never generates a document end."""
    language_model = tiny_language_model(family, *encoders, tie_word_embeddings=False, **changes)
    head = language_model.model.decoder.get_output_embeddings()
    if not hasattr(head, "muted"):
        head.muted = language_model.decoder_tokenizer.document_end_id
        head.register_forward_hook(_mute_document_end)
    return language_model


def _mute_document_end(head: Any, _inputs: Any, logits: torch.Tensor) -> torch.Tensor:
    return logits.index_fill(-1, torch.tensor([head.muted]), -1e4)


def reciting_language_model(text: str, family: str = "gpt2", *encoders: str, **changes: Any) -> LanguageModel:
    """Return a model that generates ``text`` and a document end after every prompt; no token may occur twice in it."""
    tiny = tiny_language_model(family, *encoders, **changes)
    model, end_id = copy.deepcopy(tiny.model), tiny.decoder_tokenizer.document_end_id
    ids = [*tiny.decoder_tokenizer.encode_continuation(text), end_id]
    assert len(set(ids)) == len(ids), [tiny.decoder_tokenizer.tokenizer.decode([token]) for token in ids]
    next_token = dict(pairwise(ids))
    newest: list[int] = []  # the newest token of each sequence; empty while the prompt is read

    def remember(_decoder: Any, _inputs: Any, options: dict[str, Any]) -> None:
        input_ids = options.get("input_ids")
        newest[:] = input_ids[:, 0].tolist() if input_ids is not None and input_ids.shape[1] == 1 else []

    def recite(_head: Any, _inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        tokens = [next_token.get(token, end_id) for token in newest] or [ids[0]] * len(logits)
        logits = torch.full_like(logits, -1e4)
        logits[range(len(tokens)), -1, tokens] = 0.0
        return logits

    model.decoder.register_forward_pre_hook(remember, with_kwargs=True)
    model.decoder.get_output_embeddings().register_forward_hook(recite)
    return LanguageModel(model, tiny.decoder_tokenizer, tiny.processors)


class Reference:
    """Reference implementation: one session at a time, without batches or caches.

    Args:
        language_model: Model whose modules and Hugging Face tokenizers are used.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.model = language_model.model
        self.tokenizer = language_model.tokenizer
        self.processors = language_model.processors
        self.adds_start = self.tokenizer("x").input_ids[0] == self.tokenizer.bos_token_id

    def span_ids(self, span: Causal, is_continuation: bool) -> list[int]:
        """Return the tokens of a span; after other spans, as they are inside a longer text."""
        if not isinstance(span.content, str):
            ids = list(span.content)
        elif is_continuation:
            before = self.tokenizer(PREFIX, add_special_tokens=False).input_ids
            ids = self.tokenizer(PREFIX + span.content, add_special_tokens=False).input_ids
            assert ids[: len(before)] == before
            ids = ids[len(before) :]
        else:
            ids = self.tokenizer(span.content, add_special_tokens=False).input_ids
        return [*ids, self.tokenizer.eos_token_id] if span.end else ids

    def dock_vectors(self, span: Docked) -> torch.Tensor:
        """Return the vectors of a dock: ``[p, d]``."""
        encoder = self.model.encoders[span.encoder]
        if isinstance(span.content, str):
            encoded = self.processors[span.encoder].tokenizer(
                span.content, return_tensors="pt", return_special_tokens_mask=True
            )
            outputs = encoder(input_ids=encoded["input_ids"]).last_hidden_state[0]
            outputs = outputs[encoded["special_tokens_mask"][0] == 0]
        else:
            pixels = self.processors[span.encoder].processor(images=span.content, return_tensors="pt")["pixel_values"]
            outputs = encoder(pixel_values=pixels).last_hidden_state[0, 1:]
        record, connector = self.model.config.connectors[span.encoder], self.model.connectors[span.encoder]
        if record["kind"] != "linear":
            grid = None if isinstance(span.content, str) else (math.isqrt(len(outputs)),) * 2
            return vectors_of_content(connector, record, outputs, grid)
        (connector,) = connector
        return outputs @ connector.weight.T + connector.bias

    def inputs(self, spans: list[Span]) -> tuple[torch.Tensor, list[int], list[bool]]:
        """Return the input vectors ``[1, n, d]``, the token ids (-1 at docks) and which tokens are trained."""
        table = self.model.decoder.get_input_embeddings()
        first = spans[0]
        ids, trained, vectors = [], [], []
        if self.adds_start or (isinstance(first, Causal) and first.trained):
            ids, trained = [self.tokenizer.bos_token_id], [False]
            vectors = [table(torch.tensor(ids))]
        for index, span in enumerate(spans):
            if isinstance(span, Causal):
                new = self.span_ids(span, index > 0)
                vectors.append(table(torch.tensor(new, dtype=torch.long)))
                ids += new
                trained += [span.trained] * len(new)
            else:
                vectors.append(self.dock_vectors(span))
                ids += [-1] * len(vectors[-1])
                trained += [False] * len(vectors[-1])
        return torch.cat(vectors)[None], ids, trained

    @torch.no_grad()
    def score(self, spans: list[Span]) -> float:
        """Return the log-probability of the trained tokens, in nats."""
        vectors, ids, trained = self.inputs(spans)
        if min(ids) >= 0:  # without docks the decoder looks up the embeddings itself
            logits = self.model.decoder(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        else:
            logits = self.model.decoder(inputs_embeds=vectors, use_cache=False).logits[0]
        log_probs = logits.double().log_softmax(-1)
        return float(sum(log_probs[index - 1, ids[index]] for index in range(1, len(ids)) if trained[index]))

    @torch.no_grad()
    def logits(self, spans: list[Span], extra_tokens: tuple[int, ...] = ()) -> torch.Tensor:
        """Return the logits after a session and further tokens: ``[v]``."""
        vectors = self.inputs(spans)[0]
        if extra_tokens:
            vectors = torch.cat([vectors, self.model.decoder.get_input_embeddings()(torch.tensor([extra_tokens]))], 1)
        return self.model.decoder(inputs_embeds=vectors, use_cache=False).logits[0, -1]

    def greedy(self, spans: list[Span], count: int) -> list[int]:
        """Generate greedily, recomputing everything for each token."""
        ids: list[int] = []
        while len(ids) < count:
            ids.append(int(self.logits(spans, tuple(ids)).argmax()))
        return ids

    def beams(self, spans: list[Span], count: int, width: int) -> list[int]:
        """Return the likeliest sequence of a beam search."""
        beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for _ in range(count):
            candidates = []
            for score, ids in beams:
                log_probs = self.logits(spans, ids).double().log_softmax(-1)
                values, tokens = log_probs.topk(width)
                candidates += [
                    (score + value, (*ids, token))
                    for value, token in zip(values.tolist(), tokens.tolist(), strict=True)
                ]
            beams = sorted(candidates, reverse=True)[:width]
        return list(beams[0][1])


DOCK_TEXT = "A fox can hide well in the forest, and foxes have four legs."
TEXT_SPANS: dict[str, list[Span]] = {
    "a trained beginning": [Causal("The girl had a red ball", trained=True)],
    "an untrained beginning": [Causal("Once upon a time"), Causal(" there was a dog.", trained=True, end=True)],
    "several answers": [
        Causal("She had"),
        Causal(" a red ball,", trained=True),
        Causal(" and a dog, and"),
        Causal(" it barked", trained=True, end=True),
        Causal(" twice"),
        Causal("", trained=True, end=True),
    ],
}
DOCKED_SPANS: dict[str, list[Span]] = {
    "a dock and an answer": [Docked("text", DOCK_TEXT), Causal(" yes", trained=True, end=True)],
    "docks between": [
        Causal("She said:"),
        Docked("text", "It rained."),
        Causal(" mid"),
        Docked("text", DOCK_TEXT),
        Docked("text", "It rained."),
        Causal(" the dog", trained=True),
        Causal(" and"),
        Docked("text", "Two."),
        Causal(" the girl", trained=True, end=True),
    ],
    "an image": [Docked("vision", noise_image(0)), Causal(" a ball", trained=True)],
    "an image and a question": [
        Causal("Look:"),
        Docked("vision", noise_image(1)),
        Docked("text", "what is it?"),
        Causal(" a dog", trained=True, end=True),
    ],
}


def named_sessions(spans_by_name: dict[str, list[Span]]) -> list[Session]:
    return [Session(spans, name) for name, spans in spans_by_name.items()]
