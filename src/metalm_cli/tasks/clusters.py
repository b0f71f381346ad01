"""Clusters and leak rules, as data: what must not be trained on when something is held out."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pydantic import Field

from metalm_cli.config.schema.base import Section
from metalm_cli.config.yaml_records import read_record


class TagLeak(Section):
    """Tasks with a tag are kept out of training when one of these clusters is held out, and the reverse."""

    against: list[str] = Field(description="Clusters.")


class Clusters(Section):
    """The clusters, and what leaks into what."""

    clusters: dict[str, str] = Field(description="Title of each cluster by its id.")
    cluster_leaks: list[list[str]] = Field(default=[], description="Groups of clusters that leak into each other.")
    tag_leaks: dict[str, TagLeak] = Field(default={}, description="Tags that leak into clusters.")
    task_leaks: list[list[str]] = Field(
        default=[], description="The first task of each group shares its data with each of the others."
    )
    siblings: dict[str, list[str]] = Field(default={}, description="Parts of one data set.")


@cache
def clusters() -> Clusters:
    """The shipped clusters and leak rules (``tasks/clusters.yaml``)."""
    return read_record(Path(__file__).parent / "clusters.yaml", Clusters, "table of clusters")


def leaking(task: str, cluster: str, tags: Iterable[str], held: dict[str, tuple[str, frozenset[str]]]) -> str | None:
    """Why a task must not be trained on while others are held out; None if it may.

    Args:
        task: The task.
        cluster: Its cluster.
        tags: Its tags.
        held: Cluster and tags of each held-out task.

    Returns:
        ``held out``, ``its cluster leaks into nli``, ``shares data with squad``, ``is a sibling of anli_r1``, ...
    """
    table = clusters()
    if task in held:
        return "held out"
    for other, (its_cluster, its_tags) in held.items():
        if any({cluster, its_cluster} <= set(group) and cluster != its_cluster for group in table.cluster_leaks):
            return f"its cluster leaks into {its_cluster}"
        for tag, rule in table.tag_leaks.items():
            if (tag in tags and its_cluster in rule.against) or (tag in its_tags and cluster in rule.against):
                return f"{tag} leaks into {its_cluster if tag in tags else cluster}"
            if tag in tags and tag in its_tags:
                return f"both are {tag}"
        if any(task in group and other in group and group[0] in (task, other) for group in table.task_leaks):
            return f"shares data with {other}"
        if any(task in group and other in group for group in table.siblings.values()):
            return f"is a sibling of {other}"
    return None
