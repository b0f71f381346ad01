"""The arguments and options of ``metalm evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PROTOCOL = "auto|finetuned|in_context|instruct"

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A run folder, a model folder or a hub id; left out: the newest finished run that holds a MetaLM.",
        show_default=False,
    ),
]
Task = Annotated[list[str] | None, typer.Option("--task", "-t", help="A task by name; again for more.")]
Cluster = Annotated[
    list[str] | None, typer.Option("--cluster", "-c", help="Core tasks of a cluster; or core, non_core, world, all.")
]
AllCards = Annotated[bool, typer.Option("--all-cards", help="Clusters also stand for tasks that are not core.")]
Cards = Annotated[list[Path] | None, typer.Option("--cards", metavar="DIR", help="A folder of task cards of your own.")]
Protocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar=PROTOCOL,
        help="finetuned says every answer; in_context and instruct rank options, without and with the end token; "
        "auto goes by what the model was trained for.",
    ),
]
Templates = Annotated[
    str | None,
    typer.Option(
        "--templates",
        help="Collection: flan, t5, plain, none, or a folder; default as the model was trained, or flan.",
        show_default=False,
    ),
]
ListOptions = Annotated[
    bool | None,
    typer.Option(
        "--show-options/--no-show-options",
        help="List the options where a template does; default as the model was trained, or yes.",
        show_default=False,
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="first|paper|all|K|NAME",
        help="Which templates of each task are scored; default first, and paper (five) for instruct.",
    ),
]
Split = Annotated[
    str | None, typer.Option("--split", help="Split, by its role in the cards; default validation, or else test.")
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Examples of each task, always the same ones; default all.")
]
Shots = Annotated[
    str | None,
    typer.Option("--shots", metavar="K[,K…]", help="Demonstrations before each example, as 0,1,4; default 0."),
]
Demonstrations = Annotated[
    str,
    typer.Option(
        "--demonstrations", metavar="frozen|drawn", help="The same for a whole task, or drawn for each example."
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        "--demonstration-layout",
        metavar="docks|joined",
        help="Demonstrations docked one by one, or one text with the input; default as trained, or docks.",
    ),
]
Route = Annotated[
    str | None,
    typer.Option(
        "--input-route",
        metavar="template|encoder|decoder",
        help="Where inputs go: by the template, all docked, or all to the decoder; default as trained, or template.",
    ),
]
Rationale = Annotated[
    bool | None,
    typer.Option(
        "--rationales/--no-rationales",
        help="Let the model reason first, where the data has rationales; default as trained, or no.",
        show_default=False,
    ),
]
Samples = Annotated[
    int, typer.Option("--sampled-answers", min=1, help="Sampled answers of which the most frequent counts; 1: greedy.")
]
Temperature = Annotated[float, typer.Option("--temperature", help="Of sampled answers.")]
Normalise = Annotated[bool, typer.Option("--normalise", help="Compare answers without case, punctuation and articles.")]
Length = Annotated[
    int | None,
    typer.Option("--sequence-length", min=16, help="Decoder positions of a session; default what the model has."),
]
Versus = Annotated[
    list[str] | None,
    typer.Option(
        "--versus", metavar="MODEL", help="Score another model on the same inputs, and compare them in pairs."
    ),
]
AlsoFit = Annotated[
    list[str] | None,
    typer.Option(
        "--match-input-lengths-of",
        metavar="TOKENIZER:LENGTH",
        help="Cut long inputs so that another model's encoder reads them too, as comparisons need it.",
    ),
]
HeldOut = Annotated[
    bool, typer.Option("--require-held-out", help="Refuse tasks that the model's lineage does not show held out.")
]
Contamination = Annotated[
    list[Path] | None,
    typer.Option(
        "--contamination", metavar="FILE", help="Count rows that share 13 words with this training data (JSONL)."
    ),
]
Harness = Annotated[
    list[str] | None,
    typer.Option("--harness", metavar="TASK", help="Score tasks of lm-evaluation-harness by its own rules."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Sequences of a forward pass that says answers.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of demonstrations and samples.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Where data sets lie; default $METALM_DATA.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Open no network connection.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Results; default results/ of the run folder.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Use no answers that were kept from before.")]
SaveSamples = Annotated[
    bool, typer.Option("--save-samples", help="Also write every answer, as JSONL beside the results.")
]
