"""Clusters and leak rules: which tasks must not be trained on while others are held out."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pydantic import Field

from metalm_cli.config.schema.base import Section
from metalm_cli.config.yaml_records import read_record


class TagLeak(Section):
    """Leak rule of a tag: tasks with it must not train while one of these clusters is held out, and vice versa."""

    against: list[str] = Field(description="Clusters that tasks with the tag leak into.")


class ClusterTable(Section):
    """Clusters, and rules on which tasks leak into which."""

    clusters: dict[str, str] = Field(description="Title of each cluster, by id.")
    cluster_leaks: list[list[str]] = Field(default=[], description="Groups of clusters that leak into each other.")
    tag_leaks: dict[str, TagLeak] = Field(default={}, description="Leak rule of each tag.")
    task_leaks: list[list[str]] = Field(
        default=[], description="Groups of tasks; the first task of a group shares data with each of the others."
    )
    siblings: dict[str, list[str]] = Field(
        default={}, description="Groups of tasks that are parts of the same data set."
    )


@cache
def read_clusters() -> ClusterTable:
    """Read the shipped clusters and leak rules (``tasks/clusters.yaml``)."""
    return read_record(Path(__file__).parent / "clusters.yaml", ClusterTable, "table of clusters")


def leak_reason(
    task: str, cluster: str, tags: Iterable[str], held_out: dict[str, tuple[str, frozenset[str]]]
) -> str | None:
    """Return why a task must not be trained on while others are held out; None if it may.

    Args:
        task: Name of the task.
        cluster: Cluster of the task.
        tags: Tags of the task.
        held_out: Cluster and tags of each held-out task.

    Returns:
        ``held out``, ``its cluster leaks into nli``, ``shares data with squad``, ``is a sibling of anli_r1``, ...
    """
    table = read_clusters()
    if task in held_out:
        return "held out"
    for other, (other_cluster, other_tags) in held_out.items():
        if any({cluster, other_cluster} <= set(group) and cluster != other_cluster for group in table.cluster_leaks):
            return f"its cluster leaks into {other_cluster}"
        for tag, rule in table.tag_leaks.items():
            if (tag in tags and other_cluster in rule.against) or (tag in other_tags and cluster in rule.against):
                return f"{tag} leaks into {other_cluster if tag in tags else cluster}"
            if tag in tags and tag in other_tags:
                return f"both are {tag}"
        if any(task in group and other in group and group[0] in (task, other) for group in table.task_leaks):
            return f"shares data with {other}"
        if any(task in group and other in group for group in table.siblings.values()):
            return f"is a sibling of {other}"
    return None
