"""Schema of the recipe of each training command."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from metalm_cli.config.schema.base import DangerousOptions, InconsistentValues, Section
from metalm_cli.config.schema.data import DataConfig
from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.config.schema.objectives import Objective, SupervisedObjective, TaskObjective
from metalm_cli.config.schema.tasks import TaskDataConfig
from metalm_cli.config.schema.training import TaskTrainingConfig, TrainingConfig


class StageConfig(Section):
    """A stage of a recipe: keys of the recipe with other values, for a part of the training.

    A stage begins with the model of the former one. What it does not set has the values of the recipe.
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        examples=["align", "tune"],
        description="Name of the stage, and of its folder in the run.",
    )
    command: Literal["pretrain", "finetune", "instruct"] | None = Field(
        default=None,
        description="Command of the stage; default: that of the recipe. A stage of another command takes model and "
        "train from the recipe, and needs its own data and objective.",
    )
    model: dict[str, Any] | None = Field(
        default=None, description="Keys of model: trains, learning_rates and lora, and trains and rates of parts."
    )
    data: dict[str, Any] | None = Field(default=None, description="Keys of data.")
    objective: dict[str, Any] | None = Field(default=None, description="Keys of objective.")
    train: dict[str, Any] | None = Field(default=None, description="Keys of train.")


STAGES = "Stages of the training, one after the other, each with values of its own for keys of the recipe."


class PretrainRecipe(Section):
    """A recipe of ``metalm pretrain``."""

    command: Literal["pretrain"] = Field(default="pretrain", description="Command that runs this recipe.")
    extends: str | None = Field(
        default=None, description="Name of a shipped recipe or path of a recipe file that this one builds on."
    )
    description: str = Field(default="", description="One-line description for metalm recipe list; not inherited.")
    model: ModelConfig = Field(description="The model to train.")
    data: DataConfig = Field(description="The training and validation data.")
    objective: Objective = Field(description="The training objective.")
    train: TrainingConfig = Field(
        default=TrainingConfig(), description="Optimisation, validation, checkpoints and logging."
    )
    stages: Annotated[list[StageConfig], Field(min_length=1)] | None = Field(default=None, description=STAGES)
    dangerous: DangerousOptions = Field(default=DangerousOptions(), description="Options that can harm your machine.")


class FinetuneRecipe(Section):
    """A recipe of ``metalm finetune``."""

    command: Literal["finetune"] = Field(default="finetune", description="Command that runs this recipe.")
    extends: str | None = Field(
        default=None, description="Name of a shipped recipe or path of a recipe file that this one builds on."
    )
    description: str = Field(default="", description="One-line description for metalm recipe list; not inherited.")
    model: ModelConfig = Field(
        default=ModelConfig(),
        description="The model to finetune; default: that of the newest finished run, of pretraining if there is one.",
    )
    data: TaskDataConfig = Field(description="Tasks, templates and validation examples.")
    objective: TaskObjective = Field(
        default=SupervisedObjective(),
        description="The training objective: answers, or contrastive for two encoders of images and texts.",
    )
    train: TaskTrainingConfig = Field(
        default=TaskTrainingConfig(), description="Optimisation, validation, checkpoints and logging."
    )
    stages: Annotated[list[StageConfig], Field(min_length=1)] | None = Field(default=None, description=STAGES)
    dangerous: DangerousOptions = Field(default=DangerousOptions(), description="Options that can harm your machine.")

    @model_validator(mode="after")
    def _explicit(self) -> Any:
        mixture = self.data.mixture
        if mixture.strategy == "explicit" and not mixture.weights:
            raise InconsistentValues(
                "missing, strategy explicit needs weights",
                key="data.mixture.weights",
                remedy="set a weight per task",
                is_missing=True,
            )
        return self


class InstructRecipe(FinetuneRecipe):
    """A recipe of ``metalm instruct``."""

    command: Literal["instruct"] = Field(  # type: ignore[assignment]
        default="instruct", description="Command that runs this recipe."
    )


Recipe = PretrainRecipe | FinetuneRecipe
"""A recipe of any command."""


RECIPES: dict[str, type[PretrainRecipe] | type[FinetuneRecipe]] = {
    "pretrain": PretrainRecipe,
    "finetune": FinetuneRecipe,
    "instruct": InstructRecipe,
}
"""Recipe class by command."""
