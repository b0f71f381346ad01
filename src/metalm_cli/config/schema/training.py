"""Schema of the ``train`` section."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from metalm_cli.config.schema.base import MAX_LEARNING_RATE, Section


class TrainingConfig(Section):
    """Optimisation, validation, checkpoints and logging."""

    one_of = (("steps", "epochs"),)
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
    warmup_steps: int = Field(default=100, ge=0, description="Steps of linear warm-up.")
    precision: Literal["fp32", "bf16"] = Field(
        default="bf16", description="fp32, or bf16: autocast with fp32 master weights."
    )
    compile: bool = Field(default=False, description="Compile the decoder and the encoders with torch.compile.")
    checkpoint_activations: bool = Field(
        default=False,
        description="Activation checkpointing: recompute activations in the backward pass, to save memory at the cost"
        " of time.",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of weight initialisation, data order, span sampling and dropout."
    )
    log_every: int = Field(default=10, ge=1, description="Steps between log lines.")
    validate_every: int = Field(
        default=500, ge=0, description="Steps between validations; 0 validates only at the end."
    )
    checkpoint_every: int = Field(default=500, ge=0, description="Steps between checkpoints; 0 saves only at the end.")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Number of newest checkpoints to keep, in addition to the best one."
    )
    sample_continuations: int = Field(default=2, ge=0, description="Sample continuations printed at each validation.")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], description="Experiment trackers to log to."
    )

    @property
    def max_stale_validations(self) -> int | None:
        """Validations without improvement after which training stops; None: never."""
        return None

    @property
    def keeps_best(self) -> bool:
        """Whether the model of the best validation is saved at the end, and not that of the last step."""
        return False


class TaskTrainingConfig(TrainingConfig):
    """Optimisation, validation, checkpoints and logging of finetuning. The batch size counts sessions."""

    loss_average: Literal["token", "example", "task"] = Field(
        default="token", description="Average the loss over the trained tokens, the examples, or the tasks of a step."
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Early stopping: stop after this many validations without improvement; default: never.",
    )
    final: Literal["last", "best"] = Field(
        default="last", description="Model saved at the end: that of the last step, or that of the best validation."
    )

    @property
    def max_stale_validations(self) -> int | None:
        return self.patience

    @property
    def keeps_best(self) -> bool:
        return self.final == "best"
