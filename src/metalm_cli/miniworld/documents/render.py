"""Generator of documents: document ``index`` of a seed states facts of that seed's world."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from metalm_cli.errors import MetalmError
from metalm_cli.miniworld.documents.chronicle import write_chronicle
from metalm_cli.miniworld.documents.document_writer import DocumentWriter
from metalm_cli.miniworld.documents.lessons import write_dictionary_entry, write_howto, write_questions
from metalm_cli.miniworld.documents.numbers import write_counting_stories, write_list
from metalm_cli.miniworld.documents.people import write_family, write_portrait
from metalm_cli.miniworld.documents.places import write_directions, write_notice, write_place
from metalm_cli.miniworld.documents.stories import write_day, write_dialogue, write_letter
from metalm_cli.miniworld.facts import Fact
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.world import World, get_world

DOCUMENT_KINDS: dict[str, tuple[Callable[[DocumentWriter], None], int]] = {
    "portrait": (write_portrait, 14),
    "family": (write_family, 7),
    "place": (write_place, 9),
    "directions": (write_directions, 4),
    "notice": (write_notice, 5),
    "day": (write_day, 12),
    "dialogue": (write_dialogue, 10),
    "letter": (write_letter, 8),
    "howto": (write_howto, 7),
    "counting": (write_counting_stories, 8),
    "list": (write_list, 6),
    "questions": (write_questions, 11),
    "entry": (write_dictionary_entry, 10),
    "chronicle": (write_chronicle, 9),
}
"""Function that writes each kind of document, and the weight of the kind."""

MIN_WORDS = 25
"""Minimum number of words; a shorter document is continued with another piece of its kind."""

_WEIGHTED_KINDS = tuple(kind for kind, (_, weight) in DOCUMENT_KINDS.items() for _ in range(weight))


@dataclass(frozen=True, slots=True)
class GeneratedDocument:
    """A document with the facts that it states, in order."""

    text: str
    kind: str
    facts: tuple[Fact, ...]


def generate_document(seed: int, index: int) -> GeneratedDocument:
    """Write document ``index`` of a seed; the result depends on nothing else.

    Raises:
        MetalmError: The seed is not an integer of at least 0.
    """
    rng = SeededRandom(seed, "document", index)
    kind = rng.choice(_WEIGHTED_KINDS)
    writer = DocumentWriter(get_world(seed), rng)
    write = DOCUMENT_KINDS[kind][0]
    write(writer)
    while writer.word_count() < MIN_WORDS:
        writer.start_paragraph()
        write(writer)
    return GeneratedDocument(writer.text(), kind, tuple(writer.facts))


class Documents(Sequence[dict[str, Any]]):
    """Rows ``{"text", "meta": {"pile_set_name": "World", "kind"}}``, each generated on access.

    Pickled copies contain only the count and the seed.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise MetalmError(
                "the number of documents must be an integer of at least 1", where="documents", why=f"got {count!r}"
            )
        self._count = count
        self.seed = seed
        self.world: World = get_world(seed)

    def __reduce__(self) -> tuple[type[Documents], tuple[int, int]]:
        return Documents, (self._count, self.seed)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"document {index} is out of the range of {self._count}")
        document = generate_document(self.seed, index % self._count)
        return {"text": document.text, "meta": {"pile_set_name": "World", "kind": document.kind}}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(self._count))


def miniworld_documents(count: int, seed: int = 0) -> Documents:
    """Return documents 0 to ``count - 1`` of a seed's world, in the format of the Pile's rows.

    Args:
        count: At least 1.
        seed: At least 0; each seed gives a different world.

    Raises:
        MetalmError: An argument is out of range or not an integer.
    """
    return Documents(count, seed)
