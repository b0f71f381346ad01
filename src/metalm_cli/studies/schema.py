"""Schema of study files: the one definition of every key."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from metalm_cli.config.schema.base import InconsistentValues, Section

CHANCE = "chance"
"""Second side of a claim that compares a model with chance, not with another model."""
RECORDED = "recorded"
"""Second side of a claim that compares a model with recorded scores."""
ARM_MARK = "{arm}"
"""Placeholder of the arm in the name, the command and the base of a stage that runs once for each arm."""
STUDY_MARK = "{study}"
"""Placeholder of the folder of the study's file in recipe values and options of evaluations, for files of its own."""
EVERY = "all"
"""Key of ``overrides`` and ``options`` of a scale that applies to every stage."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
StageName = Annotated[str, Field(pattern=r"^(?:[a-z0-9_-]|\{arm\})+$")]
Verdict = Literal["agrees", "disagrees", "undecided"]


class Arm(Section):
    """A kind of model that the study compares with others."""

    name: Name = Field(description="Name of the arm, for stages and claims.")
    label: str = Field(description="Name of the arm in tables and sentences.")
    scales: list[str] | None = Field(default=None, description="Scales that have the arm. Default: all.")
    overrides: dict[str, Any] = Field(
        default={}, description="Recipe values of the arm, by dotted key, in each stage that runs once for each arm."
    )


class StudyStage(Section):
    """A training run of the study."""

    name: StageName = Field(
        examples=["instruct-{arm}"], description="Name of the stage and of its run folder, with {arm} if it has arms."
    )
    command: str = Field(
        examples=["pretrain demo/encoder"],
        description="Training command, recipe and options, without metalm; the study adds --out, --resume and others.",
    )
    summary: str = Field(description="What happens, in a few words.")
    purpose: str = Field(default="", description="Why it happens, in one line.")
    label: str | None = Field(default=None, description="Name of its model in tables. Default: the label of its arm.")
    arms: list[str] | None = Field(default=None, min_length=1, description="Arms that the stage runs for.")
    base: str | None = Field(
        default=None, description="Stage whose model it trains (the recipe's model.checkpoint), with {arm} if needed."
    )
    overrides: dict[str, Any] = Field(
        default={},
        description="Recipe values, by dotted key; {NAME} in a text is the run folder of the stage NAME, {study} the "
        "folder of the study's file.",
    )
    group: str | None = Field(
        default=None, description="Key of the stage in overrides and seconds of a scale. Default: its name."
    )
    scales: list[str] | None = Field(default=None, description="Scales that have the stage. Default: all.")
    headline: bool = Field(default=False, description="Run it with the headline seeds of the scale.")
    question: str = Field(
        default="", description="Example question for its model; metalm prints the command with the results."
    )
    keeps_decoder: bool = Field(
        default=False, description="Check that its decoder is bit for bit that of its base, and report it."
    )


class Checkpoint(Section):
    """A model that the study evaluates and does not train."""

    name: Name = Field(description="Name in evaluations and claims.")
    model: str = Field(description="Checkpoint: a name on the hub or of a package, or a path.")
    label: str = Field(description="Name of the model in tables.")


class StudyEvaluation(Section):
    """An evaluation of several models on the same examples."""

    name: Name = Field(description="Name of the evaluation and of its result files.")
    title: str = Field(description="Title of its tables.")
    models: list[str] = Field(
        min_length=1,
        description="Stages, with {arm} for all arms of a stage, and checkpoints. Tables compare the first with each "
        "other one.",
    )
    options: str = Field(
        examples=["--cluster world --protocol finetuned"],
        description="Options of metalm evaluate that select tasks; {study} is the folder of the study's file.",
    )
    separately: bool = Field(
        default=False,
        description="Evaluate each model by itself, with the settings of its own training, in a process of its own. "
        "Default: side by side, with the settings of the first, and long inputs truncated to what all of them read.",
    )
    summary: str = Field(description="What is evaluated, in a few words.")
    purpose: str = Field(default="", description="Why, in one line.")
    scales: list[str] | None = Field(default=None, description="Scales that have the evaluation. Default: all.")
    headline: bool = Field(default=False, description="Run it with the headline seeds of the scale.")


class PaperFigures(Section):
    """What the paper reports."""

    where: str = Field(examples=["table 2, section 3.3"], description="Place in the paper.")
    first: float | None = Field(default=None, description="The paper's score of the first model, 0 to 100.")
    second: float | None = Field(default=None, description="The paper's score of the second model, 0 to 100.")
    text: str = Field(default="", description="What the paper states where it gives no two scores.")


class RecordedScores(Section):
    """Scores of a model outside of the study, which have no interval."""

    label: str = Field(examples=["MiniLM with a linear head"], description="Name of the model in tables.")
    scores: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        min_length=1, description="Score of each task, 0 to 100."
    )


class Claim(Section):
    """A claim: what is compared, what the paper states, and what is expected here."""

    name: Name = Field(description="Name of the claim.")
    statement: str = Field(description="The claim in one sentence.")
    evaluation: str = Field(description="Evaluation with the results.")
    first: str = Field(description="Model whose score comes first: a stage or a checkpoint.")
    second: str = Field(description="Model whose score is subtracted; or chance; or recorded, with recorded set.")
    second_evaluation: str | None = Field(
        default=None,
        description="Evaluation with the result of the second model, on the same examples. Default: that of the first.",
    )
    recorded: RecordedScores | None = Field(
        default=None, description="Recorded scores to compare with; tasks without one are left out."
    )
    tasks: list[str] = Field(default=[], description="Tasks of the claim. Default: all of the evaluation.")
    shots: int | None = Field(default=None, ge=0, description="Number of demonstrations. Default: the fewest.")
    over: Literal["clusters", "tasks", "each"] = Field(
        default="clusters",
        description="Score that is compared: the mean over clusters of the means over tasks, the mean over tasks, or "
        "each task by itself.",
    )
    at_least: int | None = Field(
        default=None, ge=1, description="With over: each, number of tasks that must agree. Default: all."
    )
    measure: Literal["score", "milliseconds", "flops"] = Field(
        default="score",
        description="What is compared: scores, or the cost of an example, as first divided by second (with at_most).",
    )
    at_most: float | None = Field(
        default=None, gt=0, description="With a cost as measure, the largest first divided by second that agrees."
    )
    margin: float = Field(
        default=0.0, description="Points that the first score may be behind (or, if negative, must be ahead)."
    )
    direction: Literal["above", "below"] = Field(
        default="above", description="Whether the claim places the first score above or below the second."
    )
    expected: Literal["agrees", "disagrees", "undecided", "not agrees"] = Field(
        description="Verdict that is expected, recorded before the run."
    )
    reason: str = Field(description="Reason for the expectation.")
    paper: PaperFigures | None = Field(default=None, description="What the paper reports.")
    scales: list[str] | None = Field(default=None, description="Scales that test the claim. Default: all.")

    @model_validator(mode="after")
    def _is_consistent(self) -> Claim:
        if self.at_least is not None and self.over != "each":
            raise InconsistentValues("at_least needs over: each", key="at_least", remedy="set over: each")
        if self.at_least is not None and self.tasks and self.at_least > len(self.tasks):
            raise InconsistentValues(
                f"expected at most the number of tasks, {len(self.tasks)}", key="at_least", remedy="lower it"
            )
        if (self.second == RECORDED) != (self.recorded is not None):
            raise InconsistentValues(
                "recorded scores need second: recorded, and the reverse", key="second", remedy="set both or neither"
            )
        if (self.measure == "score") != (self.at_most is None):
            raise InconsistentValues(
                "a cost as measure needs at_most, and the reverse", key="at_most", remedy="set both or neither"
            )
        if self.measure != "score" and self.second in (CHANCE, RECORDED):
            raise InconsistentValues(f"{self.second} has no cost", key="second", remedy="name a model")
        if self.second_evaluation is not None and (self.second in (CHANCE, RECORDED) or self.measure != "score"):
            raise InconsistentValues(
                "second_evaluation needs the score of a model", key="second_evaluation", remedy="remove it"
            )
        if self.first == self.second and self.second_evaluation in (None, self.evaluation):
            raise InconsistentValues(
                "first and second are the same model",
                key="second",
                remedy="name another model, or another second_evaluation",
            )
        return self


class FigureLine(Section):
    """A line of a figure: a kind of model at several values of the horizontal axis."""

    label: str = Field(description="Name of the line.")
    points: dict[Annotated[str, Field(pattern=r"^[1-9][0-9]*$")], str] = Field(
        min_length=1, description="Model by value of the horizontal axis, a whole number."
    )


class FigureLevel(Section):
    """A horizontal line of a figure: a model that has no value on the horizontal axis, or a recorded score."""

    one_of = (("model", "score"),)

    label: str = Field(description="Name of the level.")
    model: str | None = Field(default=None, description="The model.")
    score: Annotated[float, Field(ge=0, le=100)] | None = Field(default=None, description="Recorded score, 0 to 100.")


class StudyFigure(Section):
    """A figure of scores over a number, such as decoder positions, with intervals."""

    name: Name = Field(description="Name of the figure and of its files.")
    title: str = Field(description="Title of the figure.")
    axis: str = Field(examples=["decoder positions"], description="Title of the horizontal axis, which is logarithmic.")
    lines: list[FigureLine] = Field(min_length=1, description="The lines.")
    levels: list[FigureLevel] = Field(default=[], description="Horizontal lines for comparison.")
    scales: list[str] | None = Field(default=None, description="Scales that have the figure. Default: all.")


class Scale(Section):
    """A size of the study."""

    duration: str = Field(examples=["four minutes"], description="Approximate running time, in words.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1, description="Seeds of every stage.")
    headline_seeds: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, min_length=1, description="Seeds of headline stages and evaluations. Default: seeds."
    )
    note: str = Field(default="", description="Sentence that is printed below the results.")
    hours: float | None = Field(default=None, gt=0, description="Budget: running hours of all stages together.")
    jobs: int | None = Field(
        default=None, ge=1, description="Stages that run at the same time; they share the cores. Default: at most two."
    )
    commands: dict[str, str] = Field(
        default={}, description="Training commands by stage or group, in place of the stage's own command."
    )
    overrides: dict[str, dict[str, Any]] = Field(
        default={}, description="Recipe values by stage or group (or all), each by dotted key."
    )
    options: dict[str, str] = Field(default={}, description="Options of metalm evaluate by evaluation (or all).")
    seconds: dict[str, float] = Field(
        default={}, description="Recorded running time in seconds, by stage or group; of evaluations for each model."
    )
    positions: dict[str, float] = Field(
        default={},
        description="Mean decoder positions of an example of tasks, by stage or group, for the FLOPs. Default: "
        "data.sequence_length, the most that an example can have.",
    )
    docked_outputs: dict[str, float] = Field(
        default={},
        description="Mean docked encoder outputs of an example of tasks, by stage or group, for the FLOPs. Default: as "
        "many as its decoder positions hold.",
    )
    flops_per_second: float | None = Field(
        default=None, gt=0, description="Speed in FLOPs per second, for the hours of stages without recorded time."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Scale:
        for key, seeds in (("seeds", self.seeds), ("headline_seeds", self.headline_seeds or [])):
            if len(set(seeds)) < len(seeds):
                raise InconsistentValues("a seed is listed twice", key=key, remedy="list each seed once")
        if self.headline_seeds is not None and not set(self.seeds) <= set(self.headline_seeds):
            raise InconsistentValues(
                "headline_seeds do not include all seeds", key="headline_seeds", remedy="add the missing seeds"
            )
        tables = (("seconds", self.seconds), ("positions", self.positions), ("docked_outputs", self.docked_outputs))
        for key, table in tables:
            for name, value in table.items():
                if value < 0:
                    raise InconsistentValues(f"the value of {name} is negative", key=key, remedy="write 0 or more")
        return self

    @property
    def all_seeds(self) -> list[int]:
        """Seeds of any stage."""
        return list(self.headline_seeds or self.seeds)


class StudyFile(Section):
    """A study."""

    kind: ClassVar[str] = "study"

    name: Name = Field(examples=["multitask"], description="Name of the study; must equal the file's stem.")
    description: str = Field(description="What the study measures, in one line.")
    source: str = Field(default="", description="Section of the paper that it reproduces.")
    scales: dict[str, Scale] = Field(description="Sizes of the study by name; the first is the default.")
    arms: list[Arm] = Field(default=[], description="Kinds of models that are compared.")
    checkpoints: list[Checkpoint] = Field(default=[], description="Models that are evaluated and not trained.")
    stages: list[StudyStage] = Field(default=[], description="Training runs, each after those that it uses.")
    evaluations: list[StudyEvaluation] = Field(min_length=1, description="Evaluations of the trained models.")
    claims: list[Claim] = Field(default=[], description="Claims; the first is that of the headline.")
    figures: list[StudyFigure] = Field(default=[], description="Figures of the page, beside those of the runs.")
