"""Arguments and options of ``metalm evaluate``, in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from metalm_cli.cli.completion import (
    complete_choice,
    complete_collection,
    complete_group,
    complete_suite,
    complete_task,
)
from metalm_cli.cli.options.shared import AllCards, DataRoot, EndTokens

PROTOCOLS = "auto|finetuned|in_context|instruct|zero_shot|linear_probe"
DEMONSTRATIONS = "frozen|drawn"
LAYOUTS = "docks|answered|joined"
ROUTES = "template|encoder|decoder"
SPLITS = "train|validation|test"

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A run, a model folder, a .gguf file or a hub id. Default: the newest finished run that holds a MetaLM; "
        "one of instruction tuning before one of finetuning, before one of pretraining.",
        show_default=False,
    ),
]
Task = Annotated[
    list[str] | None,
    typer.Option("--task", "-t", help="A task to evaluate; repeatable.", autocompletion=complete_task),
]
Cluster = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster",
        "-c",
        help="Evaluate a cluster's core tasks, or a group: core, non_core, world, lexical, all; repeatable.",
        autocompletion=complete_group,
    ),
]
Suite = Annotated[
    str | None,
    typer.Option(
        "--suite",
        metavar="NAME|FILE",
        help="Evaluate a suite: its tasks with its settings, and its aggregate. Other options take precedence over its "
        "settings. metalm suites list lists the shipped ones.",
        autocompletion=complete_suite,
    ),
]
Cards = Annotated[
    list[Path] | None, typer.Option("--cards", metavar="DIR", help="A folder with your own task cards; repeatable.")
]
Protocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar=PROTOCOLS,
        help="finetuned: generate each answer; in_context and instruct: rank the options, without and with the end "
        "token; zero_shot and linear_probe: of dual encoders; auto: what the model was trained for.",
        autocompletion=complete_choice(PROTOCOLS),
    ),
]
Templates = Annotated[
    str | None,
    typer.Option(
        "--templates",
        help="Template collection: flan, t5, plain, none, passages, fused, or a folder. Default: as in training, else "
        "flan.",
        autocompletion=complete_collection,
        show_default=False,
    ),
]
ListOptions = Annotated[
    bool | None,
    typer.Option(
        "--show-options/--no-show-options",
        help="List the answer options in prompts whose template supports it. Default: as in training, else yes.",
        show_default=False,
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="first|paper|all|K|NAME",
        help="Templates to score for each task. Default: first; for the instruct protocol: paper (five templates).",
        autocompletion=complete_choice("first|paper|all"),
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Split to score, by its role in the cards. Default: validation, else test.",
        autocompletion=complete_choice(SPLITS),
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Maximum number of examples per task, always the same ones. Default: all."),
]
Shots = Annotated[
    str | None,
    typer.Option(
        "--shots", metavar="K[,K…]", help="Numbers of demonstrations to evaluate with, such as 0,1,4. Default: 0."
    ),
]
Demonstrations = Annotated[
    str | None,
    typer.Option(
        "--demonstrations",
        metavar=DEMONSTRATIONS,
        autocompletion=complete_choice(DEMONSTRATIONS),
        help="frozen: the same for all examples of a task; drawn: new ones for each example. Default: frozen.",
        show_default=False,
    ),
]
DemonstrationLayout = Annotated[
    str | None,
    typer.Option(
        "--demonstration-layout",
        metavar=LAYOUTS,
        autocompletion=complete_choice(LAYOUTS),
        help="docks: the input of each demonstration is a dock, its answer text; answered: both are one dock; joined: "
        "one text together with the input. Default: as in training, else docks.",
    ),
]
InputRoute = Annotated[
    str | None,
    typer.Option(
        "--input-route",
        metavar=ROUTES,
        autocompletion=complete_choice(ROUTES),
        help="Where inputs go: as the template says, all docked (encoder), or all in the decoder. Default: as in "
        "training, else template.",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="NAME",
        help="Encoder that docked inputs go into. Default: the one that was trained on the task in a combined model, "
        "else the one that the template names.",
        show_default=False,
    ),
]
Rationale = Annotated[
    bool | None,
    typer.Option(
        "--rationales/--no-rationales",
        help="Let the model reason before it answers, where the data has rationales. Default: as in training, else no.",
        show_default=False,
    ),
]
SampledAnswers = Annotated[
    int,
    typer.Option(
        "--sampled-answers",
        min=1,
        help="Sampled answers per example; the most frequent one is scored. 1: greedy decoding.",
    ),
]
Temperature = Annotated[float, typer.Option("--temperature", help="Sampling temperature of sampled answers.")]
MaxAnswerTokens = Annotated[
    int | None,
    typer.Option(
        "--max-answer-tokens",
        min=1,
        help="Maximum length of open answers. Default: the longest reference of a task, at least 32.",
        show_default=False,
    ),
]
Normalise = Annotated[
    bool,
    typer.Option("--normalise", help="Ignore case, English articles and marks around words when comparing answers."),
]
ExchangeDocks = Annotated[
    str,
    typer.Option(
        "--exchange-docks",
        metavar="ENCODER",
        help="Give each example the docks of another example of its task: those of this encoder, or all. A score that "
        "does not fall owes nothing to them.",
        show_default=False,
    ),
]
SequenceLength = Annotated[
    int | None,
    typer.Option(
        "--sequence-length", min=16, help="Maximum decoder positions of a session. Default: the model's limit."
    ),
]
Versus = Annotated[
    list[str] | None,
    typer.Option(
        "--versus",
        metavar="MODEL",
        help="Another model to score on the same inputs and to compare with MODEL; repeatable.",
    ),
]
MatchLengthsOf = Annotated[
    list[str] | None,
    typer.Option(
        "--match-input-lengths-of",
        metavar="TOKENIZER:LENGTH",
        help="Truncate long inputs to what this other encoder can also read, for a fair comparison; repeatable.",
    ),
]
RequireHeldOut = Annotated[
    bool,
    typer.Option("--require-held-out", help="Fail if the model's lineage does not show that all tasks were held out."),
]
Contamination = Annotated[
    list[Path] | None,
    typer.Option(
        "--contamination",
        metavar="FILE",
        help="Count rows that share 13 consecutive words with this training data (JSONL file or folder).",
    ),
]
Harness = Annotated[
    list[str] | None,
    typer.Option(
        "--harness",
        metavar="TASK",
        help="Score this task of lm-evaluation-harness by its own rules instead; repeatable.",
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Sequences per forward pass when generating answers.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of drawn demonstrations and sampled answers.")]
OutFile = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Results file. Default: a new file in results/ of the run folder."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore the cached answers of earlier evaluations.")]
SaveSamples = Annotated[
    bool, typer.Option("--save-samples", help="Also write every answer, as JSONL next to the results file.")
]


@dataclass(frozen=True)
class TaskOptions:
    """Options that select tasks and their rows."""

    panel: ClassVar[str] = "Tasks"

    suite: Suite = None
    task: Task = None
    cluster: Cluster = None
    all_cards: AllCards = False
    cards: Cards = None
    split: Split = None
    limit: Limit = None
    data_root: DataRoot = None

    @property
    def task_names(self) -> list[str]:
        """Names of ``--task``, which may be separated by commas."""
        return split_names(self.task)

    @property
    def cluster_names(self) -> list[str]:
        """Names of ``--cluster``, which may be separated by commas."""
        return split_names(self.cluster)


@dataclass(frozen=True)
class PromptOptions:
    """Options of the prompts."""

    panel: ClassVar[str] = "Prompts"

    templates: Templates = None
    template: Template = None
    shots: Shots = None
    demonstrations: Demonstrations = None
    demonstration_layout: DemonstrationLayout = None
    input_route: InputRoute = None
    encoder: Encoder = None
    list_options: ListOptions = None
    rationales: Rationale = None
    sequence_length: SequenceLength = None
    match_lengths_of: MatchLengthsOf = None

    @property
    def style(self) -> dict[str, str | bool]:
        """Fields of the prompt style that the user has set."""
        values = {
            "route": self.input_route,
            "encoder": self.encoder,
            "options": self.list_options,
            "layout": self.demonstration_layout,
            "rationale": self.rationales,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class AnswerOptions:
    """Options of how answers are obtained and compared."""

    panel: ClassVar[str] = "Answers"

    protocol: Protocol = "auto"
    sampled_answers: SampledAnswers = 1
    temperature: Temperature = 0.7
    max_answer_tokens: MaxAnswerTokens = None
    end_tokens: EndTokens = None
    normalise: Normalise = False
    batch_size: BatchSize = 16
    seed: Seed = 0
    exchange_docks: ExchangeDocks = ""


@dataclass(frozen=True)
class CheckOptions:
    """Options that check what the model was trained on."""

    panel: ClassVar[str] = "Checks of the training data"

    held_out: RequireHeldOut = False
    contamination: Contamination = None


@dataclass(frozen=True)
class OutputOptions:
    """Options of what is written."""

    panel: ClassVar[str] = "Output"

    out: OutFile = None
    fresh: Fresh = False
    save_samples: SaveSamples = False


def split_names(names: Sequence[str] | None) -> list[str]:
    """Split names at commas."""
    return [part for name in names or () for part in name.split(",") if part]
