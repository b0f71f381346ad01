"""Mixing rates: the share of each task among the examples that are drawn."""

from __future__ import annotations

from collections.abc import Mapping

from metalm_cli.config.schema.tasks import MixtureConfig, MixtureGroup
from metalm_cli.errors import MetalmError


def mixing_rates(examples: Mapping[str, int], mixture: MixtureConfig, clusters: Mapping[str, str]) -> dict[str, float]:
    """Share of each task among the drawn examples (T5, arXiv 1910.10683, section 3.5.2; FLAN, arXiv 2109.01652).

    The rate of a task is ``min(examples, cap, maximum rate) ** (1 / temperature)``: the cap is applied before the
    temperature.

    Args:
        examples: Training examples of each task.
        mixture: The recipe's ``data.mixture``.
        clusters: Cluster of each task, for groups.

    Returns:
        Shares that sum to 1, in the order of the tasks, without tasks that are in no group or have no explicit weight.

    Raises:
        MetalmError: A weight or a group names an unknown task, or a group repeats a task.

    Example:
        >>> from metalm_cli.config.schema.tasks import MixtureConfig
        >>> mixing_rates({"a": 1_000_000, "b": 500}, MixtureConfig(max_rate=3000), {})
        {'a': 0.8571428571428571, 'b': 0.14285714285714285}
    """
    if mixture.groups:
        return _group_rates(examples, mixture, clusters)
    if mixture.strategy == "explicit":
        rates = {task: mixture.weights[task] for task in examples if mixture.weights.get(task, 0) > 0}
        unknown = sorted(set(mixture.weights) - set(examples))
        if unknown or not rates:
            raise MetalmError(
                f"the weights of the mixture do not match the tasks: {', '.join(unknown) or 'no task has a weight'}",
                where="data.mixture.weights",
                why=f"the tasks are {', '.join(examples)}",
                remedy="give weights to tasks that the run trains on",
            )
    else:
        rates = {task: scaled_rate(count, mixture) for task, count in examples.items()}
    return _normalised(rates)


def scaled_rate(count: int, mixture: MixtureConfig) -> float:
    """Rate of a task with ``count`` examples, before normalisation."""
    if mixture.strategy == "equal":
        return 1.0
    limits = [limit for limit in (mixture.cap_examples, mixture.max_rate) if limit is not None]
    return float(min([count, *limits]) ** (1 / mixture.temperature))


def _group_rates(examples: Mapping[str, int], mixture: MixtureConfig, clusters: Mapping[str, str]) -> dict[str, float]:
    rates: dict[str, float] = {}
    for group in mixture.groups:
        members = [task for task in examples if task in group.tasks or clusters.get(task) in group.tasks]
        _check_group(group, members, rates)
        group_mixture = mixture.model_copy(update={"strategy": group.strategy, "groups": []})
        shares = _normalised({task: scaled_rate(examples[task], group_mixture) for task in members})
        rates.update({task: share * group.weight for task, share in shares.items()})
    return _normalised({task: rates[task] for task in examples if task in rates})


def _check_group(group: MixtureGroup, members: list[str], rates: Mapping[str, float]) -> None:
    repeated = [task for task in members if task in rates]
    if not members or repeated:
        raise MetalmError(
            f"a group of the mixture {'contains ' + ', '.join(repeated) + ' again' if repeated else 'is empty'}",
            where=f"data.mixture.groups: {', '.join(group.tasks)}",
            remedy="put each task into one group; groups hold tasks or clusters that the run trains on",
        )


def _normalised(rates: Mapping[str, float]) -> dict[str, float]:
    total = sum(rates.values())
    return {task: rate / total for task, rate in rates.items()}
