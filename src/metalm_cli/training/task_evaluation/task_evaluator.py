"""Evaluation of the trained model on tasks, between two steps."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import nn

from metalm_cli.evaluation.results.schema import TaskRecord
from metalm_cli.inference import LanguageModel
from metalm_cli.inference.loading import language_model_of
from metalm_cli.models.assembly import Assembly
from metalm_cli.training.distributed.collectives import Collectives
from metalm_cli.training.distributed.state_dict import gather_model
from metalm_cli.training.task_evaluation.evaluated_tasks import EvaluatedTasks
from metalm_cli.training.task_evaluation.unchanged_training import unchanged_training


def evaluated_model(assembly: Assembly) -> LanguageModel:
    """Return the model of an assembly as it is loaded after it was saved: it ends texts with its document end alone."""
    tokenizer = copy(assembly.decoder_tokenizer)
    tokenizer.end_ids = frozenset((tokenizer.document_end_id,))
    return language_model_of(assembly.model, tokenizer, assembly.processors)


class TaskEvaluator:
    """Evaluator of a run's model on the tasks of ``train.evaluate``; a call changes nothing of the training.

    The processes share the tasks, each of which one process evaluates as a single process would, so that the scores are
    the same for any number of processes. Of a sharded model, rank zero evaluates a copy.

    Args:
        tasks: The tasks.
        assembly: The trained model.
        root: Its step module.
        collectives: The processes of the run.
        make_copy: Makes an assembly and its step module, whose weights a call replaces; None: the model is not sharded.
    """

    def __init__(
        self,
        tasks: EvaluatedTasks,
        assembly: Assembly,
        root: nn.Module,
        collectives: Collectives,
        make_copy: Callable[[], tuple[Assembly, nn.Module]] | None = None,
    ) -> None:
        self.tasks, self.assembly, self.root, self.collectives = tasks, assembly, root, collectives
        self.make_copy = make_copy
        self._copy: tuple[Assembly, nn.Module] | None = None

    def __call__(self, on_progress: Callable[[str], None] = lambda text: None) -> dict[str, float]:
        """Evaluate the model.

        Args:
            on_progress: Called with a progress message of this process.

        Returns:
            Scores by name, 0 to 100, the same in all processes.

        Raises:
            MetalmError: A task cannot be evaluated.
        """
        tensors = None if self.make_copy is None else gather_model(self.root, keep=self.collectives.rank == 0)
        shares = self.collectives.gather_patiently(lambda: self._evaluate_share(tensors, on_progress))
        records = {name: record for share in shares for name, record in share.items()}
        opened = self.tasks.opened
        in_order = {task.card.name: records[task.card.name] for task in opened.tasks}
        return opened.named_scores(in_order)

    def _evaluate_share(
        self, tensors: dict[str, torch.Tensor] | None, on_progress: Callable[[str], None]
    ) -> dict[str, TaskRecord]:
        """Evaluate the tasks of this process."""
        rank, num_processes = self.collectives.rank, self.collectives.num_processes
        if tensors is None:
            indices, assembly = range(rank, len(self.tasks.opened.tasks), num_processes), self.assembly
        else:
            indices = range(len(self.tasks.opened.tasks) if rank == 0 else 0)
            assembly = self._copy_with(tensors) if rank == 0 else self.assembly
        if not indices:
            return {}
        device = next(self.assembly.model.parameters()).device
        with unchanged_training(assembly.model):
            if tensors is not None:
                assembly.model.to(device)
            try:
                return self.tasks.records(evaluated_model(assembly), indices, on_progress)
            finally:
                if tensors is not None:
                    assembly.model.to("cpu")
                if device.type == "cuda":
                    torch.cuda.empty_cache()

    def _copy_with(self, tensors: dict[str, Any]) -> Assembly:
        """Return the copy of the model with these weights; it is made once."""
        if self._copy is None:
            assert self.make_copy is not None
            self._copy = self.make_copy()
        assembly, root = self._copy
        root.load_state_dict(tensors, strict=assembly.lora_targets is None)
        return assembly
