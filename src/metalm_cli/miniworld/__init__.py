"""The embedded miniature world: a seeded generator of consistent facts and plain English documents about them."""

from metalm_cli.miniworld.documents.render import Documents, Rendered, miniworld_documents, render
from metalm_cli.miniworld.facts import RELATIONS, Belonging, Building, Event, Fact, Family, Person, Pet, Relation, Town
from metalm_cli.miniworld.world import World, world_of

__all__ = [
    "RELATIONS",
    "Belonging",
    "Building",
    "Documents",
    "Event",
    "Fact",
    "Family",
    "Person",
    "Pet",
    "Relation",
    "Rendered",
    "Town",
    "World",
    "miniworld_documents",
    "render",
    "world_of",
]
