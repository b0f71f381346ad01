"""Equation 1 of the paper, computed slowly and independently, against rows, batches, masks and the chunked loss.

The reference shares with the package only the drawn spans and the positions at which rows end: every span is tokenised
and encoded separately, and every session is read by the decoder separately, through Hugging Face modules only, with
full logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from transformers import AutoTokenizer

from metalm_cli.data.documents.session_rows import SessionWriter
from metalm_cli.data.sampling.row_slots import RowSlot, SlotState
from metalm_cli.objectives.language import semi_causal_spans
from metalm_cli.sessions import DecoderTokenizer, Row, TokenRules, collate
from model_families import (
    Documents,
    assert_same,
    gradients,
    make_decoder,
    make_encoder,
    make_metalm,
    processor_of,
    real_documents,
)

LENGTH = 160
DRAW = partial(semi_causal_spans, low=4, high=12, fraction=0.4)


@dataclass
class Item:
    """A token that is predicted, a token that is read, or a span that is encoded."""

    token: int = -1
    trained: bool = True
    span: str = ""


@dataclass
class Reference:
    """Equation 1, computed session by session.

    Args:
        model: Holds the Hugging Face modules and the connector's matrix.
        decoder_tokenizer: A Hugging Face tokenizer.
        encoder_tokenizer: A Hugging Face tokenizer.
    """

    model: object
    decoder_tokenizer: object
    encoder_tokenizer: object
    docked: int = 0
    cut: int = 0
    trained: int = 0
    _loss: list[torch.Tensor] = field(default_factory=list)

    def encode(self, text: str) -> torch.Tensor:
        """Compute a span's content outputs after the connector, ``[p, d]``."""
        read = self.encoder_tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
        outputs = self.model.encoders["text"](input_ids=read["input_ids"]).last_hidden_state[0]
        (connector,) = self.model.connectors["text"]
        return outputs[read["special_tokens_mask"][0] == 0] @ connector.weight.T + connector.bias

    def session(self, items: list[Item]) -> None:
        """Add ``-log P(x_t | x_<t, h(spans before t))`` of each predicted token."""
        table = self.model.decoder.get_input_embeddings()
        vectors, targets = [], []
        for item in items:
            if item.span:
                vectors.append(self.encode(item.span))
                self.docked += len(vectors[-1])
            else:
                before = sum(map(len, vectors))
                if item.trained and before:
                    targets.append((before - 1, item.token))  # also after a span: its last position predicts
                vectors.append(table(torch.tensor([item.token])))
        logits = self.model.decoder(inputs_embeds=torch.cat(vectors)[None]).logits[0]
        for position, token in targets:
            self._loss.append(-logits[position].log_softmax(-1)[token])
        self.trained += len(targets)

    def piece(self, text: str, spans: list[tuple[int, int]], begin: int, end: int, done: bool, room: int) -> list[Item]:
        """Return document tokens ``begin`` to ``end - 1``; spans that do not fit into ``room`` become tokens."""
        read = self.decoder_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = read["input_ids"], read["offset_mapping"]
        items: list[Item] = []
        index = begin
        while index < end:
            span = next((bounds for bounds in spans if bounds[0] == index), None)
            if span is not None:
                last = len(text) if span[1] == len(ids) else offsets[span[1] - 1][1]
                content = text[offsets[index - 1][1] if index else 0 : last]
                size = len(self.encoder_tokenizer(content, add_special_tokens=False)["input_ids"])
                if size + 1 <= room - self.size(items):
                    items.append(Item(span=content))
                    index = span[1]
                    continue
                self.cut += 1
            items.append(Item(ids[index]))
            index += 1
        if done:
            items.append(Item(self.decoder_tokenizer.eos_token_id))
        return items

    def size(self, items: list[Item]) -> int:
        return sum(
            len(self.encoder_tokenizer(item.span, add_special_tokens=False)["input_ids"]) if item.span else 1
            for item in items
        )

    def started(self, items: list[Item]) -> list[Item]:
        """Prepend the start token, if the tokenizer adds one or nothing else predicts the first token."""
        own = self.decoder_tokenizer("x")["input_ids"][0]
        start = self.decoder_tokenizer.bos_token_id
        if start is not None and own == start:
            return [Item(start, trained=False), *items]
        if not items[0].span:
            return [Item(self.decoder_tokenizer.eos_token_id, trained=False), *items]
        return items

    def loss(self) -> torch.Tensor:
        return torch.stack(self._loss).sum()


def write_rows(slot: RowSlot, count: int) -> list[tuple[Row, list[tuple[int, int, int | None]]]]:
    """Return rows with their documents: number, first token, and end token or None at the document's end."""
    rows = []
    for _ in range(count):
        before: SlotState = slot.state
        row = slot.next_row()
        after = slot.state
        pieces: list[tuple[int, int, int | None]] = []
        for number in range(before.number, after.number):
            pieces.append((number, before.offset if number == before.number else 0, None))
        if after.number in row.numbers:
            pieces.append((after.number, before.offset if after.number == before.number else 0, after.offset))
        rows.append((row, pieces))
    return rows


def compare(documents: list[str], tokenizers, decoder: str, encoder: str, isolate: bool = True) -> Reference:
    model = make_metalm(make_decoder(decoder), {"text": make_encoder(encoder)})
    decoder_tokenizer = DecoderTokenizer(AutoTokenizer.from_pretrained(tokenizers[decoder]), TokenRules())
    processor = processor_of(tokenizers[encoder])
    writer = SessionWriter(decoder_tokenizer, processor, DRAW, LENGTH, isolate=isolate, seed=5)
    rows = write_rows(RowSlot(0, 1, Documents(documents), writer), 3)  # type: ignore[arg-type]

    batch = collate([row for row, _ in rows], {"text": processor}, length=LENGTH + 3, pad_id=decoder_tokenizer.pad_id)
    total, each = model.losses(batch)
    (total / len(each)).backward()
    packed_gradients = gradients(model)

    model.zero_grad()
    reference = Reference(
        model,
        *(AutoTokenizer.from_pretrained(tokenizers[kind]) for kind in (decoder, encoder)),
    )
    for _, pieces in rows:
        sessions: list[list[Item]] = []
        room = LENGTH
        for number, begin, end in pieces:
            read = writer.read(documents[number], number)
            spans = [(unit.first, unit.last) for unit in read.segments if unit.dock is not None]
            last = len(read.document) if end is None else end
            fresh = isolate or not sessions
            for start in [True, False] if fresh else [False]:  # a start token leaves less room for spans
                items = reference.piece(documents[number], spans, begin, last, end is None, room - start)
                if fresh and (len(reference.started(items)) > len(items)) == start:
                    items = reference.started(items)
                    break
            room -= reference.size(items)
            sessions.append(items)
        for items in sessions if isolate else [[item for session in sessions for item in session]]:
            reference.session(items)
    assert reference.trained == len(each)
    assert reference.docked == batch.counts["docked_positions"]
    expected = reference.loss() / reference.trained
    expected.backward()
    torch.testing.assert_close(total / len(each), expected, atol=1e-5, rtol=1e-5)
    assert_same(packed_gradients, gradients(model))
    assert {name.split(".")[0] for name in packed_gradients} == {"decoder", "encoders", "connectors"}
    return reference


@pytest.mark.parametrize("encoder", ["bert", "roberta"])
@pytest.mark.parametrize("decoder", ["gpt2", "llama", "opt"])
def test_equation_1_on_real_documents(decoder, encoder, tokenizers, data_root) -> None:
    reference = compare(real_documents(data_root, 12, 230), tokenizers, decoder, encoder)
    assert reference.docked > 50
    assert reference.trained > 150


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize(("decoder", "encoder"), [("gpt2", "roberta"), ("llama", "bert")])
def test_equation_1_on_documents_of_the_world(decoder, encoder, isolate, tokenizers, texts) -> None:
    documents = [text[:230] for text in texts[:12]]
    reference = compare(documents, tokenizers, decoder, encoder, isolate)
    assert reference.docked > 50
    assert reference.trained > 150
