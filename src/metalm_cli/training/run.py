"""Base class of training runs: open the data, build the model, plan, probe, train, save."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from metalm_cli.common.signals import StopSignals
from metalm_cli.data.sampling.loader import StepRowDataset, loader
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly, build_from_recipe
from metalm_cli.objectives import Objective
from metalm_cli.objectives.base import StepModule
from metalm_cli.provenance.lineage import read_ancestors
from metalm_cli.runs import checkpoint
from metalm_cli.runs.folder import RunFolder
from metalm_cli.runs.metrics_log import (
    MetricsLog,
    NullLog,
    check_trackers,
    last_validation,
    log_to_trackers,
    start_trackers,
)
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
    """Command-line options of a run."""

    name: str
    out: Path | None = None
    resume: bool = False
    dry_run: bool = False
    offline: bool = False
    data_root: Path | None = None


@dataclass
class RunCallbacks:
    """Callbacks that display a run.

    Args:
        show_plan: Displays the plan and the probe's result.
        sample_continuations: Continues validation texts or sessions with the model, for display.
        print_note: Prints a line.
    """

    show_plan: Callable[[RunPlan, ProbeResult | None], None]
    sample_continuations: Callable[[Assembly, list[str | Session]], list[tuple[str, str]]]
    print_note: Callable[[str], None]


class Run(ABC):
    """One run, from its recipe to its model folder.

    The parts of a run (corpus, model, objective, validation rows, plan) are made when they are first read.

    Args:
        recipe: The resolved recipe.
        recipe_yaml: The recipe as YAML, as saved in the run folder.
        options: Command-line options.
        callbacks: Callbacks that display the run.
    """

    def __init__(self, recipe: Any, recipe_yaml: str, options: RunOptions, callbacks: RunCallbacks) -> None:
        self.recipe, self.recipe_yaml, self.options, self.callbacks = recipe, recipe_yaml, options, callbacks
        self.folder: RunFolder | None = None
        self.recipe_changed = False
        check_trackers(recipe.train.trackers, options.offline)
        self.accelerator = make_accelerator(recipe)
        self.num_processes: int = self.accelerator.num_processes
        self.is_main: bool = self.accelerator.is_main_process
        self.shards = self.num_processes if self.accelerator.distributed_type == "FSDP" else 1
        if recipe.train.batch_size % self.num_processes:
            raise MetalmError(
                f"{self.num_processes} processes cannot share a batch of {recipe.train.batch_size} equally",
                where="train.batch_size",
                remedy=f"set it to a multiple of {self.num_processes}",
            )

    # -- preparing ----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def corpus(self) -> Any:
        """The training data; on resume it must be the data that the run started with."""

    @abstractmethod
    def make_objective(self, assembly: Assembly) -> Objective:
        """Make the objective for a model."""

    @property
    @abstractmethod
    def validation_rows(self) -> list[Row]:
        """The validation rows."""

    @property
    @abstractmethod
    def plan(self) -> RunPlan:
        """The plan of the run."""

    @abstractmethod
    def probe_batch(self) -> Batch:
        """Make a micro-batch of the longest rows."""

    @abstractmethod
    def make_dataset(self, trainer: Trainer) -> StepRowDataset:
        """Make the dataset of this process's rows."""

    def preview_texts(self) -> list[str | Session]:
        """Texts or sessions that are continued at each validation, for display."""
        return []

    def lineage(self) -> dict[str, Any]:
        """Entries of the lineage besides the training data."""
        return {}

    @property
    def folder_path(self) -> Path:
        """Path of the run folder, once it is open."""
        assert self.folder is not None
        return self.folder.path

    @property
    def padded_length(self) -> int | None:
        """Padded length of rows; None: the longest row of each micro-batch."""
        return self.recipe.data.sequence_length if self.accelerator.device.type == "cuda" else None

    @cached_property
    def assembly(self) -> Assembly:
        """The model with its tokenizers, which on resume are those of the run."""
        assembly = self._assemble(None if self.folder is None else self.folder.path / TOKENIZERS)
        check_adapter_base(self.folder, assembly)
        return assembly

    def _assemble(self, tokenizers: Path | None) -> Assembly:
        corpus = self.corpus
        return build_from_recipe(
            self.recipe, lambda count: corpus.sample(count, 0), offline=self.options.offline, tokenizers=tokenizers
        )

    @cached_property
    def ancestors(self) -> list[dict[str, Any]]:
        """Lineages of the checkpoints that the run starts from, which the model was built from."""
        return read_ancestors(self.recipe)

    @cached_property
    def objective(self) -> Any:
        """The objective of the run."""
        return self.make_objective(self.assembly)

    @cached_property
    def root(self) -> StepModule:
        """The module that trains, with its initial weights."""
        objective = self.objective
        torch.manual_seed(self.recipe.train.seed)
        return objective.step_module()

    def prepare(self, folder: RunFolder | None = None) -> None:
        """Open the data, build the model, and make the plan.

        Args:
            folder: Folder of the run to resume: its tokenizers are used, and its data must not have changed.
        """
        self.folder = folder
        # Reading the parts makes them; in this order, what takes longer comes later.
        _ = self.corpus, self.assembly, self.ancestors, self.validation_rows, self.root, self.plan
        if self.recipe.train.checkpoint_activations:
            self.assembly.model.gradient_checkpointing_enable()

    def show_plan(self) -> None:
        """Display the plan, then probe a worst-case micro-batch."""
        if self.is_main:
            self.callbacks.show_plan(self.plan, None)
        device = self.accelerator.device
        batch = self.probe_batch
        result = probe(
            self.objective, self.root, self.recipe, device, batch, num_processes=self.num_processes, shards=self.shards
        )
        if self.is_main:
            self.callbacks.show_plan(self.plan, result)

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> Exit:
        """Train into a run folder. A new folder is created after all checks that do not need training.

        Raises:
            MetalmError: See :meth:`Trainer.run`; also if the folder or its checkpoint is unusable.
        """
        options = self.options
        is_new = broadcast_from_rank_zero(lambda: RunFolder.starts_new_run(options.out, options.name, options.resume))
        if is_new:
            self._prepare_and_show(None)
        with self._open_folder() as folder:
            for note in folder.notes:
                self.callbacks.print_note(note)
            checkpoint_path = self._find_checkpoint(folder) if folder.resumed else None
            if not is_new:
                self._prepare_and_show(folder)
            self.folder = folder
            if self.is_main and not folder.recipe.exists():
                write_start(
                    folder, options.name, self.recipe_yaml, str(self.accelerator.device), self.corpus, self.assembly
                )
            elif self.is_main and self.recipe_changed:
                folder.write_text("recipe.yaml", self.recipe_yaml)
            return self._train(folder, checkpoint_path)

    def _prepare_and_show(self, folder: RunFolder | None) -> None:
        self.prepare(folder)
        self.show_plan()

    def _open_folder(self) -> RunFolder:
        """Open the run's folder: rank zero creates and locks it, the other ranks attach to it."""
        options = self.options
        if self.num_processes == 1:
            return RunFolder.create(options.out, options.name, options.resume)
        created: list[RunFolder] = []

        def create() -> tuple[str, bool]:
            created.append(RunFolder.create(options.out, options.name, options.resume))
            return str(created[0].path), created[0].resumed

        path, resumed = broadcast_from_rank_zero(create)
        if created:
            return created[0]
        folder = RunFolder.attach(Path(path))
        folder.resumed = resumed
        return folder

    def _find_checkpoint(self, folder: RunFolder) -> Path | None:
        """Find the checkpoint to resume from; print notes about damaged ones."""
        notes = check_recipe(folder, self.recipe) if folder.recipe.exists() else []
        for note in notes:
            self.callbacks.print_note(note)
        self.recipe_changed = bool(notes)
        self.options.name = recipe_name(folder) or self.options.name
        checkpoint_path, damaged = broadcast_from_rank_zero(lambda: checkpoint.find_latest(folder.checkpoints))
        for damage in damaged:
            self.callbacks.print_note(f"not used: {damage}")
        return checkpoint_path

    def _train(self, folder: RunFolder, checkpoint_path: Path | None) -> Exit:
        recipe = self.recipe
        length = self.padded_length
        if recipe.train.compile:
            compile_layers(self.assembly)
        trainer = Trainer(recipe.train, self.plan.steps, self.objective, self.root, self.accelerator, length)
        rows_per_pass = recipe.train.micro_batch_size or max(1, recipe.train.batch_size // self.num_processes)
        validator = Validator(self.objective, self.validation_rows, rows_per_pass, trainer.collectives)
        if checkpoint_path is not None:
            tensors, state = checkpoint.load(checkpoint_path, verify=False)
            trainer.restore(tensors, state)
            self.callbacks.print_note(f"resumed from {checkpoint_path}")
            if self.is_main and trainer.state.step < self.plan.steps:
                folder.set_result_aside()
            trainer.collectives.barrier()
        if self.is_main:
            checkpoint.remove_interrupted(folder.checkpoints)
        self.accelerator.project_configuration.logging_dir = str(folder.path / "trackers")
        start_trackers(self.accelerator, list(recipe.train.trackers), self.options.name, recipe.model_dump())
        dataset = self.make_dataset(trainer)
        with (
            MetricsLog(folder.metrics) if self.is_main else NullLog() as log,
            make_progress(main=self.is_main) as progress,
        ):
            if self.is_main:
                log.remove_steps_after(trainer.state.step)
            progress.start(self.plan.steps, f"{self.options.name} -> {folder.path}", trainer.state.step)
            callbacks = self._trainer_callbacks(folder, trainer, log, progress, validator)
            with StopSignals() as signals, self._explain_out_of_memory(folder):
                result = trainer.run(loader(dataset, recipe.data.workers), callbacks, signals)
            if result == Exit.DONE:
                self._finish(folder, trainer)
            progress.note(summary(trainer.totals))
            progress.note(
                f"{self.result_name}: {folder.path / self.result_name}"
                if result == Exit.DONE
                else f"stopped; resume with: metalm {recipe.command} --resume --out {folder.path}"
            )
        self.accelerator.end_training()
        return result

    @contextmanager
    def _explain_out_of_memory(self, folder: RunFolder) -> Iterator[None]:
        """Explain lack of memory in training, validation or sampling, which the probe cannot fully predict."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            last_checkpoint, _ = checkpoint.find_latest(folder.checkpoints)
            resume_hint = f"; --resume continues from {last_checkpoint}" if last_checkpoint else ""
            memory = estimate_memory(
                self.recipe, self.assembly, self.objective.extra_parts(self.root), self.num_processes, self.shards
            )
            message = f"memory ran out while training{resume_hint}"
            raise out_of_memory_error(
                self.recipe, first_words_of(error), memory, self.num_processes, message=message, exit_code=Exit.FAILED
            ) from error

    def _trainer_callbacks(
        self, folder: RunFolder, trainer: Trainer, log: Any, progress: Progress, validator: Validator
    ) -> TrainerCallbacks:
        def log_step(record: dict[str, Any]) -> None:
            record = {**record, "memory_bytes": memory_bytes()}
            log_to_trackers(self.accelerator, record)
            if self.is_main:
                progress.step(log.write(record))

        def log_validation(record: dict[str, Any]) -> None:
            log_to_trackers(self.accelerator, record)
            if self.is_main:
                progress.validation(log.write(record), self._sample_continuations())

        def save_checkpoint(tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
            if self.is_main:
                path = checkpoint.save(folder.checkpoints, state["step"], tensors, state)
                checkpoint.remove_old(folder.checkpoints, self.recipe.train.keep_checkpoints, state["best_step"])
                progress.note(f"checkpoint: {path}")

        return TrainerCallbacks(
            log_step, validator, log_validation, save_checkpoint, self.corpus.where, progress.advance
        )

    def _sample_continuations(self) -> list[tuple[str, str]]:
        count = self.recipe.train.sample_continuations
        if not count or self.assembly.is_encoder_only or self.num_processes > 1:
            return []
        return self.callbacks.sample_continuations(self.assembly, self.preview_texts()[:count])

    @property
    def result_name(self) -> str:
        """Name of the run's result: ``model`` or ``adapter``."""
        return "model" if self.assembly.lora_targets is None else "adapter"

    def _finish(self, folder: RunFolder, trainer: Trainer) -> None:
        if self.is_main:
            facts = {
                "name": self.options.name,
                "recipe": self.recipe_yaml,
                "steps": trainer.state.step,
                "best": trainer.state.best_step,
                "tokens": trainer.totals.get("source_tokens", 0),
                "validation": last_validation(folder.metrics),
                "lineage": self.lineage(),
            }
            step = trainer.state.best_step if trainer.keep_best else None
            is_loaded = self.num_processes == 1 and step in (None, trainer.state.step)
            root, assembly = (self.root, self.assembly) if is_loaded else self._load_whole_model(folder, step)
            with folder.write_result(self.result_name) as model_folder:
                write_model(
                    model_folder,
                    self.objective.extra_parts(root),
                    assembly,
                    self.corpus,
                    self.recipe,
                    facts,
                    self.ancestors,
                )
        trainer.collectives.barrier()

    def _load_whole_model(self, folder: RunFolder, step: int | None) -> tuple[Any, Assembly]:
        """Load the unsharded model from the checkpoint of a step (default: the last)."""
        assembly = self._assemble(folder.path / TOKENIZERS)
        root = self.make_objective(assembly).step_module()
        checkpoint_path = (
            checkpoint.find_latest(folder.checkpoints)[0]
            if step is None
            else checkpoint.load_step(folder.checkpoints, step)
        )
        assert checkpoint_path is not None, "the last step and the best step were saved"
        tensors, _state = checkpoint.load(checkpoint_path, verify=False)
        root.load_state_dict(tensors["model"], strict=assembly.lora_targets is None)
        return root, assembly
