"""``metalm finetune`` and ``metalm instruct``: a run on tasks."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.common.hub import model_folder
from metalm_cli.config.schema.recipes import FinetuneRecipe
from metalm_cli.data.examples.fit_prompt import build_session
from metalm_cli.data.examples.pack_examples import TaskSession, pack_sessions
from metalm_cli.data.examples.session_writer import SessionBuilder
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_lanes import ExampleSlotFactory
from metalm_cli.data.examples.task_selection import (
    TaskSelection,
    load_cards,
    open_training_tasks,
    select_tasks,
    validation_examples,
)
from metalm_cli.data.examples.truncation import EncoderLimit, LengthLimits
from metalm_cli.data.sampling.index_plan import key_of, permute
from metalm_cli.data.sampling.loader import StepRowDataset
from metalm_cli.data.sampling.micro_batching import micro_batches_of_step
from metalm_cli.errors import Exit
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.encoders import load_tokenizer
from metalm_cli.objectives.supervised import SupervisedObjective, TaskName
from metalm_cli.provenance.audit import Audit, apply_audit, audit
from metalm_cli.provenance.generalization_levels import describe_levels, generalization_levels
from metalm_cli.provenance.hold_out_check import (
    ancestors_and_lineages,
    ancestors_without_lineage,
    reject_trained_on_held_out,
    tasks_trained_on,
)
from metalm_cli.provenance.lineage import read_ancestors
from metalm_cli.runs.data_record import check_data, read_data_record
from metalm_cli.runs.folder import RunFolder
from metalm_cli.sessions import Batch, Row, Session, SessionTokeniser
from metalm_cli.tasks import Cards
from metalm_cli.templates import scorable
from metalm_cli.training.distributed.rank_zero import broadcast_from_rank_zero
from metalm_cli.training.planning.plan import RunPlan
from metalm_cli.training.planning.task_plan import layout_of, make_task_plan, sample_sessions
from metalm_cli.training.run import Run, RunCallbacks, RunOptions
from metalm_cli.training.trainer import Trainer

__all__ = ["Finetuning", "RunCallbacks", "RunOptions"]

AUDIT = "audit.json"
"""File of a run folder that tells what the audit of the hold-out found."""


class Finetuning(Run):
    """A run that trains on tasks."""

    recipe: FinetuneRecipe
    corpus: TaskCorpus
    objective: SupervisedObjective
    chosen: TaskSelection
    audit: Audit | None
    """What was compared with what is held out; None where nothing is."""

    def open(self, folder: RunFolder | None) -> TaskCorpus:
        options, recipe = self.options, self.recipe
        cards = load_cards(recipe.data)
        self.base = read_ancestors(recipe, options.offline)
        reject_trained_on_held_out(select_tasks(recipe.data, cards).held_out, recipe.data.hold_out, self.base, cards)
        corpus, self.chosen = open_training_tasks(
            recipe.data, seed=recipe.train.seed, data_root=options.data_root, offline=options.offline
        )
        self.audit = broadcast_from_rank_zero(lambda: self._audited(corpus, cards)) if self.chosen.held_out else None
        if self.audit is not None:
            apply_audit(corpus, self.audit)
        self.levels = generalization_levels(
            cards.all(), [*(card.name for card in self.chosen.cards), *tasks_trained_on(self.base)]
        )
        worlds = any(card.world is not None for card in self.chosen.cards)
        self.clusters = {card.name: card.cluster for card in cards.all() if worlds or card.world is None}
        saved = read_data_record(folder) if folder is not None and folder.recipe.exists() else None
        if folder is not None and saved is not None:
            check_data(folder, saved, corpus)
        return corpus

    def _audited(self, corpus: TaskCorpus, cards: Cards) -> Audit:
        options = self.options
        self.views.note("audit: comparing training rows with held-out evaluation rows")
        read = [lineage for _, lineage in ancestors_and_lineages(self.base) if lineage is not None]
        return audit(corpus, self.chosen.held_out, cards, read, data_root=options.data_root, offline=options.offline)

    def make_objective(self, assembly: Assembly) -> SupervisedObjective:
        tasks = [TaskName(task.card.name, task.card.cluster) for task in self.corpus.tasks]
        self.writer = self._writer(assembly)
        self.layout = layout_of(self.recipe, assembly, self.accelerator.device)
        return SupervisedObjective(assembly, tasks, self.recipe.train.loss_average)

    def _writer(self, assembly: Assembly) -> SessionBuilder:
        tokenise = SessionTokeniser(assembly.decoder_tokenizer, assembly.processors)
        also = [
            EncoderLimit.of(self._tokenizer(one.tokenizer), one.length)
            for one in self.recipe.data.match_input_lengths_of
        ]
        return SessionBuilder(self.corpus, tokenise, LengthLimits.of(tokenise, self.recipe.data.sequence_length, also))

    def _tokenizer(self, name: str) -> Any:
        return load_tokenizer(model_folder(name, offline=self.options.offline, weights=False))

    def read_validation(self) -> list[Row]:
        found = validation_examples(self.corpus, data_root=self.options.data_root, offline=self.options.offline)
        self.validated: dict[str, int] = {}
        self.asked: list[Session] = []
        rows: list[Row] = []
        for task, examples in found.items():
            made = self._validation_of(task, examples)
            self.validated[self.corpus.tasks[task].card.name] = len(made)
            rows += made
        return rows

    def _validation_of(self, task: int, examples: Any) -> list[Row]:
        """Validation rows of a task: the same for every seed and every arm; spread over the split."""
        options, opened = self.recipe.data.validation, self.corpus.tasks[task]
        template = scorable(opened.templates)[0]
        size = len(examples)
        keys = np.full(size, key_of("validation", opened.card.name), dtype=np.uint64)
        rows: list[Row] = []
        used = 0
        for index in permute(np.arange(size), size, keys).tolist():
            if len(rows) == options.examples:
                break
            example = examples[index]
            if example is None:
                continue
            style, limits = self.corpus.style, self.writer.limits
            fits = build_session(opened.card, example, template, (), style, self.writer.delimiter, limits)
            if fits is None:
                continue
            if not rows:
                self.asked.append(Session(list(fits[0])[:-1], opened.card.name))
            session = self.writer.tokenise(fits[0], require_targets=True)
            used += len(session)
            if rows and options.tokens_per_task is not None and used > options.tokens_per_task:
                break
            rows.append(pack_sessions([TaskSession(session, task, {"source_tokens": len(session)}, -1)]))
        return rows

    def preview_texts(self) -> list[str | Session]:
        return list(self.asked)

    def make_plan(self) -> RunPlan:
        self.sampled = sample_sessions(self.writer)
        plan = make_task_plan(
            self.recipe,
            self.corpus,
            self.chosen,
            self.assembly,
            self.sampled,
            self.layout,
            world=self.world,
            shards=self.shards,
            device=self.accelerator.device,
            validation=(len(self.validation_rows), max(self.validated.values(), default=0)),
        )
        return replace(plan, notes=(*plan.notes, *self._hold_out_notes()))

    def _hold_out_notes(self) -> list[str]:
        if self.audit is None:
            return []
        unknown = [
            f"nobody can tell what {name} has seen: it has no lineage" for name in ancestors_without_lineage(self.base)
        ]
        return [*self.audit.notes(), *unknown, describe_levels(self.levels, self.clusters)]

    def probe_batch(self) -> Batch:
        """The largest pass of a step of the sample's longest sessions."""
        own = -(-self.recipe.train.batch_size // self.world)
        sessions = sorted(self.sampled, key=lambda one: -len(one.session))[:own]
        rows = self.layout.rows(sessions)
        parts = micro_batches_of_step(rows, self.recipe.train.micro_batch_size, self.accelerator.device.type == "cpu")
        sizes = [len(part) * max(map(len, part)) for part in parts]
        return self.objective.collate(parts[sizes.index(max(sizes))])

    @property
    def padded_length(self) -> int | None:
        return super().padded_length if self.layout.pack else None

    def stream(self, trainer: Trainer) -> StepRowDataset:
        batch = self.recipe.train.batch_size
        lanes = ExampleSlotFactory(self.writer, batch, trainer.state.lanes)
        return StepRowDataset(range(self.accelerator.process_index, batch, self.world), lanes, self.layout.join)

    def _train(self, folder: RunFolder, found: Path | None) -> Exit:
        if self.main and self.audit is not None and not (folder.path / AUDIT).exists():
            folder.write_json(AUDIT, self.audit.model_dump())
        return super()._train(folder, found)

    def lineage(self) -> dict[str, Any]:
        return {
            "tasks": [task.card.name for task in self.corpus.tasks],
            "clusters": sorted({task.card.cluster for task in self.corpus.tasks}),
            "templates": {"collection": self.recipe.data.templates.collection, **asdict(self.corpus.style)},
            "held_out": [card.name for card in self.chosen.held_out],
            "audits": [self.audit.lineage()] if self.audit is not None else [],
            "levels": self.levels,
        }
