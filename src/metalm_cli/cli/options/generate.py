"""Arguments and options of ``metalm generate``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from metalm_cli.cli.options.shared import EndTokens


class TextRoute(StrEnum):
    """Part of the model that reads the text: the text encoder or the decoder."""

    docked = "docked"
    causal = "causal"


Text = Annotated[
    str | None, typer.Argument(metavar="[TEXT]", help="Text for the model to read; - reads standard input.")
]
TextRouteOption = Annotated[
    TextRoute | None,
    typer.Option("--as", help="docked (default): the text encoder reads the text; causal: the decoder reads it."),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="NAME",
        help="Encoder that the text is docked into. Default: text, or the only text encoder.",
        show_default=False,
    ),
]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="The decoder reads the text as a user's turn, by the chat template of its tokenizer."),
]
Prompt = Annotated[
    str | None, typer.Option("--prompt", metavar="TEXT", help="Start of the answer, which the model continues.")
]
Image = Annotated[
    Path | None, typer.Option("--image", metavar="FILE", help="Image for the vision encoder, placed before the text.")
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Maximum number of tokens in an answer.")]
Beams = Annotated[
    int | None, typer.Option("--beams", min=1, help="Number of beams for beam search. Default: greedy decoding.")
]
LengthPenalty = Annotated[
    float | None,
    typer.Option("--length-penalty", help="With --beams: values above 0 favour longer answers. Default: 1."),
]
Sample = Annotated[bool, typer.Option("--sample", help="Sample tokens instead of taking the most likely one.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="With --sample: divisor of the logits. Default: 1.")
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", help="With --sample: nucleus sampling with this total probability. Default: 1."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="With --sample: random seed. Default: 0.")]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the answer where this text begins; repeatable.")
]
InputFile = Annotated[
    Path | None, typer.Option("--input", metavar="FILE", help="JSONL file of inputs to answer; needs --out.")
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="With --input: JSONL file to append answers to; answered lines are skipped."
    ),
]
BatchTokens = Annotated[
    int | None,
    typer.Option(
        "--batch-tokens", min=16, help="With --input: decoder positions per batch. Default: chosen for the device."
    ),
]


@dataclass(frozen=True)
class DecodingFlags:
    """Options of decoding."""

    panel: ClassVar[str] = "Decoding"

    max_new_tokens: MaxNewTokens = 128
    beams: Beams = None
    length_penalty: LengthPenalty = None
    sample: Sample = False
    temperature: Temperature = None
    top_p: TopP = None
    seed: Seed = None
    stop: Stop = None
    end_tokens: EndTokens = None


@dataclass(frozen=True)
class FileOptions:
    """Options of answering the lines of a file."""

    panel: ClassVar[str] = "Files"

    source: InputFile = None
    out: OutFile = None
    batch_tokens: BatchTokens = None
