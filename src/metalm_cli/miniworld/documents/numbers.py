"""Documents with numbers in them: counting stories, sums and lists."""

from __future__ import annotations

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.documents.document_writer import DocumentWriter
from metalm_cli.miniworld.documents.people import sentences_about, some_person
from metalm_cli.miniworld.english import PRONOUNS, capitalise, number_with_noun, plural, words
from metalm_cli.miniworld.facts import Fact, Person, product_fact, sum_fact
from metalm_cli.miniworld.world import LARGEST_FACTOR, LARGEST_SUM

_NOUNS = [food.one for food in lex.FOODS if food.one and food.name not in ("potatoes", "tomatoes")] + [
    "stone", "shell", "stamp", "book", "candle", "button", "marble", "leaf", "coin", "flower"
]  # fmt: skip
_NOUNS.remove("leaf")
_HOLDERS = ("box", "basket", "bag", "bowl")


def _sum(draft: DocumentWriter, least: int = 1) -> tuple[int, int, Fact]:
    """Two numbers whose sum documents may state."""
    while True:
        one = draft.dice.between(least, LARGEST_SUM // 2)
        other = draft.dice.between(least, LARGEST_SUM - one)
        fact = sum_fact(one, other)
        if draft.can(fact):
            return one, other, fact


def _product(draft: DocumentWriter) -> tuple[int, int, Fact]:
    while True:
        one, other = draft.dice.between(2, LARGEST_FACTOR), draft.dice.between(2, LARGEST_FACTOR)
        fact = product_fact(one, other)
        if draft.can(fact):
            return one, other, fact


def _two(draft: DocumentWriter) -> tuple[Person, Person]:
    one, other = draft.dice.some(list(draft.world.people.values()), 2)
    return one, other


def counting(draft: DocumentWriter) -> None:
    """One to four short stories whose numbers add up."""
    dice = draft.dice
    for scene in dice.some((_give, _lose, _share, _compare, _boxes, _sums, _give, _lose), dice.pick((1, 2, 2, 3, 4))):
        draft.turn()
        scene(draft)


def _ask(draft: DocumentWriter, question: str, answer: str) -> None:
    if draft.dice.chance(0.6):
        draft.say(question)
        draft.say(answer)
    else:
        draft.say(answer)


def _give(draft: DocumentWriter) -> None:
    one, other = _two(draft)
    first, more, fact = _sum(draft)
    noun = draft.dice.pick(_NOUNS)
    him = PRONOUNS[one.gender]["him"]
    draft.say(f"{one.name} has {number_with_noun(first, noun)}.")
    draft.say(f"{other.name} gives {him} {words(more)} more.")
    draft.facts.append(fact)
    _ask(
        draft,
        f"How many {plural(noun)} does {one.name} have now?",
        draft.dice.pick(
            (
                f"Now {one.name} has {number_with_noun(first + more, noun)}.",
                f"{capitalise(words(first))} and {words(more)} make {words(first + more)}, "
                f"so {one.name} has {number_with_noun(first + more, noun)} now.",
            )
        ),
    )


def _lose(draft: DocumentWriter) -> None:
    person = some_person(draft)
    left, gone, fact = _sum(draft)
    noun = draft.dice.pick(_NOUNS)
    he = PRONOUNS[person.gender]["he"]
    way = draft.dice.pick(("gives away", "loses", "sells"))
    draft.facts.append(fact)
    draft.say(f"{person.name} has {number_with_noun(left + gone, noun)}.")
    draft.say(f"On the way home {he} {way} {words(gone)} of them.")
    _ask(
        draft,
        f"How many {plural(noun)} are left?",
        draft.dice.pick(
            (
                f"Now {he} has only {number_with_noun(left, noun)}.",
                f"{capitalise(words(left + gone))} minus {words(gone)} is {words(left)}.",
            )
        ),
    )


def _share(draft: DocumentWriter) -> None:
    friends, each, fact = _product(draft)
    noun, person = draft.dice.pick(_NOUNS), some_person(draft)
    draft.facts.append(fact)
    draft.say(f"{person.name} wants to share {number_with_noun(friends * each, noun)} with {words(friends)} children.")
    _ask(
        draft,
        f"How many {plural(noun)} does every child get?",
        f"Every child gets {number_with_noun(each, noun)}, because {words(friends)} times {words(each)} "
        f"is {words(friends * each)}.",
    )


def _compare(draft: DocumentWriter) -> None:
    one, other = _two(draft)
    less, more, fact = _sum(draft)
    noun = draft.dice.pick(_NOUNS)
    draft.facts.append(fact)
    draft.say(
        f"{one.name} finds {number_with_noun(less, noun)}, "
        f"and {other.name} finds {number_with_noun(less + more, noun)}."
    )
    _ask(
        draft,
        f"Who finds more {plural(noun)}?",
        f"{other.name} finds {words(more)} more than {one.name}.",
    )


def _boxes(draft: DocumentWriter) -> None:
    count, each, fact = _product(draft)
    noun, holder = draft.dice.pick(_NOUNS), draft.dice.pick(_HOLDERS)
    person = some_person(draft)
    draft.facts.append(fact)
    draft.say(
        f"{person.name} has {number_with_noun(count, holder)} with {number_with_noun(each, noun)} in each of them."
    )
    _ask(
        draft,
        f"How many {plural(noun)} is that in all?",
        f"{capitalise(words(count))} times {words(each)} is {words(count * each)}, "
        f"so there are {number_with_noun(count * each, noun)}.",
    )


def _sums(draft: DocumentWriter) -> None:
    dice = draft.dice
    draft.say(dice.pick(("Here are some sums.", "Let us do some sums.", "These sums are easy.")))
    for _ in range(dice.between(2, 5)):
        if dice.chance(0.7):
            one, other, fact = _sum(draft)
            form = dice.pick(("{a} + {b} = {c}.", "{c} - {a} = {b}.", "{A} and {B_} make {C_}."))
        else:
            one, other, fact = _product(draft)
            form = dice.pick(("{a} times {b} is {c}.", "{A} times {B_} is {C_}."))
        value = int(fact.value)
        draft.say(
            form.format(a=one, b=other, c=value, A=capitalise(words(one)), B_=words(other), C_=words(value)), fact
        )


def addition_text(draft: DocumentWriter, person: Person) -> None:
    """Two purchases of a person, and how much they are together."""
    one, other, fact = _sum(draft)
    noun = draft.dice.pick(_NOUNS)
    he = PRONOUNS[person.gender]["he"]
    draft.facts.append(fact)
    draft.say(f"First {he} takes {number_with_noun(one, noun)} and then {words(other)} more.")
    draft.say(f"That makes {number_with_noun(one + other, noun)} in all.")


def lists(draft: DocumentWriter) -> None:
    """A list with a heading and a last sentence that counts or explains it."""
    draft.joint = "\n"
    draft.dice.pick((_shopping, _packing, _order, _pets, _jobs))(draft)


def _bullets(draft: DocumentWriter, items: list[str]) -> None:
    mark = draft.dice.pick(("- ", "* ", ""))
    for place, item in enumerate(items, 1):
        draft.line(f"{mark or f'{place}. '}{item}")


def _shopping(draft: DocumentWriter) -> None:
    person, dice = some_person(draft), draft.dice
    foods = dice.some([food for food in lex.FOODS if food.name != person.dislikes], dice.between(3, 8))
    items = [number_with_noun(dice.between(2, 12), food.one) if food.one else f"some {food.name}" for food in foods]
    draft.say(dice.pick((f"{person.name}'s shopping list:", f"{person.name} needs these things from the market:")))
    _bullets(draft, items)
    draft.line(
        dice.pick(
            (
                f"There are {words(len(items))} things on the list.",
                f"{person.name} has {words(len(items))} things to buy.",
            )
        )
    )
    for fact in dice.some(sentences_about(draft, person, ("likes", "dislikes")), dice.between(0, 2)):
        draft.tell(fact)
    for food in dice.some(foods, dice.between(0, 3)):
        draft.tell(draft.world.query(dice.pick(("origin", "taste")), food.name)[0])


def _packing(draft: DocumentWriter) -> None:
    person, dice = some_person(draft), draft.dice
    tools = dice.some(lex.THINGS, dice.between(3, 6))
    goal = dice.pick(list(draft.world.towns.values()))
    draft.say(f"{person.name} is going to visit {goal.name} and packs these things:")
    _bullets(draft, [f"a {tool.name}" if tool.name[0] not in "aeiou" else f"an {tool.name}" for tool in tools])
    draft.turn()
    draft.say(f"That makes {words(len(tools))} things.")
    for tool in dice.some(tools, dice.between(1, 4)):
        draft.tell(draft.world.query("used_to", tool.name)[0])
    draft.tell(Fact("terrain", goal.name, goal.terrain))


def _order(draft: DocumentWriter) -> None:
    dice = draft.dice
    relation, names, what, whole = dice.pick(
        (("next_day", lex.DAYS, "days", "week"), ("next_month", lex.MONTHS, "months", "year"))
    )
    draft.say(f"The {what} of the {whole} are:")
    _bullets(draft, list(names))
    draft.turn()
    draft.say(f"There are {words(len(names))} {what} in a {whole}.")
    for place in dice.some(range(len(names)), dice.between(1, 5)):
        one, two = names[place], names[(place + 1) % len(names)]
        draft.say(dice.pick((f"After {one} comes {two}.", f"{one} comes before {two}.")), Fact(relation, one, two))


def _pets(draft: DocumentWriter) -> None:
    dice, world = draft.dice, draft.world
    draft.say("Some pets and the people they belong to:")
    pets = dice.some(list(world.pets.values()), dice.between(3, 6))
    items = []
    for pet in pets:
        draft.facts += [Fact("has_pet", pet.owner, pet.name), Fact("pet_kind", pet.name, pet.kind)]
        items.append(f"{pet.name}, the {pet.kind} of {pet.owner}")
    _bullets(draft, items)
    draft.turn()
    draft.say(f"These are {words(len(pets))} pets.")
    for pet in dice.some(pets, dice.between(1, 3)):
        if not draft.tell(Fact("pet_colour", pet.name, pet.colour)):
            draft.tell(world.query("legs", pet.kind)[0])


def _jobs(draft: DocumentWriter) -> None:
    dice, world = draft.dice, draft.world
    people = dice.some([person for person in world.people.values() if person.job], dice.between(3, 6))
    draft.say("Names and jobs:")
    draft.facts += [Fact("job", person.name, person.job) for person in people]
    _bullets(draft, [f"{person.full_name}, {person.job}" for person in people])
    draft.turn()
    draft.say(f"There are {words(len(people))} names on this list.")
    for person in dice.some(people, dice.between(1, 3)):
        draft.tell(dice.pick(world.query("job_does", person.job) + world.query("job_place", person.job)))
