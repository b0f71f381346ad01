"""Stages of the demo as data: the command of each, its purpose, the stages that it requires, and its outputs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from metalm_cli.config import resolve, split_arguments

HELD_OUT_CLUSTER = "nli"
"""Cluster that instruction tuning holds out, with the cluster that leaks into it (paraphrase)."""
SINGLE_TASK = "world_reviews"
"""Task that is finetuned with the interface frozen."""
ENCODER_LENGTH = 256
"""Tokens of a docked text that the encoder reads, as in the recipe ``demo/metalm``; twins read the same characters."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of the demo.

    Args:
        name: Name of the stage, and of the folder or file that it makes.
        summary: What happens, in a few words.
        purpose: Why it happens, in one line.
        arguments: Command line after ``metalm``.
        outputs: A run folder, or files.
        requires: Names of stages that must have finished before.
        cost: Approximate seconds on one core, for the estimate of the time left.
        steps: Optimiser steps; 0 for a stage that does not train.
        command_hash: Hash of the command, independent of the demo's folder.
    """

    name: str
    summary: str
    purpose: str
    arguments: tuple[str, ...]
    outputs: tuple[Path, ...]
    requires: tuple[str, ...] = ()
    cost: float = 10.0
    steps: int = 0
    command_hash: str = ""

    @property
    def run(self) -> Path | None:
        """Run folder of a training stage; None for other stages."""
        return self.outputs[0] if self.steps else None


@dataclass(frozen=True, slots=True)
class DemoSize:
    """Size of a demo: its models, training steps, evaluations and seeds.

    Args:
        name: Name of the size.
        duration: Approximate running time on two cores.
        encoder: Recipe overrides for pretraining the encoder.
        pretrain: Recipe overrides for pretraining the MetaLM and its twins.
        instruct: Recipe overrides for instruction tuning.
        multitask: Recipe overrides for finetuning on all tasks; None to skip it.
        single: Recipe overrides for finetuning on one task with the interface frozen.
        single_twin: Whether all parameters of the paper's twin are finetuned on that task as well.
        shots: Numbers of demonstrations for pretrained models.
        pretrained_limit: Examples per task for pretrained models; None for all.
        tuned_limit: Examples per task for tuned models; None for all.
        template: Templates for instruction-tuned models.
        twins: GPT twins: ``gpt`` is the paper's, with the same decoder; ``gpt-total`` has the same total size.
        seeds: Seeds; a single seed has no folder of its own.
        costs: Seconds of each kind of stage on one core.
    """

    name: str
    duration: str
    encoder: tuple[str, ...] = ()
    pretrain: tuple[str, ...] = ()
    instruct: tuple[str, ...] = ()
    multitask: tuple[str, ...] | None = None
    single: tuple[str, ...] = ()
    single_twin: bool = False
    shots: str = "0,1,2"
    pretrained_limit: int | None = 60
    tuned_limit: int | None = 60
    template: str = "first"
    twins: tuple[str, ...] = ("gpt",)
    seeds: tuple[int, ...] = (0,)
    costs: tuple[tuple[str, float], ...] = ()

    def cost(self, kind: str) -> float:
        """Seconds of a kind of stage on one core."""
        return dict(self.costs)[kind]


_QUICK_OVERRIDES = ("train.checkpoint_every=20", "train.warmup_steps=5", "data.validation.{}=4")


def _quick_overrides(steps: int, validation_unit: str, *overrides: str) -> tuple[str, ...]:
    return (f"train.steps={steps}", *(override.format(validation_unit) for override in _QUICK_OVERRIDES), *overrides)


QUICK = DemoSize(
    name="quick",
    duration="a minute",
    encoder=_quick_overrides(60, "documents", "data.sources.0.world.documents=2000"),
    pretrain=_quick_overrides(40, "documents", "data.sources.0.world.documents=2000"),
    instruct=_quick_overrides(15, "examples", "train.batch_size=16"),
    single=_quick_overrides(10, "examples", "train.batch_size=16"),
    shots="0,1",
    pretrained_limit=8,
    tuned_limit=8,
    costs=(("encoder", 6), ("pretrain", 12), ("instruct", 6), ("single", 3), ("score", 2), ("report", 1)),
)
STANDARD = DemoSize(
    name="standard",
    duration="4 minutes",
    costs=(("encoder", 35), ("pretrain", 80), ("instruct", 65), ("single", 17), ("score", 10), ("report", 2)),
)
FULL = DemoSize(
    name="full",
    duration="an hour",
    encoder=("train.steps=1000",),
    pretrain=("train.steps=700",),
    instruct=("train.steps=600",),
    multitask=("train.steps=600",),
    single=("train.steps=200",),
    single_twin=True,
    shots="0,1,4",
    pretrained_limit=100,
    tuned_limit=None,
    template="3",
    twins=("gpt", "gpt-total"),
    seeds=(0, 1, 2),
    costs=(
        ("encoder", 70),
        ("pretrain", 210),
        ("instruct", 200),
        ("multitask", 190),
        ("single", 35),
        ("score", 20),
        ("report", 15),
    ),
)
SIZES = {size.name: size for size in (QUICK, STANDARD, FULL)}
TWIN_NAMES = {"gpt": "GPT with the same decoder", "gpt-total": "GPT of the same total size"}


def demo_stages(size: DemoSize, out: Path) -> list[Stage]:
    """Create all stages of a demo, in an order in which they can run.

    Args:
        size: Size of the demo.
        out: Folder of the demo.
    """
    hashes = [
        hashlib.sha256(json.dumps(stage.arguments).encode()).hexdigest() for stage in _plain_stages(size, Path("demo"))
    ]
    return [replace(stage, command_hash=digest) for stage, digest in zip(_plain_stages(size, out), hashes, strict=True)]


def _plain_stages(size: DemoSize, out: Path) -> list[Stage]:
    """The stages without the hashes of their commands."""
    stages: list[Stage] = []
    for seed in size.seeds:
        several = len(size.seeds) > 1
        stages += _seed_stages(size, out / f"seed-{seed}" if several else out, seed, f"-{seed}" if several else "")
    runs = [str(stage.run) for stage in stages if stage.run is not None]
    result_folders = dict.fromkeys(str(stage.outputs[0].parent) for stage in stages if stage.run is None)
    page = out / "report.html"
    report = Stage(
        "report",
        "one page with all curves and scores",
        "all results in one place",
        ("report", *runs, *result_folders, "--out", str(page)),
        (page,),
        tuple(stage.name for stage in stages),
        size.cost("report"),
    )
    return [*stages, report]


def _seed_stages(size: DemoSize, out: Path, seed: int, suffix: str) -> list[Stage]:
    """Create the stages of one seed, with models and results in ``out``."""
    builder = _StageBuilder(size, out, seed, suffix)
    arms = ("metalm", *size.twins)
    stages = [
        builder.training(
            "encoder",
            "encoder",
            "pretrain demo/encoder",
            "a tokenizer, then a text encoder trained on masked words",
            "it will read docked texts in both directions",
            size.encoder,
        ),
        builder.training(
            "metalm",
            "pretrain",
            "pretrain demo/metalm",
            "the encoder docked into a new decoder (equation 1)",
            "the encoder reads a quarter of each text, the decoder predicts the rest",
            (*size.pretrain, builder.path_override("model.encoders.text.checkpoint", "encoder/model")),
            requires=("encoder",),
        ),
    ]
    stages += [
        builder.training(
            twin,
            "pretrain",
            f"pretrain demo/{twin}",
            f"{TWIN_NAMES[twin]}, no pretrained encoder, the same documents",
            "a baseline for the MetaLM",
            size.pretrain,
        )
        for twin in size.twins
    ]
    stages += [builder.tuning(arm, "instruct") for arm in arms]
    if size.multitask is not None:
        stages += [builder.tuning(arm, "multitask") for arm in arms]
    stages.append(builder.single_task("metalm", "frozen", "demo/single --encoder-only", "the decoder frozen"))
    if size.single_twin:
        stages.append(builder.single_task("gpt", "whole-gpt", "demo/single-gpt", "all parameters of the GPT trained"))
    return [*stages, *builder.evaluations(arms)]


@dataclass(frozen=True, slots=True)
class _StageBuilder:
    """Creates the stages of one seed.

    Args:
        size: Size of the demo.
        out: Folder of the seed's models and results.
        seed: The seed.
        suffix: Suffix of the stage names.
    """

    size: DemoSize
    out: Path
    seed: int
    suffix: str

    def path_override(self, key: str, relative_path: str) -> str:
        """An override whose value is a path in the folder; quoted, because the path may hold any character."""
        return f"{key}={json.dumps(str(self.out / relative_path), ensure_ascii=False)}"

    def training(
        self,
        name: str,
        kind: str,
        command: str,
        summary: str,
        purpose: str,
        overrides: tuple[str, ...],
        *,
        base: str = "",
        requires: tuple[str, ...] = (),
    ) -> Stage:
        """Create a training stage; its command resumes a run that was started before."""
        verb, recipe, *flags = command.split(" ")
        run = self.out / name
        values = [*overrides, *([f"train.seed={self.seed}"] if self.seed else [])]
        base_args = ["--model", _path_argument(self.out / base)] if base else []
        _, parsed = split_arguments(values)
        steps = resolve(
            verb, recipe, parsed, {"model.checkpoint": base_args[1] if base_args else None}
        ).recipe.train.steps
        return Stage(
            name + self.suffix,
            summary,
            purpose,
            (verb, recipe, *values, *base_args, *flags, "--out", str(run), "--resume", "--offline"),
            (run,),
            tuple(name + self.suffix for name in requires),
            self.size.cost(kind),
            steps or 1,
        )

    def tuning(self, arm: str, kind: str) -> Stage:
        """Create the instruction tuning or multi-task finetuning of an arm."""
        overrides = (self.size.instruct if kind == "instruct" else self.size.multitask) or ()
        overrides = (*overrides, *self._matched_inputs(arm))
        model_name = "the MetaLM" if arm == "metalm" else TWIN_NAMES[arm]
        if kind == "instruct":
            command = f"instruct demo/instruct --hold-out {HELD_OUT_CLUSTER}"
            summary = f"{model_name}, tuned on tasks in many wordings, {HELD_OUT_CLUSTER} held out"
            purpose = "can it solve tasks that it was not trained on?"
        else:
            command = "finetune demo/multitask"
            summary = f"{model_name}, finetuned on all tasks at once"
            purpose = "the paper's main comparison"
        return self.training(
            f"{kind}-{arm}",
            kind,
            command,
            summary,
            purpose,
            overrides,
            base=arm,
            requires=(arm, "encoder"),
        )

    def single_task(self, arm: str, name: str, command: str, trained_part: str) -> Stage:
        """Create the finetuning of an arm on one task."""
        purpose = "is training the encoder and the connector enough?"
        if arm != "metalm":
            purpose = "the paper's comparison on a single task"
        return self.training(
            name,
            "single",
            f"finetune {command}",
            f"{SINGLE_TASK} as the only finetuning task, {trained_part}",
            purpose,
            (*self.size.single, *self._matched_inputs(arm)),
            base=f"instruct-{arm}",
            requires=(f"instruct-{arm}",),
        )

    def _matched_inputs(self, arm: str) -> tuple[str, ...]:
        """Override that makes a twin read the same characters as the MetaLM."""
        if arm == "metalm":
            return ()
        reader = {"tokenizer": str(self.out / "encoder/model"), "length": ENCODER_LENGTH}
        return (f"data.match_input_lengths_of={json.dumps([reader], ensure_ascii=False)}",)

    def evaluations(self, arms: tuple[str, ...]) -> list[Stage]:
        """Create the evaluations: pretrained models in context, tuned models by the protocol of their tuning."""
        stages = [
            self.evaluation(
                "in-context",
                arms,
                f"the pretrained models, {self.size.shots.replace(',', ', ')} demonstrations",
                "scores on every cluster without tuning",
                ("--cluster", "world", "--protocol", "in_context", "--shots", self.size.shots),
                limit=self.size.pretrained_limit,
                passes=self.size.shots.count(",") + 1,
            ),
            self.evaluation(
                "instructed",
                tuple(f"instruct-{arm}" for arm in arms),
                "the instruction-tuned models on every cluster, without demonstrations",
                f"{HELD_OUT_CLUSTER} and the cluster that leaks into it are new",
                ("--cluster", "world", "--protocol", "instruct", "--template", self.size.template),
                limit=self.size.tuned_limit,
                passes=int(self.size.template) if self.size.template.isdecimal() else 1,
            ),
            self.evaluation(
                "frozen-score",
                ("frozen", *(["whole-gpt"] if self.size.single_twin else [])),
                f"models finetuned on {SINGLE_TASK} alone, with generated answers",
                "what the encoder and the connector have learned",
                ("--task", SINGLE_TASK, "--protocol", "finetuned"),
                limit=self.size.tuned_limit,
                passes=0.1,
            ),
        ]
        if self.size.multitask is not None:
            multitask = tuple(f"multitask-{arm}" for arm in arms)
            stages.append(
                self.evaluation(
                    "finetuned",
                    multitask,
                    "models finetuned on all tasks, with generated answers",
                    "the paper's protocol",
                    ("--cluster", "world", "--protocol", "finetuned"),
                    limit=self.size.tuned_limit,
                    passes=2,
                )
            )
        return stages

    def evaluation(
        self,
        name: str,
        models: tuple[str, ...],
        summary: str,
        purpose: str,
        flags: tuple[str, ...],
        *,
        limit: int | None,
        passes: float = 1,
    ) -> Stage:
        """Create an evaluation of models side by side, with a number of passes over the tasks for each model."""
        first, *others = (_path_argument(self.out / model) for model in models)
        versus = [argument for other in others for argument in ("--versus", other)]
        limit_option = [] if limit is None else ["--limit", str(limit)]
        paths = [self.out / "results" / f"{name}{'' if n == 1 else f'-{n}'}.json" for n in range(1, len(models) + 1)]
        return Stage(
            name + self.suffix,
            summary,
            purpose,
            ("evaluate", first, *versus, *flags, *limit_option, "--save-samples", "--out", str(paths[0]), "--offline"),
            tuple(paths),
            tuple(model + self.suffix for model in models),
            self.size.cost("score") * len(models) * passes,
        )


def _path_argument(path: Path) -> str:
    """A folder as a command-line argument: a relative path gets ``./``, as ``a/b`` could be a repository of the hub."""
    return str(path) if path.is_absolute() or str(path).startswith(".") else f"./{path}"
