"""The recipe of each training command."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from metalm_cli.config.schema.base import Dangerous, InconsistentValues, Section
from metalm_cli.config.schema.data import Data
from metalm_cli.config.schema.model import Model, TaskModel
from metalm_cli.config.schema.objectives import Objective, Supervised
from metalm_cli.config.schema.tasks import TaskData
from metalm_cli.config.schema.training import TaskTraining, Training


class PretrainRecipe(Section):
    """A recipe of ``metalm pretrain``."""

    command: Literal["pretrain"] = Field(default="pretrain", description="The command that runs this recipe.")
    extends: str | None = Field(default=None, description="A shipped name or a path, merged below this file.")
    description: str = Field(default="", description="One line for metalm recipe list.")
    model: Model = Field(description="What is trained.")
    data: Data = Field(description="What it is trained on.")
    objective: Objective = Field(description="What it is trained to do.")
    train: Training = Field(default=Training(), description="How it is trained.")
    dangerous: Dangerous = Field(default=Dangerous(), description="Options that can harm this machine.")


class FinetuneRecipe(Section):
    """A recipe of ``metalm finetune``."""

    command: Literal["finetune"] = Field(default="finetune", description="The command that runs this recipe.")
    extends: str | None = Field(default=None, description="A shipped name or a path, merged below this file.")
    description: str = Field(default="", description="One line for metalm recipe list.")
    model: TaskModel = Field(default=TaskModel(), description="What is trained; default the newest pretraining run.")
    data: TaskData = Field(description="What it is trained on.")
    train: TaskTraining = Field(default=TaskTraining(), description="How it is trained.")
    dangerous: Dangerous = Field(default=Dangerous(), description="Options that can harm this machine.")

    objective: ClassVar[Supervised] = Supervised()

    @model_validator(mode="after")
    def _explicit(self) -> Any:
        mixture = self.data.mixture
        if mixture.strategy == "explicit" and not mixture.weights:
            raise InconsistentValues(
                "missing: the rates", key="data.mixture.weights", remedy="give a rate for each task"
            )
        return self


class InstructRecipe(FinetuneRecipe):
    """A recipe of ``metalm instruct``."""

    command: Literal["instruct"] = Field(  # type: ignore[assignment]
        default="instruct", description="The command that runs this recipe."
    )


Recipe = PretrainRecipe | FinetuneRecipe
"""Any recipe."""


RECIPES: dict[str, type[PretrainRecipe] | type[FinetuneRecipe]] = {
    "pretrain": PretrainRecipe,
    "finetune": FinetuneRecipe,
    "instruct": InstructRecipe,
}
"""Recipe class of each command."""
