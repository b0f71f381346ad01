"""Training."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from metalm_cli.config.schema.base import Section


class Training(Section):
    one_of = (("steps", "epochs"),)
    renamed: ClassVar[dict[str, str]] = {
        "clip": "gradient_clip",
        "keep": "keep_checkpoints",
        "samples": "sample_continuations",
    }

    steps: int | None = Field(default=None, ge=1, description="Optimiser steps; or give epochs.")
    epochs: float | None = Field(
        default=None, gt=0, description="Passes over the sources, turned into steps from a sample of their lengths."
    )
    max_time: str | None = Field(
        default=None,
        pattern=r"^\d+(\.\d+)?[smh]$",
        examples=["90s", "30m", "2h"],
        description="Stop so long after training (re)started (90s, 30m, 2h), with a checkpoint and exit code 75.",
    )
    batch_size: int = Field(default=32, ge=1, description="Rows of an optimiser step, over all processes.")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows of one forward pass in one process; default all of its rows, on a CPU those of like length.",
    )
    optimizer: Literal["adamw"] = Field(default="adamw", description="AdamW with decoupled weight decay.")
    learning_rate: float = Field(default=3e-4, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(default=0.01, ge=0, description="On matrices; never on biases, norms and embeddings.")
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] = Field(
        default=[0.9, 0.98], description="AdamW's two decay rates."
    )
    epsilon: float = Field(default=1e-8, gt=0, description="AdamW's epsilon.")
    gradient_clip: float | None = Field(default=1.0, gt=0, description="Largest gradient norm; null: no clipping.")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="linear", description="After warm-up, down to 0.")
    warmup_steps: int = Field(default=100, ge=0, description="Steps of linear warm-up.")
    precision: Literal["fp32", "bf16"] = Field(default="bf16", description="bf16: autocast over fp32 master weights.")
    compile: bool = Field(default=False, description="torch.compile the decoder and encoders.")
    checkpoint_activations: bool = Field(default=False, description="Recompute activations: less memory, more time.")
    seed: int = Field(default=0, ge=0, description="Seeds weights, order, spans and dropout.")
    log_every: int = Field(default=10, ge=1, description="Steps between logged lines.")
    validate_every: int = Field(default=500, ge=0, description="Steps between validations; 0: only at the end.")
    checkpoint_every: int = Field(default=500, ge=0, description="Steps between checkpoints; 0: only at the end.")
    keep_checkpoints: int = Field(default=2, ge=1, description="Newest checkpoints kept; the best is kept beside them.")
    sample_continuations: int = Field(default=2, ge=0, description="Sample continuations shown at each validation.")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], description="Also log through these trackers."
    )


class TaskTraining(Training):
    """How it is trained. A batch counts sessions."""

    loss_average: Literal["token", "example", "task"] = Field(
        default="token", description="What the loss is a mean over: trained tokens, examples, or tasks of a step."
    )
    patience: int | None = Field(
        default=None, ge=1, description="Stop after so many validations without a better one; default never."
    )
    final: Literal["last", "best"] = Field(
        default="last", description="The model that is kept: of the last step, or of the best validation."
    )
