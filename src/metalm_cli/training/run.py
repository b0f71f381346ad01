"""Base class of training runs: open the data, build the model, plan, probe, train, save."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from metalm_cli.common.signals import StopSignals
from metalm_cli.data.sampling.loader import StepRowDataset, loader
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly, build_from_recipe
from metalm_cli.objectives import Objective
from metalm_cli.objectives.base import StepModule
from metalm_cli.provenance.lineage import pretrained_parts, read_ancestors
from metalm_cli.runs import checkpoint
from metalm_cli.runs.data_record import DataRecord, data_record, read_data_record
from metalm_cli.runs.folder import RunFolder
from metalm_cli.runs.metrics_log import check_trackers, end_trackers, start_trackers
from metalm_cli.runs.resume_check import recipe_record
from metalm_cli.sessions import Batch, Row, Session
from metalm_cli.training.compute import encoder_caches
from metalm_cli.training.compute.fast_layers import compile_layers, use_fast_attention
from metalm_cli.training.compute.frozen_weights import FrozenWeights, frozen_weights, hold_frozen_weights
from metalm_cli.training.distributed.accelerator import connect_processes, make_accelerator
from metalm_cli.training.distributed.equal_processes import (
    check_equal_data,
    check_equal_models,
    check_equal_recipes,
    text_sample,
)
from metalm_cli.training.planning.memory import MemoryEstimate, estimate_memory, explain_out_of_memory
from metalm_cli.training.planning.plan import RunPlan
from metalm_cli.training.planning.plan_display import is_warning
from metalm_cli.training.planning.probe import probe
from metalm_cli.training.progress import make_progress
from metalm_cli.training.run_options import RunCallbacks, RunOptions
from metalm_cli.training.run_result import write_result
from metalm_cli.training.run_start import (
    TOKENIZERS,
    RunStart,
    check_adapter_base,
    describe_end,
    describe_interrupt,
    find_start,
    open_log,
    write_start,
)
from metalm_cli.training.step_metrics import summary
from metalm_cli.training.task_evaluation.evaluated_tasks import EvaluatedTasks, RequestedTasks, select_evaluated_tasks
from metalm_cli.training.task_evaluation.run_tasks import make_task_evaluator, open_tasks_of_run, plan_with_evaluation
from metalm_cli.training.task_evaluation.task_evaluator import TaskEvaluator
from metalm_cli.training.trainer import Trainer
from metalm_cli.training.trainer_callbacks import make_trainer_callbacks
from metalm_cli.training.validation.make_validator import make_validator


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
        self.cached_encoders: dict[str, encoder_caches.CacheChoice] = {}
        self.collectives = connect_processes()
        self.num_processes: int = self.collectives.num_processes
        with self.collectives.explain_lost_process():
            check_equal_recipes(self.collectives, recipe_record(recipe), options.resume, options.dry_run)
            self.collectives.run_together(self._check_start)
        self.accelerator = make_accelerator(recipe)
        self.is_main: bool = self.accelerator.is_main_process
        self.shards = self.num_processes if self.accelerator.distributed_type == "FSDP" else 1

    def _check_start(self) -> None:
        check_trackers(self.recipe.train.trackers, self.options.offline)
        _ = self.requested_tasks
        if self.recipe.train.batch_size % self.num_processes:
            raise MetalmError(
                f"{self.num_processes} processes cannot share a batch of {self.recipe.train.batch_size} equally",
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

    def repeated_docks(self) -> encoder_caches.RepeatedDocks:
        """The docks that the run reads again and again; none if each step docks new contents."""
        return encoder_caches.RepeatedDocks()

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
    def requested_tasks(self) -> RequestedTasks | None:
        """Tasks of ``train.evaluate``, selected by name."""
        return select_evaluated_tasks(self.recipe)

    @cached_property
    def evaluated_tasks(self) -> EvaluatedTasks | None:
        """Tasks of ``train.evaluate``, opened and checked."""
        if self.requested_tasks is None:
            return None
        return open_tasks_of_run(self, self.requested_tasks)

    @cached_property
    def task_evaluator(self) -> TaskEvaluator | None:
        """Evaluation of the model on tasks during training."""
        if self.evaluated_tasks is None:
            return None
        return make_task_evaluator(self, self.evaluated_tasks)

    def with_evaluation(self, plan: RunPlan) -> RunPlan:
        """The plan with notes about the evaluation on tasks, which must not begin after the last step."""
        return plan if self.evaluated_tasks is None else plan_with_evaluation(plan, self.recipe, self.evaluated_tasks)

    @cached_property
    def assembly(self) -> Assembly:
        """The model with its tokenizers, which on resume are those of the run."""
        assembly = self.assemble(None if self.folder is None else self.folder.path / TOKENIZERS)
        check_adapter_base(self.folder, assembly)
        return assembly

    def assemble(self, tokenizers: Path | None) -> Assembly:
        """Build the model, with the tokenizers of a folder if they are there."""
        sample = partial(self.corpus.sample, seed=0)
        stage = self.options.stage
        inherited = None if stage is None else stage.inherited
        settings: dict[str, Any] = {"offline": self.options.offline, "tokenizers": tokenizers, "inherited": inherited}
        assembly = build_from_recipe(self.recipe, sample, **settings)
        if stage is not None and not stage.is_last and assembly.lora_targets is not None:
            assembly.lora_targets = replace(assembly.lora_targets, merges=True)
        use_fast_attention(assembly, self.recipe, self.accelerator.device)
        return assembly

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

    @cached_property
    def frozen_weights(self) -> FrozenWeights:
        """The weights that do not train, which the training loop holds in the compute dtype."""
        return FrozenWeights(self.root, frozen_weights(self.recipe, self.assembly.parts(), self.shards))

    def prepare(self, folder: RunFolder | None = None) -> None:
        """Open the data, build the model, and make the plan.

        Args:
            folder: Folder of the run to resume: its tokenizers are used, and its data must not have changed.
        """
        self.folder = folder
        data = self.collectives.run_together(lambda: self.opened_data)
        if self.num_processes > 1:
            sample = self.collectives.run_together(lambda: text_sample(self.sample_texts()))
            check_equal_data(self.collectives, data_record(data), sample)
        self.collectives.run_together(self._make_parts)
        check_equal_models(self.collectives, self.assembly, dict(self.root.named_parameters()))
        if self.recipe.train.checkpoint_activations:
            self.assembly.model.gradient_checkpointing_enable()

    @property
    def opened_data(self) -> Any:
        """The training data as it was opened, which needs no other process."""
        return self.corpus

    def sample_texts(self) -> Iterable[str]:
        """Texts by which the processes compare streams, whose files have no hash."""
        return ()

    def _make_parts(self) -> None:
        # Reading the parts makes them; in this order, what takes longer comes later.
        _, assembly = self.corpus, self.assembly
        assembly.use_pretrained_rates(pretrained_parts(self.ancestors, assembly.parts()), self.recipe.train)
        _ = self.evaluated_tasks, self.validation_rows, self.root, self.plan

    def saved_data_record(self) -> DataRecord | None:
        """Record of the data that the run started with; None for a new run."""
        if self.folder is None or not self.folder.recipe.exists():
            return None
        record = read_data_record(self.folder)
        if record is None:
            self.callbacks.print_note("the run has no record of its data (data.json), so the data is not compared")
        return record

    def _prepare_and_show(self, folder: RunFolder | None) -> None:
        """Prepare the run, display its plan, then probe a worst-case micro-batch."""
        self.prepare(folder)
        if self.is_main:
            self.callbacks.show_plan(self.plan, None)
        arguments = self.objective, self.root, self.recipe, self.accelerator.device, self.probe_batch
        with self.frozen_weights.held_in_memory():
            result = self.collectives.run_together(
                lambda: probe(*arguments, num_processes=self.num_processes, shards=self.shards)
            )
            self.cached_encoders = self.collectives.on_rank_zero(lambda: encoder_caches.choose(self, folder))
        result = replace(result, notes=(*result.notes, *map(str, self.cached_encoders.values())))
        if self.is_main:
            self.callbacks.show_plan(self.plan, result)

    def dry_run(self) -> None:
        """Check the run, and display its plan and the probe, without training.

        Raises:
            MetalmError: The run cannot start, also because its folder holds another one.
        """
        with self.collectives.explain_lost_process():
            self.collectives.on_rank_zero(
                lambda: RunFolder.starts_new_run(self.options.out, self.options.name, resume=False)
            )
            self._prepare_and_show(None)

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, signals: StopSignals) -> Exit:
        """Train into a run folder. A new folder is created after all checks that do not need training.

        Args:
            signals: Stop signals, deferred in the training loop and while the result is written.

        Raises:
            MetalmError: See :meth:`Trainer.run`; also if the folder or its checkpoint is unusable, or another process
                has ended.
        """
        options = self.options
        with self.collectives.explain_lost_process():
            is_new = self.collectives.on_rank_zero(
                lambda: RunFolder.starts_new_run(options.out, options.name, options.resume)
            )
            if is_new:
                self._prepare_and_show(None)
            with self._open_folder() as folder:
                for note in folder.notes:
                    self.callbacks.print_note(note)
                try:
                    return self._run_in(folder, is_new, signals)
                except KeyboardInterrupt:
                    self.callbacks.print_note(describe_interrupt(self, folder))
                    return Exit.STOPPED

    def _run_in(self, folder: RunFolder, is_new: bool, signals: StopSignals) -> Exit:
        start = find_start(self, folder) if folder.resumed else RunStart()
        if not is_new:
            self._prepare_and_show(folder)
        self.folder = folder
        device = str(self.accelerator.device)
        self.collectives.on_rank_zero(lambda: write_start(self, folder, device))
        return self._train(folder, start, signals)

    def _open_folder(self) -> RunFolder:
        """Open the run's folder: rank zero creates and locks it, the other ranks attach to it."""
        options = self.options
        created: list[RunFolder] = []

        def create() -> tuple[str, bool]:
            created.append(RunFolder.create(options.out, options.name, options.resume))
            return str(created[0].path), created[0].resumed

        path, resumed = self.collectives.on_rank_zero(create)
        if created:
            return created[0]
        folder = RunFolder.attach(Path(path))
        folder.resumed = resumed
        return folder

    def _train(self, folder: RunFolder, start: RunStart, signals: StopSignals) -> Exit:
        recipe, steps, length = self.recipe, self.plan.steps, self.padded_length
        if recipe.train.compile:
            compile_layers(self.assembly)
        trainer = Trainer(recipe.train, steps, self.objective, self.root, self.accelerator, length, self.collectives)
        validator = make_validator(trainer, self.validation_rows)
        if start.checkpoint is not None:
            self.collectives.run_together(lambda: start.restore(trainer))
            self.callbacks.print_note(f"resumed from {start.checkpoint}")
        self.collectives.on_rank_zero(lambda: start.clean_up(folder, trainer.state.step, steps))
        self.accelerator.project_configuration.logging_dir = str(folder.path / "trackers")
        start_trackers(self.accelerator, list(recipe.train.trackers), self.options.name, recipe.model_dump())
        dataset = self.make_dataset(trainer)
        with (
            open_log(self, folder, trainer.state.step) as log,
            make_progress(main=self.is_main) as progress,
            hold_frozen_weights(self, folder),
            encoder_caches.hold(self, folder, progress.note),
        ):
            progress.start(steps, f"{self.options.name} -> {folder.path}", trainer.state.step)
            for note in (*filter(is_warning, self.plan.notes), *validator.notes):
                progress.note(note)
            callbacks = make_trainer_callbacks(self, folder, log, progress, validator)
            with signals.deferred():
                with explain_out_of_memory(recipe, self.num_processes, lambda: self._describe_memory(folder)):
                    result = trainer.run(loader(dataset, recipe.data.workers), callbacks, signals)
                if result == Exit.DONE:
                    for note in self.collectives.on_rank_zero(lambda: write_result(self, folder, trainer, log)):
                        progress.note(note)
                progress.note(summary(trainer.totals))
                progress.note(describe_end(self, folder, result))
        end_trackers(self.accelerator)
        return result

    def _describe_memory(self, folder: RunFolder) -> tuple[MemoryEstimate, str]:
        """Estimate of the memory, and the checkpoint from which the run can be resumed."""
        extra_parts = self.objective.extra_parts(self.root)
        memory = estimate_memory(self.recipe, self.assembly, extra_parts, self.num_processes, self.shards)
        last_checkpoint, _ = checkpoint.find_latest(folder.checkpoints)
        return memory, f"; --resume continues from {last_checkpoint}" if last_checkpoint else ""

    @property
    def result_name(self) -> str:
        """Name of the run's result: ``model`` or ``adapter``."""
        return "adapter" if self.assembly.writes_adapter else "model"
