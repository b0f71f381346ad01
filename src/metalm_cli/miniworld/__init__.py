"""The embedded miniature world: a seeded generator of consistent facts and plain English documents about them."""

from metalm_cli.miniworld.documents.render import Documents, GeneratedDocument, generate_document, miniworld_documents
from metalm_cli.miniworld.facts import RELATIONS, Belonging, Building, Event, Fact, Family, Person, Pet, Relation, Town
from metalm_cli.miniworld.world import World, get_world

__all__ = [
    "RELATIONS",
    "Belonging",
    "Building",
    "Documents",
    "Event",
    "Fact",
    "Family",
    "GeneratedDocument",
    "Person",
    "Pet",
    "Relation",
    "Town",
    "World",
    "generate_document",
    "get_world",
    "miniworld_documents",
]
