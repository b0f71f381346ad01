"""Sentiment: diary entries or reviews about a visit, with praise and criticism, also negated and mixed."""

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
    """An aspect that visitors judge: its name and number, and adjectives of praise and of criticism."""

    name: str
    good: tuple[str, ...]
    bad: tuple[str, ...]
    is_plural: bool = False

    @property
    def copula(self) -> str:
        return "were" if self.is_plural else "was"


_PEOPLE = (("friendly", "helpful", "polite"), ("rude", "unfriendly", "bored"))
_FOOD = (("fresh", "delicious", "tasty"), ("bad", "awful", "tasteless"))
_ROOM = (("clean", "bright", "warm"), ("dirty", "dark", "cold"))
_BATH = (("clean", "warm"), ("dirty", "cold"))
_TOWELS = (("clean", "soft", "dry"), ("dirty", "torn", "wet"))
_SHOW = (("funny", "exciting", "wonderful"), ("boring", "dull", "terrible"))
_CHAIRS = (("comfortable", "soft"), ("uncomfortable", "broken"))
_GARDEN = (("lovely", "well kept"), ("ugly", "badly kept"))

ASPECTS: dict[str, tuple[Aspect, ...]] = {
    "bakery": (Aspect("bread", *_FOOD), Aspect("cakes", *_FOOD, is_plural=True), Aspect("baker", *_PEOPLE)),
    "inn": (Aspect("soup", *_FOOD), Aspect("rooms", *_ROOM, is_plural=True), Aspect("cook", *_PEOPLE)),
    "theatre": (Aspect("play", *_SHOW), Aspect("seats", *_CHAIRS, is_plural=True), Aspect("music", *_SHOW)),
    "museum": (Aspect("rooms", *_ROOM, is_plural=True), Aspect("guide", *_PEOPLE), Aspect("tour", *_SHOW)),
    "library": (
        Aspect("reading room", *_ROOM),
        Aspect("chairs", *_CHAIRS, is_plural=True),
        Aspect("librarian", *_PEOPLE),
    ),
    "market": (Aspect("fruit", *_FOOD), Aspect("sellers", *_PEOPLE, is_plural=True), Aspect("cheese", *_FOOD)),
    "garden": (Aspect("flower beds", *_GARDEN, is_plural=True), Aspect("gardener", *_PEOPLE), Aspect("lawn", *_GARDEN)),
    "station": (
        Aspect("waiting room", *_ROOM),
        Aspect("driver", *_PEOPLE),
        Aspect("benches", *_CHAIRS, is_plural=True),
    ),
    "bathhouse": (Aspect("bath", *_BATH), Aspect("towels", *_TOWELS, is_plural=True), Aspect("owner", *_PEOPLE)),
}
"""Aspects of each kind of place."""

_OPENINGS = (
    "On {day} I went to the {kind} in {town}.",
    "{day}: a visit to the {kind} in {town} with {friend}.",
    "Last {day} {friend} and I were at the {kind} in {town}.",
    "We spent {day} afternoon at the {kind} in {town}.",
    "{friend} took me to the {kind} in {town}.",
    "This is about the {kind} in {town}.",
)
_GOOD_ENDINGS = (
    "I want to come back soon",
    "I will tell all my friends to go there",
    "it was a very good day",
    "I can only praise this place",
    "I am glad that I went",
    "we liked it a lot",
)
_BAD_ENDINGS = (
    "I do not want to come back",
    "I will tell all my friends not to go there",
    "it was not a good day",
    "I cannot praise this place",
    "I am sorry that I went",
    "we did not like it at all",
)


def make_review_rows(world: World, rng: SeededRandom) -> RowGroup:
    """Make two rows: a positive and a negative review of the same visit."""
    people: list[Person] = list(world.people.values())
    friend, town, kind = rng.choice(people), rng.choice(tuple(world.towns)), rng.choice(tuple(ASPECTS))
    day = rng.choice(lex.DAYS)
    opening = rng.choice(_OPENINGS).format(day=day, kind=kind, town=town, friend=friend.name)
    first_aspect, second_aspect = rng.sample(ASPECTS[kind], 2)
    write_review = rng.choice(
        (
            _write_plain_review,
            _write_plain_review,
            _write_denying_review,
            _write_denying_review,
            _write_mixed_review,
            _write_mixed_review,
            _write_surprised_review,
        )
    )
    ending = rng.randbelow(len(_GOOD_ENDINGS))
    rows = []
    for is_good in (True, False):
        label = "positive" if is_good else "negative"
        rows.append(
            {"text": f"{opening} {write_review(rng, first_aspect, second_aspect, is_good, ending)}", "label": label}
        )
    return (town, kind, day, friend.name), rows


def _write_judgement(rng: SeededRandom, aspect: Aspect, is_good: bool) -> str:
    """Write a clause that praises or criticises an aspect."""
    adjective = rng.choice(aspect.good if is_good else aspect.bad)
    return rng.choice((f"the {aspect.name} {aspect.copula} {adjective}", f"I found the {aspect.name} {adjective}"))


def _write_denial(rng: SeededRandom, aspect: Aspect, is_good: bool) -> str:
    """Write a clause that praises by negating criticism, or the reverse."""
    adjective = rng.choice(aspect.bad if is_good else aspect.good)
    noun = "bad" if is_good else "good"
    return rng.choice(
        (
            f"the {aspect.name} {aspect.copula} not {adjective}",
            f"I did not find the {aspect.name} {adjective}",
            f"nobody could say that the {aspect.name} {aspect.copula} {adjective}",
            f"there was nothing {noun} about the {aspect.name}",
        )
    )


def _write_plain_review(
    rng: SeededRandom, first_aspect: Aspect, second_aspect: Aspect, is_good: bool, ending: int
) -> str:
    first, second = _write_judgement(rng, first_aspect, is_good), _write_judgement(rng, second_aspect, is_good)
    if rng.chance(0.4):
        return f"{capitalise(first)}, and {second}."
    return f"{capitalise(first)}, and {second}. {capitalise(_ending(is_good, ending))}."


def _write_denying_review(
    rng: SeededRandom, first_aspect: Aspect, second_aspect: Aspect, is_good: bool, ending: int
) -> str:
    clauses = [
        _write_denial(rng, first_aspect, is_good),
        (_write_denial if rng.chance(0.3) else _write_judgement)(rng, second_aspect, is_good),
    ]
    first, second = rng.shuffled(clauses)
    if rng.chance(0.5):
        return f"{capitalise(first)}, and {second}."
    return f"{capitalise(first)}, and {second}. {capitalise(_ending(is_good, ending))}."


def _write_mixed_review(
    rng: SeededRandom, first_aspect: Aspect, second_aspect: Aspect, is_good: bool, ending: int
) -> str:
    """Write praise and criticism; the concluding clause determines the label."""
    concession, verdict = (
        _write_judgement(rng, first_aspect, not is_good),
        _write_judgement(rng, second_aspect, is_good),
    )
    form = rng.choice(
        (
            "{A}, but {f}, and so {e}.",
            "Although {a}, {f}. All in all, {e}.",
            "{A}. Still, {f}, and in the end {e}.",
            "{F}. It is true that {a}, but {e}.",
        )
    )
    return form.format(
        a=concession, A=capitalise(concession), f=verdict, F=capitalise(verdict), e=_ending(is_good, ending)
    )


def _write_surprised_review(
    rng: SeededRandom, first_aspect: Aspect, second_aspect: Aspect, is_good: bool, ending: int
) -> str:
    """Write that an opinion heard beforehand is wrong."""
    adjective = rng.choice(first_aspect.bad if is_good else first_aspect.good)
    claim = f"People had told me that the {first_aspect.name} {first_aspect.copula} {adjective}, but that is not true."
    return f"{claim} {capitalise(_write_judgement(rng, second_aspect, is_good))}, and {_ending(is_good, ending)}."


def _ending(is_good: bool, index: int) -> str:
    return (_GOOD_ENDINGS if is_good else _BAD_ENDINGS)[index]
