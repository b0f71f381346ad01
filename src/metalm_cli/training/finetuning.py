"""Runs of ``metalm finetune`` and ``metalm instruct``: training on tasks."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from metalm_cli.common.checkpoints.find import model_folder
from metalm_cli.common.signals import StopSignals
from metalm_cli.config.schema.objectives import Contrastive
from metalm_cli.config.schema.recipes import FinetuneRecipe
from metalm_cli.data.examples.answer_classes import AnswerClasses
from metalm_cli.data.examples.example_slots import ExampleSlotFactory
from metalm_cli.data.examples.pack_examples import RowPacking, TaskSession, pack_sessions
from metalm_cli.data.examples.recipe_check import check_recipe_tasks
from metalm_cli.data.examples.session_writer import SessionBuilder
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import (
    TaskSelection,
    load_cards,
    open_training_tasks,
    validation_examples,
)
from metalm_cli.data.examples.truncation import EncoderLimit, LengthLimits
from metalm_cli.data.sampling.index_plan import key_of, permute
from metalm_cli.data.sampling.loader import StepRowDataset
from metalm_cli.data.sampling.micro_batching import micro_batches_of_step
from metalm_cli.errors import Exit
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.dual_encoder.image_text_pairs import session_tokeniser_of
from metalm_cli.models.encoders import load_tokenizer
from metalm_cli.models.trainable import check_every_encoder_is_used, check_trained_parts_are_used
from metalm_cli.objectives.contrastive import ContrastiveObjective
from metalm_cli.objectives.supervised import SupervisedObjective, TaskName
from metalm_cli.provenance.audit import Audit, apply_audit, audit
from metalm_cli.provenance.generalization_levels import Level, describe_levels, generalization_levels
from metalm_cli.provenance.hold_out_check import reject_trained_on_held_out
from metalm_cli.provenance.lineage import ancestors_and_lineages, read_ancestors
from metalm_cli.provenance.model_history import ModelHistory
from metalm_cli.runs.data_record import check_data
from metalm_cli.runs.folder import RunFolder
from metalm_cli.sessions import Batch, Row, Session
from metalm_cli.tasks import Card, Cards
from metalm_cli.templates import scored_templates
from metalm_cli.training.compute.encoder_caches import RepeatedDocks
from metalm_cli.training.planning.answer_notes import answer_notes
from metalm_cli.training.planning.fit_warnings import fit_warnings
from metalm_cli.training.planning.plan import RunPlan
from metalm_cli.training.planning.task_plan import make_task_plan, row_counts, row_packing_of, sample_sessions
from metalm_cli.training.run import Run
from metalm_cli.training.run_options import RunCallbacks, RunOptions
from metalm_cli.training.run_start import RunStart
from metalm_cli.training.trainer import Trainer

__all__ = ["Finetuning", "RunCallbacks", "RunOptions"]

AUDIT_FILE = "audit.json"
"""File of a run folder with the results of the hold-out audit."""


class TaskValidation(NamedTuple):
    """Validation rows of a task, the classes of their answers, and the session that is continued for display.

    This is the first one without its answer.
    """

    rows: list[Row]
    preview: Session | None
    answer_classes: AnswerClasses


class Finetuning(Run):
    """A run that trains on tasks."""

    recipe: FinetuneRecipe

    @cached_property
    def cards(self) -> Cards:
        """Cards of the tasks."""
        return load_cards(self.recipe.data, self.options.data_root, self.options.offline)

    @cached_property
    def requested_selection(self) -> TaskSelection:
        """The tasks that the recipe names; all that refers to them by name is checked, and no data is read."""
        recipe, cards = self.recipe, self.cards
        selection = check_recipe_tasks(recipe.data, cards)
        reject_trained_on_held_out(selection.held_out, recipe.data.hold_out, self.ancestors, cards)
        return selection

    def _check_start(self) -> None:
        super()._check_start()
        _ = self.requested_selection, self._compared_encoders

    @cached_property
    def ancestors(self) -> list[dict[str, Any]]:
        return read_ancestors(self.recipe, self.options.offline)

    @cached_property
    def base_history(self) -> ModelHistory:
        """What the base model was trained on."""
        return ModelHistory.of(self.ancestors)

    @cached_property
    def _opened_tasks(self) -> tuple[TaskCorpus, TaskSelection]:
        options, recipe = self.options, self.recipe
        return open_training_tasks(
            recipe.data,
            seed=recipe.train.seed,
            data_root=options.data_root,
            offline=options.offline,
            cards=self.cards,
            selection=self.requested_selection,
        )

    @property
    def opened_data(self) -> TaskCorpus:
        return self._opened_tasks[0]

    @property
    def selection(self) -> TaskSelection:
        """The tasks to train on and the held-out ones."""
        return self._opened_tasks[1]

    @cached_property
    def audit(self) -> Audit | None:
        """Result of comparing the training rows with held-out tasks; None if no task is held out."""
        return self.collectives.on_rank_zero(self._run_audit) if self.selection.held_out else None

    def _run_audit(self) -> Audit:
        options = self.options
        corpus, selection = self._opened_tasks
        self.callbacks.print_note("audit: comparing training rows with held-out evaluation rows")
        lineages = [lineage for _, lineage in ancestors_and_lineages(self.ancestors) if lineage is not None]
        return audit(
            corpus, selection.held_out, self.cards, lineages, data_root=options.data_root, offline=options.offline
        )

    @cached_property
    def corpus(self) -> TaskCorpus:
        """The training examples, without those that the audit rejects."""
        corpus, folder = self._opened_tasks[0], self.folder
        if self.audit is not None:
            corpus = apply_audit(corpus, self.audit)
        saved = self.saved_data_record()
        if folder is not None and saved is not None:
            check_data(folder, saved, corpus)
        return corpus

    @cached_property
    def levels(self) -> dict[str, Level]:
        """Generalisation level of each task."""
        trained_on = [*(card.name for card in self.selection.cards), *self.base_history.tasks]
        return generalization_levels(self.cards.all(), trained_on)

    def make_objective(self, assembly: Assembly) -> SupervisedObjective | ContrastiveObjective:
        if isinstance(self.recipe.objective, Contrastive):
            return ContrastiveObjective(assembly)
        tasks = [TaskName(task.card.name, task.card.cluster) for task in self.corpus.tasks]
        objective = SupervisedObjective(assembly, tasks, self.recipe.train.loss_average)
        if self.recipe.train.distill is not None:
            objective.distill(self.recipe.train.distill)
        return objective

    @cached_property
    def packing(self) -> RowPacking:
        """How sessions are packed into rows."""
        packing = row_packing_of(self.recipe, self.assembly, self.accelerator.device)
        return replace(packing, row_format=self.objective.row_format)

    @cached_property
    def session_builder(self) -> SessionBuilder:
        """Builder of the sessions of the training examples."""
        is_taught = self.recipe.train.distill is not None
        assembly = self.assembly
        tokenise = session_tokeniser_of(assembly.decoder_tokenizer, assembly.processors, tokenise_docks=is_taught)
        limits = LengthLimits.of(tokenise, self.recipe.data.sequence_length, self._compared_encoders)
        return SessionBuilder(self.corpus, tokenise, limits)

    @cached_property
    def _compared_encoders(self) -> list[EncoderLimit]:
        """Limits of the encoders of models that the run is compared with."""
        encoders = self.recipe.data.match_input_lengths_of
        folders = [model_folder(encoder.tokenizer, offline=self.options.offline, weights=False) for encoder in encoders]
        return [
            EncoderLimit.of(load_tokenizer(folder), encoder.length)
            for folder, encoder in zip(folders, encoders, strict=True)
        ]

    @cached_property
    def _validation(self) -> dict[int, TaskValidation]:
        examples_by_task = validation_examples(
            self.corpus, data_root=self.options.data_root, offline=self.options.offline
        )
        return {task: self._validation_of(task, examples) for task, examples in examples_by_task.items()}

    @cached_property
    def validation_rows(self) -> list[Row]:
        return [row for validation in self._validation.values() for row in validation.rows]

    def _validation_of(self, task: int, examples: Any) -> TaskValidation:
        """Make validation rows of a task, spread over its split and the same for every seed and compared model."""
        options, training_task = self.recipe.data.validation, self.corpus.tasks[task]
        prompts = self.session_builder.prompts_of(task, scored_templates(training_task.templates)[0])
        num_examples = len(examples)
        keys = np.full(num_examples, key_of("validation", training_task.card.name), dtype=np.uint64)
        rows: list[Row] = []
        preview: Session | None = None
        classes = AnswerClasses()
        num_tokens = 0
        for index in permute(np.arange(num_examples), num_examples, keys).tolist():
            if len(rows) == options.examples:
                break
            example = examples[index]
            fitted = None if example is None or prompts.prompt.is_empty(example) else prompts.fit(example)
            if fitted is None:
                continue
            session = self.session_builder.read(fitted.session)
            if session is None:
                continue
            if not rows:
                preview = Session(list(fitted.session)[:-1], training_task.card.name)
            num_tokens += len(session)
            if rows and options.tokens_per_task is not None and num_tokens > options.tokens_per_task:
                break
            sample = TaskSession(session, task, {"source_tokens": len(session)}, -1)
            rows.append(pack_sessions([sample], self.packing.row_format))
            classes.add(example, training_task.card)
        return TaskValidation(rows, preview, classes)

    def preview_texts(self) -> list[str | Session]:
        return [validation.preview for validation in self._validation.values() if validation.preview is not None]

    @cached_property
    def sampled_sessions(self) -> list[TaskSession]:
        """A sample of the sessions, for the plan and the probe."""
        return sample_sessions(self.session_builder)

    def repeated_docks(self) -> RepeatedDocks:
        rows = sum(task.row_count for task in self.corpus.tasks)
        docks = [dock for sample in self.sampled_sessions for _, dock in sample.tokenised.docks]
        drawn = self.plan.steps * self.recipe.train.batch_size
        return RepeatedDocks(docks, len(docks) / len(self.sampled_sessions) * min(rows, drawn), drawn / max(1, rows))

    @cached_property
    def plan(self) -> RunPlan:
        largest = max((len(validation.rows) for validation in self._validation.values()), default=0)
        plan = make_task_plan(
            self.recipe,
            self.corpus,
            self.selection,
            self.assembly,
            self.sampled_sessions,
            self.packing,
            num_processes=self.num_processes,
            shards=self.shards,
            device=self.accelerator.device,
            validation=(len(self.validation_rows), largest),
        )
        docked = {dock.encoder for sample in self.sampled_sessions for _, dock in sample.tokenised.docks}
        check_trained_parts_are_used(self.assembly.parts(), docked)
        if self.objective.teacher is not None:
            counts = row_counts(self.packing.rows(self.sampled_sessions))
            self.objective.teacher.check_sample(counts["distilled_tokens"], counts["untaught_sessions"])
        if docked:
            templates = (template for task in self.corpus.tasks for template in task.templates)
            docked |= {name for template in templates for part in template.input_parts for name in part.encoders}
            check_every_encoder_is_used(self.assembly.parts(), docked & self.assembly.processors.keys())
        classes = {task: validation.answer_classes for task, validation in self._validation.items()}
        notes = [
            *self.base_history.published_notes(card.name for card in self._selected_cards()),
            *fit_warnings(self.session_builder, self.sampled_sessions),
            *answer_notes(self.corpus, classes, self.assembly.decoder_tokenizer),
        ]
        return self.with_evaluation(replace(plan, notes=(*plan.notes, *notes, *self._hold_out_notes())))

    def _selected_cards(self) -> list[Card]:
        """The cards of the training tasks and of the held-out ones."""
        return [*self.selection.cards, *self.selection.held_out]

    def _hold_out_notes(self) -> list[str]:
        if self.audit is None:
            return []
        unknown = [
            f"the training data of {name} is unknown, because it has no lineage"
            for name in self.base_history.unknown_ancestors
        ]
        unknown += self.base_history.incomplete_notes()
        uses_miniworld = any(card.world is not None for card in self.selection.cards)
        clusters = {card.name: card.cluster for card in self.cards.all() if uses_miniworld or card.world is None}
        return [*self.audit.notes(), *unknown, describe_levels(self.levels, clusters)]

    def probe_batch(self) -> Batch:
        """Make the largest micro-batch of a step with the longest sampled sessions."""
        own_rows = -(-self.recipe.train.batch_size // self.num_processes)
        sessions = sorted(self.sampled_sessions, key=lambda sample: -len(sample.tokenised))[:own_rows]
        rows = self.packing.rows(sessions)
        micro_batches = micro_batches_of_step(
            rows, self.recipe.train.micro_batch_size, self.accelerator.device.type == "cpu"
        )
        sizes = [len(micro_batch) * max(map(len, micro_batch)) for micro_batch in micro_batches]
        return self.objective.collate(micro_batches[sizes.index(max(sizes))])

    @property
    def padded_length(self) -> int | None:
        return super().padded_length if self.packing.pack and not self.packing.one_row else None

    def make_dataset(self, trainer: Trainer) -> StepRowDataset:
        batch_size = self.recipe.train.batch_size
        slots = ExampleSlotFactory(self.session_builder, batch_size, trainer.state.step)
        return StepRowDataset(
            range(self.accelerator.process_index, batch_size, self.num_processes), slots, self.packing.join
        )

    def _train(self, folder: RunFolder, start: RunStart, signals: StopSignals) -> Exit:
        self.collectives.on_rank_zero(lambda: self._write_audit(folder))
        return super()._train(folder, start, signals)

    def _write_audit(self, folder: RunFolder) -> None:
        if self.audit is not None and not (folder.path / AUDIT_FILE).exists():
            folder.write_json(AUDIT_FILE, self.audit.model_dump())

    def lineage(self) -> dict[str, Any]:
        is_contrastive = isinstance(self.recipe.objective, Contrastive)
        return {
            **({"objective": self.recipe.objective.name} if is_contrastive else {}),
            "tasks": [task.card.name for task in self.corpus.tasks],
            "clusters": sorted({task.card.cluster for task in self.corpus.tasks}),
            "templates": {"collection": self.recipe.data.templates.collection, **asdict(self.corpus.style)},
            "held_out": [card.name for card in self.selection.held_out],
            "audits": [self.audit.lineage()] if self.audit is not None else [],
            "levels": self.levels,
        }
