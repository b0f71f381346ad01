"""The arguments and options of ``metalm generate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Place(StrEnum):
    """Where the text goes."""

    docked = "docked"
    causal = "causal"


Text = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What the model reads; - for standard input.")]
As = Annotated[Place, typer.Option("--as", help="Docked into the text encoder, or read by the decoder as causal text.")]
Prompt = Annotated[
    str | None, typer.Option("--prompt", metavar="TEXT", help="Beginning of the answer; the model goes on from it.")
]
Image = Annotated[
    Path | None, typer.Option("--image", metavar="FILE", help="An image for the vision encoder, before the text.")
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer.")]
Beams = Annotated[int | None, typer.Option("--beams", min=1, help="Width of a beam search; default greedy.")]
LengthPenalty = Annotated[
    float | None, typer.Option("--length-penalty", help="With beams: above 0 favours longer answers; default 1.")
]
Sample = Annotated[bool, typer.Option("--sample", help="Draw tokens instead of taking the likeliest.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="With --sample: divides the logits; default 1.")
]
TopP = Annotated[
    float | None, typer.Option("--top-p", help="With --sample: draw from the likeliest with this share; default 1.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="With --sample; default 0.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends an answer; again for more.")]
Source = Annotated[Path | None, typer.Option("--input", metavar="FILE", help="JSON lines to answer, into --out.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Where answers are appended; goes on from what is there."),
]
BatchTokens = Annotated[
    int | None,
    typer.Option("--batch-tokens", min=16, help="With --input: decoder positions of a pass; default by the device."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Open no network connection.")]
