"""Sentiment: lines of a diary or a review about a visit, with praise and blame, denied and mixed."""

from __future__ import annotations

from dataclasses import dataclass

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.english import capitalise
from metalm_cli.miniworld.facts import Person
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.splits import RowGroup
from metalm_cli.miniworld.world import World


@dataclass(frozen=True, slots=True)
class Aspect:
    """Something that visitors judge: its name, whether it is in the plural, and words of praise and of blame."""

    name: str
    good: tuple[str, ...]
    bad: tuple[str, ...]
    many: bool = False

    @property
    def was(self) -> str:
        return "were" if self.many else "was"


_PEOPLE = (("friendly", "helpful", "polite"), ("rude", "unfriendly", "bored"))
_FOOD = (("fresh", "delicious", "tasty"), ("bad", "awful", "tasteless"))
_ROOM = (("clean", "bright", "warm"), ("dirty", "dark", "cold"))
_BATH = (("clean", "warm"), ("dirty", "cold"))
_TOWELS = (("clean", "soft", "dry"), ("dirty", "torn", "wet"))
_SHOW = (("funny", "exciting", "wonderful"), ("boring", "dull", "terrible"))
_CHAIRS = (("comfortable", "soft"), ("uncomfortable", "broken"))
_GREEN = (("lovely", "well kept"), ("ugly", "badly kept"))

ASPECTS: dict[str, tuple[Aspect, ...]] = {
    "bakery": (Aspect("bread", *_FOOD), Aspect("cakes", *_FOOD, many=True), Aspect("baker", *_PEOPLE)),
    "inn": (Aspect("soup", *_FOOD), Aspect("rooms", *_ROOM, many=True), Aspect("cook", *_PEOPLE)),
    "theatre": (Aspect("play", *_SHOW), Aspect("seats", *_CHAIRS, many=True), Aspect("music", *_SHOW)),
    "museum": (Aspect("rooms", *_ROOM, many=True), Aspect("guide", *_PEOPLE), Aspect("tour", *_SHOW)),
    "library": (Aspect("reading room", *_ROOM), Aspect("chairs", *_CHAIRS, many=True), Aspect("librarian", *_PEOPLE)),
    "market": (Aspect("fruit", *_FOOD), Aspect("sellers", *_PEOPLE, many=True), Aspect("cheese", *_FOOD)),
    "garden": (Aspect("flower beds", *_GREEN, many=True), Aspect("gardener", *_PEOPLE), Aspect("lawn", *_GREEN)),
    "station": (Aspect("waiting room", *_ROOM), Aspect("driver", *_PEOPLE), Aspect("benches", *_CHAIRS, many=True)),
    "bathhouse": (Aspect("bath", *_BATH), Aspect("towels", *_TOWELS, many=True), Aspect("owner", *_PEOPLE)),
}
"""What there is to judge at each kind of place."""

_OPENINGS = (
    "On {day} I went to the {kind} in {town}.",
    "{day}: a visit to the {kind} in {town} with {friend}.",
    "Last {day} {friend} and I were at the {kind} in {town}.",
    "We spent {day} afternoon at the {kind} in {town}.",
    "{friend} took me to the {kind} in {town}.",
    "This is about the {kind} in {town}.",
)
_GOOD_ENDS = (
    "I want to come back soon",
    "I will tell all my friends to go there",
    "it was a very good day",
    "I can only praise this place",
    "I am glad that I went",
    "we liked it a lot",
)
_BAD_ENDS = (
    "I do not want to come back",
    "I will tell all my friends not to go there",
    "it was not a good day",
    "I cannot praise this place",
    "I am sorry that I went",
    "we did not like it at all",
)


def reviews(world: World, dice: SeededRandom) -> RowGroup:
    """Two reviews of one place by one person, one positive and one negative."""
    people: list[Person] = list(world.people.values())
    friend, town, kind = dice.pick(people), dice.pick(tuple(world.towns)), dice.pick(tuple(ASPECTS))
    day = dice.pick(lex.DAYS)
    opening = dice.pick(_OPENINGS).format(day=day, kind=kind, town=town, friend=friend.name)
    one, two = dice.some(ASPECTS[kind], 2)
    write = dice.pick((_plain, _plain, _denied, _denied, _mixed, _mixed, _surprised))
    end = dice.below(len(_GOOD_ENDS))
    rows = []
    for good in (True, False):
        label = "positive" if good else "negative"
        rows.append({"text": f"{opening} {write(dice, one, two, good, end)}", "label": label})
    return (town, kind, day, friend.name), rows


def _says(dice: SeededRandom, aspect: Aspect, good: bool) -> str:
    """A clause that praises or blames."""
    word = dice.pick(aspect.good if good else aspect.bad)
    return dice.pick((f"the {aspect.name} {aspect.was} {word}", f"I found the {aspect.name} {word}"))


def _denies(dice: SeededRandom, aspect: Aspect, good: bool) -> str:
    """A clause that praises by denying blame, or the reverse."""
    word = dice.pick(aspect.bad if good else aspect.good)
    thing = "bad" if good else "good"
    return dice.pick(
        (
            f"the {aspect.name} {aspect.was} not {word}",
            f"I did not find the {aspect.name} {word}",
            f"nobody could say that the {aspect.name} {aspect.was} {word}",
            f"there was nothing {thing} about the {aspect.name}",
        )
    )


def _plain(dice: SeededRandom, one: Aspect, two: Aspect, good: bool, end: int) -> str:
    first, second = _says(dice, one, good), _says(dice, two, good)
    if dice.chance(0.4):
        return f"{capitalise(first)}, and {second}."
    return f"{capitalise(first)}, and {second}. {capitalise(_end(good, end))}."


def _denied(dice: SeededRandom, one: Aspect, two: Aspect, good: bool, end: int) -> str:
    clauses = [_denies(dice, one, good), (_denies if dice.chance(0.3) else _says)(dice, two, good)]
    first, second = dice.shuffled(clauses)
    if dice.chance(0.5):
        return f"{capitalise(first)}, and {second}."
    return f"{capitalise(first)}, and {second}. {capitalise(_end(good, end))}."


def _mixed(dice: SeededRandom, one: Aspect, two: Aspect, good: bool, end: int) -> str:
    """Praise and blame; what is said after all decides."""
    against, for_it = _says(dice, one, not good), _says(dice, two, good)
    form = dice.pick(
        (
            "{A}, but {f}, and so {e}.",
            "Although {a}, {f}. All in all, {e}.",
            "{A}. Still, {f}, and in the end {e}.",
            "{F}. It is true that {a}, but {e}.",
        )
    )
    return form.format(a=against, A=capitalise(against), f=for_it, F=capitalise(for_it), e=_end(good, end))


def _surprised(dice: SeededRandom, one: Aspect, two: Aspect, good: bool, end: int) -> str:
    """What people had said beforehand turns out to be wrong."""
    word = dice.pick(one.bad if good else one.good)
    claim = f"People had told me that the {one.name} {one.was} {word}, but that is not true."
    return f"{claim} {capitalise(_says(dice, two, good))}, and {_end(good, end)}."


def _end(good: bool, end: int) -> str:
    return (_GOOD_ENDS if good else _BAD_ENDS)[end]
