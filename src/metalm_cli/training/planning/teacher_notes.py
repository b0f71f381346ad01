"""Notes of a plan on the teacher of a run: what it reads, what that costs, and what it cannot read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.models.assembly import Assembly
from metalm_cli.training.planning.memory import human_bytes, rows_per_micro_batch, teacher_bytes


def teacher_notes(recipe: Recipe, assembly: Assembly, counts: Mapping[str, int], num_processes: int) -> Iterator[str]:
    """Yield the notes; none without a teacher.

    Args:
        recipe: The recipe.
        assembly: The model.
        counts: Sums of the counters of sampled rows; ``positions`` are those of the decoder.
        num_processes: Processes that share a batch.
    """
    options = recipe.train.distill
    if options is None:
        return
    share = counts.get("teacher_positions", 0) / max(1, counts.get("positions", 0))
    positions = rows_per_micro_batch(recipe, num_processes) * recipe.data.sequence_length
    memory = human_bytes(teacher_bytes(recipe, assembly, positions))
    adapters = " without its adapters" if options.teacher == "base" else ""
    yield (
        f"teacher: the decoder{adapters} reads the docks as text in a further forward pass without gradient, "
        f"{share:.2f} positions for each position of the run's own pass; about {memory}, in activations"
    )
    tokens = counts.get("distilled_tokens", 0) / max(1, counts.get("trained_tokens", 0))
    yield f"teacher: {tokens:.0%} of the trained tokens follow a dock that it reads; they weigh {options.weight:g}"
    untaught = counts.get("untaught_sessions", 0)
    if untaught:
        limit = assembly.model.max_positions
        yield (
            f"teacher: {untaught:,} sampled sessions have none: as text they are longer than the {limit} positions "
            "that the decoder reads, or a dock is not a text; they train with the usual loss alone"
        )
