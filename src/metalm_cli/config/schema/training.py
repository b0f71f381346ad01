"""Schema of the ``train`` section."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from metalm_cli.config.schema.base import MAX_LEARNING_RATE, Section

WARMUP_DIVISOR = 10
"""Steps of a run per step of a warm-up that did not fit it."""


class TaskEvaluationConfig(Section):
    """Evaluation on tasks during training, as by metalm evaluate, in fp32; the last step is always evaluated."""

    one_of = (("suite", "tasks"),)

    suite: str | None = Field(default=None, description="Suite to evaluate: its name or file.")
    tasks: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None,
        description="Tasks to evaluate: names of tasks or clusters; the groups core, non_core, world, lexical or all; "
        "or paths of task cards.",
    )
    every: int | None = Field(
        default=None, ge=1, description="Steps between evaluations; default: only at the end of training."
    )
    limit: int | None = Field(
        default=200, ge=1, description="Maximum number of examples per task, always the same ones; null: all."
    )
    best_by: str | None = Field(
        default=None,
        description="Score that selects the best checkpoint and decides early stopping, in place of the validation "
        "loss: a task, a cluster, mean (over clusters), or an aggregate of the suite. With several numbers of "
        "demonstrations, NAME@SHOTS.",
    )
    shots: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = Field(
        default=None, description="Numbers of demonstrations; default: those of the suite, else [0]."
    )
    protocol: Literal["finetuned", "in_context", "instruct"] | None = Field(
        default=None,
        description="How answers are obtained; default: that of the suite, else finetuned for finetune, instruct for "
        "instruct, in_context for pretrain.",
    )
    templates: str | None = Field(
        default=None,
        description="Template collection; default: that of the suite, else that of the training, else flan.",
    )
    template: str | None = Field(
        default=None,
        description="Templates to score: first, paper (five), all, a number, or a name; default: first, for instruct "
        "paper.",
    )
    split: str | None = Field(
        default=None, description="Split to score, by its role in the cards; default: validation, else test."
    )


class PretrainedLearningRate(Section):
    """Default learning rates of parts whose weights come from an outside checkpoint, by kind of part.

    They apply to weights that another project trained, also if runs of metalm have trained them since; not to
    connectors, adapters and parts from scratch. A rate above train.learning_rate has no effect; null: the part trains
    at train.learning_rate. The learning_rate of a part itself, and one saved in a checkpoint, take precedence.
    """

    decoder: float | None = Field(
        default=1e-4, gt=0, le=MAX_LEARNING_RATE, description="Default learning rate of a pretrained decoder."
    )
    encoders: float | None = Field(
        default=1e-4, gt=0, le=MAX_LEARNING_RATE, description="Default learning rate of every pretrained encoder."
    )
    seq2seq: float | None = Field(
        default=1e-4, gt=0, le=MAX_LEARNING_RATE, description="Default learning rate of a pretrained encoder–decoder."
    )


class Distillation(Section):
    """A teacher: the decoder itself, which reads the docked texts as text, in evaluation mode and without gradient.

    The loss adds the Kullback–Leibler divergence of the predictions with docks from those of the teacher, at the
    trained tokens that follow a dock.
    """

    weight: float = Field(
        default=2.0,
        gt=0,
        description="Weight of the divergence, the mean over these tokens; the usual loss has weight 1.",
    )
    teacher: Literal["current", "base"] = Field(
        default="current",
        description="current: the decoder as it is in each step, with its adapters; base: without its adapters, which "
        "needs model.lora.",
    )


class TrainingConfig(Section):
    """Optimisation, validation, checkpoints and logging."""

    one_of = (("steps", "epochs"),)
    unrecorded: ClassVar[dict[str, Any]] = {
        "pretrained_learning_rate": dict.fromkeys(PretrainedLearningRate.model_fields),
        "cache_encoders": "off",
    }
    renamed: ClassVar[dict[str, str]] = {
        "clip": "gradient_clip",
        "keep": "keep_checkpoints",
        "samples": "sample_continuations",
    }

    steps: int | None = Field(default=None, ge=1, description="Number of optimiser steps.")
    epochs: float | None = Field(
        default=None,
        gt=0,
        le=100_000,
        description="Number of passes over the training data; converted to steps from a sample of the data.",
    )
    max_time: str | None = Field(
        default=None,
        pattern=r"^\d+(\.\d+)?[smh]$",
        examples=["90s", "30m", "2h"],
        description="Time limit, counted from each (re)start of training, such as 90s, 30m or 2h. The run then saves "
        "a checkpoint and exits with code 75.",
    )
    batch_size: int = Field(
        default=32, ge=1, description="Rows per optimiser step, over all processes; in finetuning, sessions."
    )
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows per forward pass in each process. If it is null, a GPU takes the whole batch at once, and a "
        "CPU takes groups of rows of similar length.",
    )
    optimizer: Literal["adamw"] = Field(default="adamw", description="Optimiser: AdamW with decoupled weight decay.")
    learning_rate: float = Field(default=3e-4, gt=0, le=MAX_LEARNING_RATE, description="Peak learning rate.")
    pretrained_learning_rate: PretrainedLearningRate = Field(
        default=PretrainedLearningRate(),
        description="Default learning rates of parts whose weights come from an outside checkpoint, in this run or in "
        "an ancestor of the model.",
    )
    weight_decay: float = Field(
        default=0.01, ge=0, le=1, description="Weight decay of matrices; biases, norms and embeddings are not decayed."
    )
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] = Field(
        default=[0.9, 0.98], description="AdamW's beta1 and beta2."
    )
    epsilon: float = Field(default=1e-8, gt=0, le=1, description="AdamW's epsilon.")
    gradient_clip: float | None = Field(default=1.0, gt=0, description="Maximum gradient norm; null disables clipping.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="Learning rate schedule after warm-up; linear and cosine decay to 0."
    )
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        default=100,
        description="Steps of linear warm-up; a number below 1 is the share of the run's steps (0.1: a tenth). At most "
        "a tenth of the steps that epochs give.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="bf16",
        description="fp32, or bf16: autocast with fp32 master weights; weights that do not train are bf16.",
    )
    compile: bool = Field(default=False, description="Compile the decoder and the encoders with torch.compile.")
    checkpoint_activations: bool = Field(
        default=False,
        description="Activation checkpointing: recompute activations in the backward pass, to save memory at the cost"
        " of time.",
    )
    cache_encoders: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Cache the outputs of frozen encoders on disk, so that each content is encoded once. auto: if the "
        "start of the run measures that this saves time.",
    )
    encoder_cache_gb: float = Field(
        default=10.0,
        ge=0,
        le=1e6,
        description="Maximum size of the cached outputs of all encoders and runs, in GB of 10^9 bytes; those that were "
        "not used for longest are removed.",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of weight initialisation, data order, span sampling and dropout."
    )
    log_every: int = Field(default=10, ge=1, description="Steps between log lines.")
    validate_every: int = Field(
        default=500, ge=0, description="Steps between validations; 0 validates only at the end."
    )
    dock_worth_sessions: int = Field(
        default=200,
        ge=0,
        le=2000,
        description="Maximum number of validation sessions on which each validation measures what docks are worth: the "
        "loss with docks exchanged between sessions, and with a mean vector in their place. Fewer, so that this takes "
        "at most a tenth of the validation's computation; 0: not measured.",
    )
    evaluate: TaskEvaluationConfig | None = Field(
        default=None, description="Evaluation on tasks during training; default: none."
    )
    checkpoint_every: int = Field(default=500, ge=0, description="Steps between checkpoints; 0 saves only at the end.")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Number of newest checkpoints to keep, in addition to the best one."
    )
    distill: Distillation | None = Field(
        default=None,
        description="Distillation of docks from the same decoder reading their texts ({} sets the defaults); default: "
        "none.",
    )
    sample_continuations: int = Field(default=2, ge=0, description="Sample continuations printed at each validation.")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], description="Experiment trackers to log to."
    )

    def warmup_of(self, steps: int) -> int:
        """Return the steps of the warm-up of a run; if they do not fit it, a tenth of its steps.

        >>> [TrainingConfig(warmup_steps=warmup).warmup_of(25) for warmup in (0, 20, 0.1, 26)]
        [0, 20, 3, 2]

        Args:
            steps: Steps of the run.
        """
        if isinstance(self.warmup_steps, float):
            return math.ceil(self.warmup_steps * steps)
        return self.warmup_steps if self.warmup_steps <= steps else steps // WARMUP_DIVISOR

    @property
    def max_stale_validations(self) -> int | None:
        """Validations (or evaluations) without improvement after which training stops; None: never."""
        return None

    @property
    def keeps_best(self) -> bool:
        """Whether the model of the best validation is saved at the end, and not that of the last step."""
        return False

    @property
    def best_score(self) -> str | None:
        """Score that selects the best model; None: the validation loss does."""
        return None if self.evaluate is None else self.evaluate.best_by


class TaskTrainingConfig(TrainingConfig):
    """Optimisation, validation, checkpoints and logging of finetuning. The batch size counts sessions."""

    loss_average: Literal["token", "example", "task"] = Field(
        default="token", description="Average the loss over the trained tokens, the examples, or the tasks of a step."
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Early stopping: stop after this many validations without improvement, or evaluations if "
        "evaluate.best_by is set; default: never.",
    )
    final: Literal["last", "best"] = Field(
        default="last",
        description="Model saved at the end: that of the last step, or that of the best validation or evaluation.",
    )

    @property
    def max_stale_validations(self) -> int | None:
        return self.patience

    @property
    def keeps_best(self) -> bool:
        return self.final == "best"
