"""The endless shelf: document number i of a seed, written from the facts of that seed's world."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from metalm_cli.errors import MetalmError
from metalm_cli.miniworld.documents.chronicle import chronicle
from metalm_cli.miniworld.documents.document_writer import DocumentWriter
from metalm_cli.miniworld.documents.lessons import dictionary_entry, howto, questions
from metalm_cli.miniworld.documents.numbers import counting, lists
from metalm_cli.miniworld.documents.people import family, portrait
from metalm_cli.miniworld.documents.places import directions, notice, place
from metalm_cli.miniworld.documents.stories import day, dialogue, letter
from metalm_cli.miniworld.facts import Fact
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.world import World, world_of

KINDS: dict[str, tuple[Callable[[DocumentWriter], None], int]] = {
    "portrait": (portrait, 14),
    "family": (family, 7),
    "place": (place, 9),
    "directions": (directions, 4),
    "notice": (notice, 5),
    "day": (day, 12),
    "dialogue": (dialogue, 10),
    "letter": (letter, 8),
    "howto": (howto, 7),
    "counting": (counting, 8),
    "list": (lists, 6),
    "questions": (questions, 11),
    "entry": (dictionary_entry, 10),
    "chronicle": (chronicle, 9),
}
"""Each kind of document, with the function that writes it and its weight."""

SHORTEST = 25
"""Words below which a document goes on with another piece of its kind."""

_LOTS = tuple(kind for kind, (_, weight) in KINDS.items() for _ in range(weight))


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document with the facts that it states, in order."""

    text: str
    kind: str
    facts: tuple[Fact, ...]


def render(seed: int, index: int) -> Rendered:
    """Write document ``index`` of a seed; a pure function of the two.

    Raises:
        MetalmError: If the seed is no integer of at least 0.
    """
    dice = SeededRandom(seed, "document", index)
    kind = dice.pick(_LOTS)
    draft = DocumentWriter(world_of(seed), dice)
    write = KINDS[kind][0]
    write(draft)
    while draft.size() < SHORTEST:
        draft.turn()
        write(draft)
    return Rendered(draft.text(), kind, tuple(draft.facts))


class Documents(Sequence[dict[str, Any]]):
    """Rows ``{"text", "meta": {"pile_set_name": "World", "kind"}}``; any row is written without the others.

    Copies in other processes carry only count and seed.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise MetalmError(
                "the number of documents must be an integer of at least 1", where="documents", why=f"got {count!r}"
            )
        self._count = count
        self.seed = seed
        self.world: World = world_of(seed)

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
            return [self[place] for place in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"document {index} of {self._count}")
        rendered = render(self.seed, index % self._count)
        return {"text": rendered.text, "meta": {"pile_set_name": "World", "kind": rendered.kind}}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(self._count))


def miniworld_documents(count: int, seed: int = 0) -> Documents:
    """Documents 0 to ``count - 1`` of a seed's world, in the form of rows of the Pile.

    Args:
        count: At least 1.
        seed: At least 0; another seed is another world.

    Raises:
        MetalmError: If an argument is out of range or no integer.
    """
    return Documents(count, seed)
