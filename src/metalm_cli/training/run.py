"""A run as one call, whatever it trains on: open, assemble, plan, probe, train, save."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metalm_cli.common.signals import StopSignals
from metalm_cli.data.sampling.loader import StepRowDataset, loader
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly, build_from_recipe
from metalm_cli.objectives import Objective
from metalm_cli.provenance.lineage import read_ancestors
from metalm_cli.runs import checkpoint
from metalm_cli.runs.folder import RunFolder
from metalm_cli.runs.metrics_log import MetricsLog, check_trackers, log_to_trackers, read, start_trackers
from metalm_cli.runs.resume_check import check_recipe
from metalm_cli.sessions import Batch, Row, Session
from metalm_cli.training.distributed.accelerator import compile_layers, make_accelerator
from metalm_cli.training.distributed.rank_zero import broadcast_from_rank_zero
from metalm_cli.training.model_card import write_model
from metalm_cli.training.planning.memory import estimate_memory, first_words_of, out_of_memory, out_of_memory_error
from metalm_cli.training.planning.plan import RunPlan
from metalm_cli.training.planning.probe import ProbeResult, probe
from metalm_cli.training.progress import Progress, make_progress, memory_bytes
from metalm_cli.training.run_start import TOKENIZERS, check_adapter_base, recipe_name, write_start
from metalm_cli.training.step_metrics import summary
from metalm_cli.training.trainer import Trainer, TrainerCallbacks
from metalm_cli.training.validation import Validator


@dataclass
class RunOptions:
    """What the command line adds to a recipe."""

    name: str
    out: Path | None = None
    resume: bool = False
    dry_run: bool = False
    offline: bool = False
    data_root: Path | None = None


@dataclass
class RunCallbacks:
    """How a run is shown.

    Args:
        plan: Shows the plan, and the probe's result.
        sample: Continues validation texts or sessions with the model, for the eye.
        note: Says a line.
    """

    plan: Callable[[RunPlan, ProbeResult | None], None]
    sample: Callable[[Assembly, list[str | Session]], list[tuple[str, str]]]
    note: Callable[[str], None]


class Run(ABC):
    """One run, from its recipe to its model folder.

    Args:
        recipe: The resolved recipe.
        text: It as YAML, as the run folder keeps it.
        options: Of the command line.
        views: How to show things.
    """

    def __init__(self, recipe: Any, text: str, options: RunOptions, views: RunCallbacks) -> None:
        self.recipe, self.text, self.options, self.views = recipe, text, options, views
        check_trackers(recipe.train.trackers, options.offline)
        self.accelerator = make_accelerator(recipe)
        self.world: int = self.accelerator.num_processes
        self.main: bool = self.accelerator.is_main_process
        self.shards = self.world if self.accelerator.distributed_type == "FSDP" else 1
        if recipe.train.batch_size % self.world:
            raise MetalmError(
                f"{self.world} processes cannot share a batch of {recipe.train.batch_size} equally",
                where="train.batch_size",
                remedy=f"set it to a multiple of {self.world}",
            )

    # -- preparing ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, folder: RunFolder | None) -> Any:
        """Open the training data; that of a resumed run must be what it began with."""

    @abstractmethod
    def make_objective(self, assembly: Assembly) -> Objective:
        """What is trained."""

    @abstractmethod
    def read_validation(self) -> list[Row]:
        """Rows to validate on."""

    @abstractmethod
    def make_plan(self) -> RunPlan:
        """What the run will do."""

    @abstractmethod
    def probe_batch(self) -> Batch:
        """A micro-batch of the longest rows."""

    @abstractmethod
    def stream(self, trainer: Trainer) -> StepRowDataset:
        """The rows of this process."""

    def preview_texts(self) -> list[str | Session]:
        """Texts or sessions that are continued at a validation, for the eye."""
        return []

    def lineage(self) -> dict[str, Any]:
        """What the lineage says beside the data that was read."""
        return {}

    @property
    def padded_length(self) -> int | None:
        """Positions that rows are padded to; None: the longest of each micro-batch."""
        return self.recipe.data.sequence_length if self.accelerator.device.type == "cuda" else None

    def prepare(self, folder: RunFolder | None = None) -> None:
        """Open the data, assemble the model, and plan.

        Args:
            folder: Of a run that is resumed: its tokenizers are used, and the data must be what it began with.
        """
        recipe = self.recipe
        self.corpus = self.open(folder)
        self.assembly = self._assemble(None if folder is None else folder.path / TOKENIZERS)
        check_adapter_base(folder, self.assembly)
        self.ancestors = read_ancestors(recipe)
        self.objective = self.make_objective(self.assembly)
        self.validation_rows = self.read_validation()
        torch.manual_seed(recipe.train.seed)
        self.root = self.objective.step()
        self.plan = self.make_plan()
        self.steps = self.plan.steps
        if recipe.train.checkpoint_activations:
            self.assembly.model.gradient_checkpointing_enable()

    def _assemble(self, tokenizers: Path | None) -> Assembly:
        return build_from_recipe(
            self.recipe,
            lambda count: self.corpus.sample(count, 0),
            offline=self.options.offline,
            tokenizers=tokenizers,
        )

    def show_plan(self) -> None:
        """Show the plan, then probe a worst-case row."""
        if self.main:
            self.views.plan(self.plan, None)
        device = self.accelerator.device
        batch = self.probe_batch
        result = probe(self.objective, self.root, self.recipe, device, batch, world=self.world, shards=self.shards)
        if self.main:
            self.views.plan(self.plan, result)

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> Exit:
        """Train into a run folder. A new folder is made when nothing can be found wrong any more without training.

        Raises:
            MetalmError: See :meth:`Trainer.run`; and what is wrong with the folder or its checkpoint.
        """
        options = self.options
        if broadcast_from_rank_zero(lambda: RunFolder.begins(options.out, options.name, options.resume)):
            self._prepare_and_show(None)
        with self._folder() as folder:
            self.place = folder.path
            for note in folder.notes:
                self.views.note(note)
            found = self._checkpoint(folder) if folder.resumed else None
            if not hasattr(self, "corpus"):
                self._prepare_and_show(folder)
            if self.main and not folder.recipe.exists():
                write_start(folder, options.name, self.text, str(self.accelerator.device), self.corpus, self.assembly)
            elif self.main and self.changed:
                folder.write_text("recipe.yaml", self.text)
            return self._train(folder, found)

    def _prepare_and_show(self, folder: RunFolder | None) -> None:
        self.prepare(folder)
        self.show_plan()

    def _folder(self) -> RunFolder:
        """The run's folder: the first process makes and locks it, the others are told where it is."""
        options = self.options
        if self.world == 1:
            return RunFolder.create(options.out, options.name, options.resume)
        made: list[RunFolder] = []

        def make() -> tuple[str, bool]:
            made.append(RunFolder.create(options.out, options.name, options.resume))
            return str(made[0].path), made[0].resumed

        path, resumed = broadcast_from_rank_zero(make)
        if made:
            return made[0]
        folder = RunFolder.attach(Path(path))
        folder.resumed = resumed
        return folder

    def _checkpoint(self, folder: RunFolder) -> Path | None:
        """The checkpoint to go on from; says what is damaged."""
        notes = check_recipe(folder, self.recipe) if folder.recipe.exists() else []
        for note in notes:
            self.views.note(note)
        self.changed = bool(notes)
        self.options.name = recipe_name(folder) or self.options.name
        found, damaged = broadcast_from_rank_zero(lambda: checkpoint.find_latest(folder.checkpoints))
        for one in damaged:
            self.views.note(f"not used: {one}")
        return found

    def _train(self, folder: RunFolder, found: Path | None) -> Exit:
        recipe = self.recipe
        length = self.padded_length
        if recipe.train.compile:
            compile_layers(self.assembly)
        trainer = Trainer(recipe.train, self.steps, self.objective, self.root, self.accelerator, length)
        size = recipe.train.micro_batch_size or max(1, recipe.train.batch_size // self.world)
        validator = Validator(self.objective, self.validation_rows, size, trainer.control)
        if found is not None:
            tensors, state = checkpoint.load(found, verify=False)
            trainer.restore(tensors, state)
            self.views.note(f"resumed from {found}")
            if self.main and trainer.state.step < self.steps:
                folder.unfinish()
            trainer.control.wait()
        if self.main:
            checkpoint.remove_interrupted(folder.checkpoints)
        self.accelerator.project_configuration.logging_dir = str(folder.path / "trackers")
        start_trackers(self.accelerator, list(recipe.train.trackers), self.options.name, recipe.model_dump())
        stream = self.stream(trainer)
        with MetricsLog(folder.metrics) if self.main else NullLog() as log, make_progress(main=self.main) as progress:
            if self.main:
                log.cut_back(trainer.state.step)
            progress.start(self.steps, f"{self.options.name} -> {folder.path}", trainer.state.step)
            hooks = self._hooks(folder, trainer, log, progress, validator)
            with StopSignals() as signals, self._memory_explained(folder):
                result = trainer.run(loader(stream, recipe.data.workers), hooks, signals)
            if result == Exit.DONE:
                self._finish(folder, trainer)
            progress.note(summary(trainer.totals))
            progress.note(
                f"{self.result}: {folder.path / self.result}"
                if result == Exit.DONE
                else f"stopped; go on with: metalm {recipe.command} --resume --out {folder.path}"
            )
        self.accelerator.end_training()
        return result

    @contextmanager
    def _memory_explained(self, folder: RunFolder) -> Iterator[None]:
        """Memory that runs out while training, validating or sampling: the probe knows not all that a run meets."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            last, _ = checkpoint.find_latest(folder.checkpoints)
            kept = f"; {last} is whole, and --resume goes on from it" if last else ""
            memory = estimate_memory(
                self.recipe, self.assembly, getattr(self.root, "generator", None), self.world, self.shards
            )
            what = f"memory ran out while training{kept}"
            raise out_of_memory_error(
                self.recipe, first_words_of(error), memory, self.world, what=what, exit_code=Exit.FAILED
            ) from error

    def _hooks(
        self, folder: RunFolder, trainer: Trainer, log: Any, progress: Progress, validator: Validator
    ) -> TrainerCallbacks:
        def logged(record: dict[str, Any]) -> None:
            record = {**record, "memory_bytes": memory_bytes()}
            log_to_trackers(self.accelerator, record)
            if self.main:
                progress.step(log.write(record))

        def validated(record: dict[str, Any]) -> None:
            log_to_trackers(self.accelerator, record)
            if self.main:
                progress.validation(log.write(record), self._samples())

        def save(tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
            if self.main:
                path = checkpoint.save(folder.checkpoints, state["step"], tensors, state)
                checkpoint.remove_old(folder.checkpoints, self.recipe.train.keep_checkpoints, state["best_step"])
                progress.note(f"checkpoint: {path}")

        return TrainerCallbacks(logged, validator, validated, save, self.corpus.where, progress.advance)

    def _samples(self) -> list[tuple[str, str]]:
        count = self.recipe.train.sample_continuations
        if not count or self.assembly.is_encoder_only or self.world > 1:
            return []
        return self.views.sample(self.assembly, self.preview_texts()[:count])

    @property
    def result(self) -> str:
        """What the run leaves: a ``model``, or an ``adapter`` for one."""
        return "model" if self.assembly.adaptation is None else "adapter"

    def _finish(self, folder: RunFolder, trainer: Trainer) -> None:
        if self.main:
            facts = {
                "name": self.options.name,
                "recipe": self.text,
                "steps": trainer.state.step,
                "best": trainer.state.best_step,
                "tokens": trainer.totals.get("source_tokens", 0),
                "validation": last_validation(folder.metrics),
                "lineage": self.lineage(),
            }
            step = trainer.state.best_step if trainer.keep_best else None
            here = self.world == 1 and step in (None, trainer.state.step)
            root, assembly = (self.root, self.assembly) if here else self._load_whole_model(folder, step)
            with folder.finishing(self.result) as place:
                write_model(place, root, assembly, self.corpus, self.recipe, facts, self.ancestors)
        trainer.control.wait()

    def _load_whole_model(self, folder: RunFolder, step: int | None) -> tuple[Any, Assembly]:
        """The model in one piece, from the checkpoint of a step (default the last): training may have sharded it."""
        assembly = self._assemble(folder.path / TOKENIZERS)
        root = self.make_objective(assembly).step()
        found = (
            checkpoint.find_latest(folder.checkpoints)[0]
            if step is None
            else checkpoint.load_step(folder.checkpoints, step)
        )
        assert found is not None, "the last step and the best were saved"
        tensors, _state = checkpoint.load(found, verify=False)
        root.load_state_dict(tensors["model"], strict=assembly.adaptation is None)
        return root, assembly


class NullLog:
    """Stands for the metrics log in processes that write none."""

    def __enter__(self) -> Any:
        return None

    def __exit__(self, *_: object) -> None: ...


def last_validation(metrics: Path) -> dict[str, float]:
    """What a run has measured on held-out text last."""
    found = [record for record in read(metrics)[0] if record.get("split") == "validation"]
    if not found:
        return {}
    told = {
        f"{key.removesuffix('_loss')} {name} loss": one
        for key, each in found[-1].items()
        if isinstance(each, dict)
        for name, one in each.items()
    }
    return {**{key: value for key, value in found[-1].items() if isinstance(value, float)}, **told}
