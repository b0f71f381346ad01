"""The stages of the demo, as data: what each does and why, its command, what must be there before, what it leaves."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from metalm_cli.config import resolve, split_arguments

HELD_OUT = "nli"
"""The cluster that instruction tuning leaves out, with what leaks into it (paraphrase)."""
SINGLE = "world_reviews"
"""The task that is finetuned with the interface frozen."""
READS = 256
"""Tokens that the encoder reads of a docked text, as ``demo/metalm`` says: twins read the same characters."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of the demo.

    Args:
        name: What it is called, and the folder or file that it makes.
        what: What happens, in a few words.
        why: What for, in one line.
        arguments: The command line that follows ``metalm``.
        makes: Its results: a run folder, or files.
        needs: Stages that must have finished before.
        cost: Seconds that it takes on one core, roughly; the time left is reckoned with it.
        steps: Optimiser steps; 0: it trains nothing.
        mark: Hash of its command, the same wherever the demo lies.
    """

    name: str
    what: str
    why: str
    arguments: tuple[str, ...]
    makes: tuple[Path, ...]
    needs: tuple[str, ...] = ()
    cost: float = 10.0
    steps: int = 0
    mark: str = ""

    @property
    def run(self) -> Path | None:
        """The run folder of a stage that trains."""
        return self.makes[0] if self.steps else None


@dataclass(frozen=True, slots=True)
class DemoSize:
    """How much of everything.

    Args:
        name: What this size of the demo is called.
        about: How long it takes on two cores.
        encoder: Values set over the recipe of the encoder, and so on for the other stages.
        pretrain: Of MetaLM and its twins.
        instruct: Of instruction tuning.
        multitask: Of finetuning on all tasks; None: left out.
        single: Of finetuning with the interface frozen.
        whole: Finetune the paper's twin on that task, too, all of it.
        shots: Numbers of demonstrations that pretrained models are given.
        limit: Examples of each task that pretrained models are asked; None: all.
        tuned: Examples of each task that tuned models are asked.
        template: Which templates instruction-tuned models are asked with.
        twins: GPT twins: ``gpt`` is the paper's, with the same decoder; ``gpt-total`` has as many parameters in all.
        seeds: Seeds; one of them: no folder of its own.
        costs: Seconds of each kind of stage on one core.
    """

    name: str
    about: str
    encoder: tuple[str, ...] = ()
    pretrain: tuple[str, ...] = ()
    instruct: tuple[str, ...] = ()
    multitask: tuple[str, ...] | None = None
    single: tuple[str, ...] = ()
    whole: bool = False
    shots: str = "0,1,2"
    limit: int | None = 60
    tuned: int | None = 60
    template: str = "first"
    twins: tuple[str, ...] = ("gpt",)
    seeds: tuple[int, ...] = (0,)
    costs: tuple[tuple[str, float], ...] = ()

    def cost(self, kind: str) -> float:
        """Seconds of a kind of stage on one core."""
        return dict(self.costs)[kind]


_QUICK_TRAIN = ("train.checkpoint_every=20", "train.warmup_steps=5", "data.validation.{}=4")


def _quick(steps: int, held: str, *more: str) -> tuple[str, ...]:
    return (f"train.steps={steps}", *(one.format(held) for one in _QUICK_TRAIN), *more)


QUICK = DemoSize(
    name="quick",
    about="a minute",
    encoder=_quick(60, "documents", "data.sources.0.world.documents=2000"),
    pretrain=_quick(40, "documents", "data.sources.0.world.documents=2000"),
    instruct=_quick(15, "examples", "train.batch_size=16"),
    single=_quick(10, "examples", "train.batch_size=16"),
    shots="0,1",
    limit=8,
    tuned=8,
    costs=(("encoder", 6), ("pretrain", 12), ("instruct", 6), ("single", 3), ("score", 2), ("report", 1)),
)
STANDARD = DemoSize(
    name="standard",
    about="4 minutes",
    costs=(("encoder", 35), ("pretrain", 80), ("instruct", 65), ("single", 17), ("score", 10), ("report", 2)),
)
FULL = DemoSize(
    name="full",
    about="an hour",
    encoder=("train.steps=1000",),
    pretrain=("train.steps=700",),
    instruct=("train.steps=600",),
    multitask=("train.steps=600",),
    single=("train.steps=200",),
    whole=True,
    shots="0,1,4",
    limit=100,
    tuned=None,
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
BUDGETS = {budget.name: budget for budget in (QUICK, STANDARD, FULL)}
TWINS = {"gpt": "GPT with the same decoder", "gpt-total": "GPT with as many parameters in all"}


def stages_of(budget: DemoSize, out: Path) -> list[Stage]:
    """Everything that the demo does, in an order in which it can be done.

    Args:
        budget: How much of it.
        out: The folder of the demo.
    """
    marks = [hashlib.sha256(json.dumps(one.arguments).encode()).hexdigest() for one in _stages_of(budget, Path("demo"))]
    return [replace(stage, mark=mark) for stage, mark in zip(_stages_of(budget, out), marks, strict=True)]


def _stages_of(budget: DemoSize, out: Path) -> list[Stage]:
    """The same, without marks."""
    found: list[Stage] = []
    for seed in budget.seeds:
        several = len(budget.seeds) > 1
        found += _of_seed(budget, out / f"seed-{seed}" if several else out, seed, f"-{seed}" if several else "")
    runs = [str(stage.run) for stage in found if stage.run is not None]
    scores = dict.fromkeys(str(stage.makes[0].parent) for stage in found if stage.run is None)
    page = out / "report.html"
    report = Stage(
        "report",
        "one page with all curves and scores",
        "for people who would rather look than read",
        ("report", *runs, *scores, "--out", str(page)),
        (page,),
        tuple(stage.name for stage in found),
        budget.cost("report"),
    )
    return [*found, report]


def _of_seed(budget: DemoSize, out: Path, seed: int, mark: str) -> list[Stage]:
    """The stages of one seed, whose models and results lie in ``out``."""
    at = _Place(budget, out, seed, mark)
    arms = ("metalm", *budget.twins)
    found = [
        at.train(
            "encoder",
            "encoder",
            "pretrain demo/encoder",
            "a tokenizer, then a text encoder by masked words",
            "it will read what is docked, in both directions",
            budget.encoder,
        ),
        at.train(
            "metalm",
            "pretrain",
            "pretrain demo/metalm",
            "the encoder docked into a new decoder (equation 1)",
            "it reads a quarter of each text, the decoder predicts the rest",
            (*budget.pretrain, at.value("model.encoders.text.checkpoint", "encoder/model")),
            needs=("encoder",),
        ),
    ]
    found += [
        at.train(
            twin,
            "pretrain",
            f"pretrain demo/{twin}",
            f"{TWINS[twin]}, no pretrained encoder, the same documents",
            "a score says something beside another",
            budget.pretrain,
        )
        for twin in budget.twins
    ]
    found += [at.tuned(arm, "instruct") for arm in arms]
    if budget.multitask is not None:
        found += [at.tuned(arm, "multitask") for arm in arms]
    found.append(at.alone("metalm", "frozen", "demo/single --encoder-only", "the decoder frozen"))
    if budget.whole:
        found.append(at.alone("gpt", "whole-gpt", "demo/single-gpt", "all of the GPT with the same decoder trained"))
    return [*found, *at.scores(arms)]


@dataclass(frozen=True, slots=True)
class _Place:
    """Makes stages of a seed.

    Args:
        budget: How much.
        out: The folder that holds its models and results.
        seed: The seed.
        mark: What stands after the names of its stages.
    """

    budget: DemoSize
    out: Path
    seed: int
    mark: str

    def value(self, key: str, place: str) -> str:
        """An override that names a place in the folder; quoted, as its name may hold anything."""
        return f"{key}={json.dumps(str(self.out / place), ensure_ascii=False)}"

    def train(
        self,
        name: str,
        kind: str,
        command: str,
        what: str,
        why: str,
        overrides: tuple[str, ...],
        *,
        base: str = "",
        needs: tuple[str, ...] = (),
    ) -> Stage:
        """A stage that trains; begun, it is resumed."""
        verb, recipe, *flags = command.split(" ")
        run = self.out / name
        values = [*overrides, *([f"train.seed={self.seed}"] if self.seed else [])]
        model = ["--model", _as_place(self.out / base)] if base else []
        _, parsed = split_arguments(values)
        steps = resolve(verb, recipe, parsed, {"model.checkpoint": model[1] if model else None}).recipe.train.steps
        return Stage(
            name + self.mark,
            what,
            why,
            (verb, recipe, *values, *model, *flags, "--out", str(run), "--resume", "--offline"),
            (run,),
            tuple(one + self.mark for one in needs),
            self.budget.cost(kind),
            steps or 1,
        )

    def tuned(self, arm: str, kind: str) -> Stage:
        """Instruction tuning or multi-task finetuning of an arm; twins read the same characters."""
        overrides = (self.budget.instruct if kind == "instruct" else self.budget.multitask) or ()
        overrides = (*overrides, *self._same_texts(arm))
        which = "the MetaLM" if arm == "metalm" else TWINS[arm]
        if kind == "instruct":
            command = f"instruct demo/instruct --hold-out {HELD_OUT}"
            what = f"{which}, tuned on many wordings of tasks, {HELD_OUT} held out"
            why = "can it do what it was never shown?"
        else:
            command = "finetune demo/multitask"
            what = f"{which}, finetuned on all tasks at once"
            why = "the paper's main comparison"
        return self.train(
            f"{kind}-{arm}",
            kind,
            command,
            what,
            why,
            overrides,
            base=arm,
            needs=(arm, "encoder"),
        )

    def alone(self, arm: str, name: str, command: str, what: str) -> Stage:
        """Finetuning of an arm on one task."""
        why = "the interface may stay as it is"
        if arm != "metalm":
            why = "the paper's comparison on a single task"
        return self.train(
            name,
            "single",
            f"finetune {command}",
            f"{SINGLE} alone, {what}",
            why,
            (*self.budget.single, *self._same_texts(arm)),
            base=f"instruct-{arm}",
            needs=(f"instruct-{arm}",),
        )

    def _same_texts(self, arm: str) -> tuple[str, ...]:
        """What makes a twin read the same characters as the MetaLM."""
        if arm == "metalm":
            return ()
        reader = {"tokenizer": str(self.out / "encoder/model"), "length": READS}
        return (f"data.match_input_lengths_of={json.dumps([reader], ensure_ascii=False)}",)

    def scores(self, arms: tuple[str, ...]) -> list[Stage]:
        """Evaluations: pretrained models in context, tuned ones as they were tuned."""
        found = [
            self.score(
                "in-context",
                arms,
                f"the pretrained models, {self.budget.shots.replace(',', ', ')} demonstrations",
                "what they do on every cluster, untrained for it",
                ("--cluster", "world", "--protocol", "in_context", "--shots", self.budget.shots),
                limit=self.budget.limit,
                passes=self.budget.shots.count(",") + 1,
            ),
            self.score(
                "instructed",
                tuple(f"instruct-{arm}" for arm in arms),
                "the tuned models on every cluster, no demonstrations",
                f"{HELD_OUT} and what leaks into it are new to them",
                ("--cluster", "world", "--protocol", "instruct", "--template", self.budget.template),
                limit=self.budget.tuned,
                passes=int(self.budget.template) if self.budget.template.isdecimal() else 1,
            ),
            self.score(
                "frozen-score",
                ("frozen", *(["whole-gpt"] if self.budget.whole else [])),
                f"what was finetuned on {SINGLE} alone, every answer said, not chosen",
                "what encoder and connector have learned",
                ("--task", SINGLE, "--protocol", "finetuned"),
                limit=self.budget.tuned,
                passes=0.1,
            ),
        ]
        if self.budget.multitask is not None:
            multitask = tuple(f"multitask-{arm}" for arm in arms)
            found.append(
                self.score(
                    "finetuned",
                    multitask,
                    "the finetuned models, every answer said, not chosen",
                    "the paper's protocol",
                    ("--cluster", "world", "--protocol", "finetuned"),
                    limit=self.budget.tuned,
                    passes=2,
                )
            )
        return found

    def score(
        self,
        name: str,
        models: tuple[str, ...],
        what: str,
        why: str,
        flags: tuple[str, ...],
        *,
        limit: int | None,
        passes: float = 1,
    ) -> Stage:
        """An evaluation of models beside each other, which takes so many passes over the tasks for each."""
        first, *others = (_as_place(self.out / model) for model in models)
        versus = [part for other in others for part in ("--versus", other)]
        most = [] if limit is None else ["--limit", str(limit)]
        places = [self.out / "results" / f"{name}{'' if n == 1 else f'-{n}'}.json" for n in range(1, len(models) + 1)]
        return Stage(
            name + self.mark,
            what,
            why,
            ("evaluate", first, *versus, *flags, *most, "--save-samples", "--out", str(places[0]), "--offline"),
            tuple(places),
            tuple(model + self.mark for model in models),
            self.budget.cost("score") * len(models) * passes,
        )


def _as_place(path: Path) -> str:
    """A folder as a command takes it, where ``a/b`` could also be a repository of the hub."""
    return str(path) if path.is_absolute() or str(path).startswith(".") else f"./{path}"
