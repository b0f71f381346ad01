"""Runs of ``metalm pretrain``: training on documents."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.data import Corpus, open_corpus
from metalm_cli.data.documents.document_slots import RowSlotFactory
from metalm_cli.data.sampling.loader import StepRowDataset
from metalm_cli.models.assembly import Assembly
from metalm_cli.objectives import DocumentObjective, make_objective
from metalm_cli.runs.data_record import check_data, pinned_revisions
from metalm_cli.sessions import Batch, Row, Session
from metalm_cli.training.distributed.equal_processes import SAMPLE_TEXTS
from metalm_cli.training.planning.memory import rows_per_micro_batch
from metalm_cli.training.planning.plan import RunPlan, make_plan
from metalm_cli.training.planning.probe import probe_batch
from metalm_cli.training.run import Run
from metalm_cli.training.run_options import RunCallbacks, RunOptions
from metalm_cli.training.trainer import Trainer

__all__ = ["Pretraining", "RunCallbacks", "RunOptions"]


class Pretraining(Run):
    """A run that trains on documents."""

    recipe: PretrainRecipe

    @cached_property
    def corpus(self) -> Corpus:
        options, folder = self.options, self.folder
        saved = self.saved_data_record()
        corpus = open_corpus(
            pinned_revisions(self.recipe.data, saved),
            seed=self.recipe.train.seed,
            data_root=options.data_root,
            offline=options.offline,
        )
        if folder is not None and saved is not None:
            check_data(folder, saved, corpus)
        return corpus

    def sample_texts(self) -> Iterable[str]:
        is_streamed = any(info.streamed for info in self.corpus.sources)
        return self.corpus.sample(SAMPLE_TEXTS, 0) if is_streamed else ()

    def make_objective(self, assembly: Assembly) -> DocumentObjective:
        return make_objective(self.recipe, assembly)

    @cached_property
    def held_out(self) -> list[str]:
        """Texts of the validation documents."""
        return [document.text for document in self.corpus.validation()]

    @cached_property
    def validation_rows(self) -> list[Row]:
        return self.objective.validation_rows(self.recipe.data, self.held_out)

    @cached_property
    def plan(self) -> RunPlan:
        plan = make_plan(
            self.recipe,
            self.corpus,
            self.assembly,
            self.objective,
            num_processes=self.num_processes,
            steps=self.recipe.train.steps,
            root=self.root,
            device=self.accelerator.device,
            validation=(len(self.held_out), len(self.validation_rows)),
            shards=self.shards,
        )
        self.objective.check_sample(plan.sample_stats.counts)
        return self.with_evaluation(plan)

    def probe_batch(self) -> Batch:
        return probe_batch(self.objective, self.recipe, rows_per_micro_batch(self.recipe, self.num_processes))

    def make_dataset(self, trainer: Trainer) -> StepRowDataset:
        batch_size = self.recipe.train.batch_size
        writer = self.objective.writer(self.recipe.data, self.recipe.train.seed)
        slots = RowSlotFactory(self.corpus, writer, batch_size, trainer.state.lanes)
        return StepRowDataset(range(self.accelerator.process_index, batch_size, self.num_processes), slots)

    def preview_texts(self) -> list[str | Session]:
        return list(self.held_out)
