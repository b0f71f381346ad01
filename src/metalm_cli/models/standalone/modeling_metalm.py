"""MetaLM (arXiv 2206.06336) in a single file: encoders docked through connectors into a causal decoder.

Written by ``metalm export --standalone``; needs torch and transformers only. ``FOLDER`` is the exported folder::

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
    processors = {"text": AutoTokenizer.from_pretrained(FOLDER, subfolder="processors/text")}

    sessions = [[("text", "It rained all day. Was it dry?")]]
    inputs = model.prepare(sessions, tokenizer, processors)
    print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=20), skip_special_tokens=True))
    print(model.log_likelihood(sessions, [" no"], tokenizer, processors))

A session is a list of spans, read from left to right. A text is read by the decoder. A pair of the name of an encoder
and a content is docked: a text, or for an encoder of images a Pillow image, upright. ``processors`` has the tokenizer
or the image processor (``AutoImageProcessor``) of each encoder, by name.

Letters of shapes: b sessions, s decoder positions, d width of the decoder, l docked outputs of a content, w width of an
encoder, p vectors of a content. Contents are encoded in turn; connectors get them with a first axis of 1.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForTextEncoding,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

Sessions = Sequence[Sequence[str | tuple[str, Any]]]
Processors = Mapping[str, Any] | None
Grid = tuple[int, int]


class MetaLMConfig(PreTrainedConfig):
    """Configuration of a :class:`MetaLM`, as metalm saves it.

    Attributes:
        decoder_config, encoder_configs: Configs of the parts as dicts with ``model_type``, of the encoders by name.
        connectors, docking: Kind and settings of each encoder's connector; ``kind``, ``max_length``, ``keep_special``.
        tokens: Token rules: ``start``, ``document``, ``paragraph``, ``target_delimiter``.
    """

    model_type = "metalm"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"tie_word_embeddings": False, **kwargs})  # the decoder ties its own


def part_config(fields: dict[str, Any]) -> PreTrainedConfig:
    fields = copy.deepcopy(fields)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    config._attn_implementation = None
    return config


def build_encoder(config: Any) -> Any:
    """Build an encoder, without a pooler."""
    encodes = type(config) in AutoModelForTextEncoding._model_mapping or config.is_encoder_decoder
    auto: Any = AutoModelForTextEncoding if encodes else AutoModel
    parameters = inspect.signature(auto._model_mapping[type(config)].__init__).parameters
    options = {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}
    return auto.from_config(config, trust_remote_code=False, **options)


class EncoderDict(nn.ModuleDict):
    """Encoders by name, with their tied weights as the whole model needs them."""

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        return {
            f"{name}.{key}": f"{name}.{source}"
            for name, part in self.items()
            for key, source in (getattr(part, "all_tied_weights_keys", None) or {}).items()
        }


class MetaLM(PreTrainedModel, GenerationMixin):
    """Decoder with encoders docked through connectors; see the top of this file."""

    config_class = MetaLMConfig
    config: Any
    base_model_prefix = ""
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: MetaLMConfig) -> None:
        super().__init__(config)
        self.decoder = AutoModelForCausalLM.from_config(part_config(config.decoder_config), trust_remote_code=False)
        configs = {name: part_config(fields) for name, fields in config.encoder_configs.items()}
        self.encoders = EncoderDict({name: build_encoder(each) for name, each in configs.items()})
        width = self.decoder.get_input_embeddings().embedding_dim
        self.connectors = nn.ModuleDict(
            {name: make_connector(config.connectors[name], each.hidden_size, width) for name, each in configs.items()}
        )
        self._takes_positions = "position_ids" in inspect.signature(self.decoder.forward).parameters
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass  # parts and connectors initialise themselves

    def get_input_embeddings(self) -> Any:
        return self.decoder.get_input_embeddings()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the decoder; other arguments are those of its own forward pass.

        Args:
            input_ids: Texts without docks. ``[b, s]``
            attention_mask: 1 for tokens and docks, 0 for padding on either side. ``[b, s]``
            inputs_embeds: From :meth:`prepare`, in place of ``input_ids``. ``[b, s, d]``
        """
        if self._takes_positions and attention_mask is not None and attention_mask.dim() == 2:
            length = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]  # type: ignore[union-attr]
            positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
            kwargs.setdefault("position_ids", positions)
        return self.decoder(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs)

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Generate with the decoder's own ``generate``: greedy by default, up to the token that ends a document.

        Args:
            inputs: ``input_ids`` of texts without docks: the result has prompts and new tokens. With the inputs of
                :meth:`prepare` (padded on the left) it has the new tokens only.
        """
        self.decoder.generation_config = self.generation_config
        return self.decoder.generate(inputs, **kwargs)

    @torch.no_grad()
    def log_likelihood(
        self, sessions: Sessions, answers: list[str], tokenizer: Any, processors: Processors = None, end: bool = False
    ) -> Tensor:
        """Return the summed log-probability of the tokens of each answer after its session, in nats. ``[b]`` float64

        Arguments as :meth:`prepare`.
        """
        inputs = self.prepare(sessions, tokenizer, processors, answers=answers, end=end, padding_side="right")
        labels = inputs.pop("labels")
        if (labels[:, 0] >= 0).any():
            raise ValueError("nothing predicts the first token of an answer: put a span before it")
        logits = self(**inputs, use_cache=False).logits[:, :-1].float()
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
        return -losses.double().sum(1)

    def prepare(
        self,
        sessions: Sessions,
        tokenizer: Any,
        processors: Processors = None,
        *,
        answers: list[str] | None = None,
        end: bool = False,
        padding_side: str = "left",
    ) -> dict[str, Tensor]:
        """Tokenise and embed sessions, for :meth:`forward` and :meth:`generate`.

        Args:
            sessions: Sessions, as lists of spans.
            tokenizer: Fast tokenizer of the decoder.
            processors: Tokenizer or image processor of each encoder, by name.
            answers: Texts that follow the sessions, as targets of a loss.
            end: The token that ends a document follows each answer.
            padding_side: ``left`` for generation, or ``right``.

        Returns:
            ``inputs_embeds`` ``[b, s, d]``, ``attention_mask`` ``[b, s]``; with answers ``labels`` ``[b, s]``, -100
            where nothing is predicted.

        Raises:
            ValueError: A session is empty, a content is empty or longer than its encoder reads, or the model has no
                encoder of a name.
        """
        text = DecoderText(tokenizer, self.config.tokens)
        rows, labels = [], []
        for index, session in enumerate(sessions):
            targets = [] if answers is None else [answers[index]]
            ids = text.start(any(session), bool(targets))
            row, label = [self._embed(ids)], [-100] * len(ids)
            continues = False
            for span in session:
                if isinstance(span, str):
                    row.append(self._embed(text.encode(span, continues)))
                else:
                    row.append(self.dock(*span, processors))
                label += [-100] * len(row[-1])
                continues = continues or bool(span)
            for target in targets:
                ids = [*text.encode(target, continues), *[text.end_id] * end]
                row.append(self._embed(ids))
                label += ids
            if not label:
                raise ValueError(f"session {index} is empty")
            rows.append(torch.cat(row))
            labels.append(torch.tensor(label, device=self.device))
        mask = [torch.ones_like(label) for label in labels]
        inputs = {"inputs_embeds": pad(rows, padding_side), "attention_mask": pad(mask, padding_side)}
        return inputs if answers is None else {**inputs, "labels": pad(labels, padding_side, -100)}

    def _embed(self, ids: list[int]) -> Tensor:
        return self.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=self.device))

    def dock(self, name: str, content: Any, processors: Processors) -> Tensor:
        """Compute the decoder's vectors of a content, ``[p, d]``; arguments as :meth:`prepare`."""
        processor = (processors or {}).get(name)
        if processor is None or name not in self.encoders:
            raise ValueError(f"got no processor of {name!r}, or the model has no such encoder: {[*self.encoders]}")
        encoder, docking, grid = self.encoders[name], self.config.docking[name], None
        layer = docking.get("layer", -1)
        if docking["kind"] == "vision":
            grid = grid_of(encoder.config)
            pixels = processor(images=content.convert("RGB"), return_tensors="pt")["pixel_values"]
            outputs = run(encoder, layer, pixel_values=pixels.to(self.device, self.dtype))
            docked = torch.arange(len(outputs)) >= len(outputs) - grid[0] * grid[1]  # patches are the last outputs
        else:
            encoding = encode(processor, content, add_special_tokens=True)
            docked = torch.tensor(encoding.special_tokens_mask) == 0
            limit = docking.get("max_length") or len(encoding.ids)
            if not docked.any() or len(encoding.ids) > limit:
                why = f"more than {limit} tokens" if docked.any() else "no tokens"
                raise ValueError(f"a text for the encoder {name!r} has {why}: {content[:40]!r}")
            outputs = run(encoder, layer, input_ids=torch.tensor([encoding.ids], device=self.device))
        if not docking.get("keep_special"):
            outputs = outputs[docked.to(outputs.device)]
        layout = () if self.config.connectors[name]["kind"] in ("linear", "mlp") else (grid,)
        return self.connectors[name](outputs[None], *layout)[0].to(self.get_input_embeddings().weight.dtype)


def run(encoder: Any, layer: int, **inputs: Tensor) -> Tensor:
    """Return the outputs of a layer of an encoder for a content, ``[l, w]``."""
    results = encoder(**inputs, output_hidden_states=layer != -1)
    return (results.last_hidden_state if layer == -1 else results.hidden_states[layer])[0]


def pad(rows: list[Tensor], side: str, value: int = 0) -> Tensor:
    """Stack tensors of different lengths, with padding on a side."""
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


def encode(tokenizer: Any, text: str, *, add_special_tokens: bool) -> Any:
    """Tokenise a text; control tokens that it spells out are ordinary text."""
    options = {"truncation": False, "split_special_tokens": True, "return_special_tokens_mask": True, "verbose": False}
    return tokenizer(text, add_special_tokens=add_special_tokens, **options).encodings[0]


class DecoderText:
    """Tokens of the decoder by the token rules of the model. Spans are tokenised separately."""

    def __init__(self, tokenizer: Any, rules: Mapping[str, str]) -> None:
        self.tokenizer = tokenizer
        self.start_rule = rules.get("start", "auto")
        document, paragraph = rules.get("document", "eos"), rules.get("paragraph", "newline")
        vocabulary = tokenizer.get_vocab()
        self.end_id: int = tokenizer.eos_token_id if document == "eos" else vocabulary[document]
        self.paragraph_id: int | None = None if paragraph == "newline" else vocabulary[paragraph]
        bos = tokenizer.bos_token_id
        self.start_id: int = self.end_id if bos is None else bos
        self.adds_start = bos is not None and list(tokenizer("x").input_ids[:1]) == [bos]

    def start(self, begins_with_context: bool, has_answer: bool) -> list[int]:
        """Return the start token, if a session gets it."""
        auto = self.adds_start or (has_answer and not begins_with_context)
        return [self.start_id] if self.start_rule == "always" or (self.start_rule == "auto" and auto) else []

    def encode(self, text: str, is_continuation: bool) -> list[int]:
        """Tokenise a text that begins a session, or one that continues it."""
        lines = [text] if self.paragraph_id is None else text.split("\n")
        ids: list[int] = self._after_sentinel(lines[0]) if is_continuation else self._ids(lines[0])
        for line in lines[1:]:
            ids = [*ids, self.paragraph_id, *self._ids(line)]  # type: ignore[list-item]
        return ids

    def _ids(self, text: str) -> list[int]:
        return list(encode(self.tokenizer, text, add_special_tokens=False).ids)

    def _after_sentinel(self, text: str) -> list[int]:
        """Tokenise a text behind a character whose token is dropped, so that no prefix of a first word is added."""
        for sentinel in ("\n", "a", ".") if text else ():
            encoding = encode(self.tokenizer, sentinel + text, add_special_tokens=False)
            first = encoding.char_to_token(1)
            if first is None:  # the tokenizer drops that character
                first = next((index for index, (_, stop) in enumerate(encoding.offsets) if stop > 1), None)
            if first is not None and encoding.token_to_chars(first)[0] >= 1:
                return list(encoding.ids[first:])
        return self._ids(text)


def make_connector(record: Mapping[str, Any], width: int, target: int) -> nn.Module:
    """Make the connector of an encoder, from outputs of a width to vectors of the decoder's."""
    kind = record["kind"]
    if kind in ("linear", "mlp"):
        return projection(width, target, 1 if kind == "linear" else record.get("layers", 3))
    if kind in ("stack", "mean"):
        return GroupConnector(width, target, record["factor"], joins=kind == "stack")
    if kind == "queries":
        return QueryConnector(width, target, record["length"], record.get("layers", 3), record.get("heads", 8))
    raise ValueError(f"this file has no connector {kind!r}")


def grid_of(config: Any) -> Grid:
    """Return the rows and columns of the patches of an image."""
    size, patch = ([each] * 2 if isinstance(each, int) else each for each in (config.image_size, config.patch_size))
    return size[0] // patch[0], size[1] // patch[1]


def projection(width: int, target: int, layers: int = 1) -> nn.Sequential:
    """Make a projection, or a feed-forward network with GELU between its layers."""
    modules: list[nn.Module] = [nn.Linear(width, target)]
    for _ in range(layers - 1):
        modules += [nn.GELU(), nn.Linear(target, target)]
    return nn.Sequential(*modules)


class GroupConnector(nn.Sequential):
    """Projection of groups of neighbouring outputs, joined (missing ones are 0) or averaged."""

    def __init__(self, width: int, target: int, factor: int, *, joins: bool) -> None:
        super().__init__(nn.Linear(width * factor if joins else width, target))
        self.factor, self.joins = factor, joins

    def forward(self, outputs: Tensor, grid: Grid | None) -> Tensor:  # type: ignore[override]
        groups = grouped(outputs, self.factor, grid)
        if self.joins:
            return super().forward(groups.flatten(2))
        return super().forward(groups.sum(2) / grouped(torch.ones_like(outputs[..., :1]), self.factor, grid).sum(2))


def grouped(values: Tensor, factor: int, grid: Grid | None) -> Tensor:
    """Divide ``[1, l, w]`` into groups of neighbours, ``[1, p, factor, w]``; patches of a grid into squares."""
    if grid is None:
        return nn.functional.pad(values, (0, 0, 0, -values.shape[1] % factor)).unflatten(1, (-1, factor))
    rows, columns = grid
    side = math.isqrt(factor)
    before, patches = values.split([values.shape[1] - rows * columns, rows * columns], 1)
    squares = nn.functional.pad(patches.unflatten(1, grid), (0, 0, 0, -columns % side, 0, -rows % side))
    squares = squares.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
    return torch.cat([grouped(before, factor, None), squares.flatten(3, 4).flatten(1, 2)], 1)


class QueryConnector(nn.Module):
    """Learned vectors that attend to the outputs, in layers with norms before attention and feed-forward network."""

    def __init__(self, width: int, target: int, length: int, layers: int, heads: int) -> None:
        super().__init__()
        self.query_embedding = nn.Parameter(torch.randn(length, target))
        self.input = projection(width, target)
        self.input_norm = nn.LayerNorm(target)
        self.layers = nn.ModuleList(QueryLayer(target, heads) for _ in range(layers))
        self.output_norm = nn.LayerNorm(target)
        self.output = projection(target, target)

    def forward(self, outputs: Tensor, grid: Grid | None) -> Tensor:
        memory = self.input_norm(self.input(outputs))
        vectors = self.query_embedding.expand(len(outputs), -1, -1)
        for layer in self.layers:
            vectors = layer(vectors, memory)
        return self.output(self.output_norm(vectors))


class QueryLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.joined = (projection(width, width) for _ in range(4))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(projection(width, 4 * width), nn.GELU(), projection(4 * width, width))

    def forward(self, vectors: Tensor, memory: Tensor) -> Tensor:
        query, key, value = (
            module(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for module, source in ((self.query, self.norm(vectors)), (self.key, memory), (self.value, memory))
        )
        read = nn.functional.scaled_dot_product_attention(query, key, value)
        vectors = vectors + self.joined(read.transpose(1, 2).flatten(2))
        return vectors + self.feed_forward(self.feed_forward_norm(vectors))
